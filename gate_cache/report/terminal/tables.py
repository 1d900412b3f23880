"""Reports as tables on the terminal (rich)."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gate_cache.store.places.disk import human

if TYPE_CHECKING:
    from pathlib import Path

    from gate_cache.extraction.extract import Extracted
    from gate_cache.extraction.layers import ModelMaps
    from gate_cache.extraction.plan import Line, Plan
    from gate_cache.extraction.status import Status
    from gate_cache.learn.metrics.results import ScoreTable
    from gate_cache.learn.metrics.results import Table as Results
    from gate_cache.store.check.inspect import GroupReport, StoreReport
    from gate_cache.training.train import TrainedRun

PLAIN_WIDTH = 110
SHOWN = (0.05, 0.1)
"""PCK's α that fit on a line; metrics.json has all."""


def console() -> Console:
    """stdout; a fixed width where it is no terminal, so that tables can be compared."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, soft_wrap=False,
                   highlight=False)


def say(out: Console, line: str, style: str | None = None) -> None:
    """One line as it is: no markup, no folding, so that paths can be copied."""
    out.print(line, markup=False, style=style, soft_wrap=True)


def grid(*columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right",
                         overflow="fold" if i < left else "ellipsis")
    return table


def shape(dims: Any) -> str:
    """``640×64×64``."""
    return "×".join(str(d) for d in dims)


def show_plan(plan: Plan) -> None:
    """Passes, bytes and files of an extraction."""
    out = console()
    say(out, f"{plan.images} images at {plan.size} px, model {plan.model}", "bold")
    table = grid("group", "maps", "UNet passes", "ControlNet passes", "size", "files", left=2)
    for line in plan.lines:
        maps = " ".join(f"{n} {shape(s)}" for n, s in line.shapes.items())
        maps += f" ({line.about})" if line.about else ""
        table.add_row(escape(line.name), maps, str(line.unet_passes or ""),
                      str(line.controlnet_passes or ""), _size(line), str(line.files))
    table.add_section()
    control = plan.images * plan.pieces.controlnet_passes
    table.add_row("in all", f"blocks of {plan.block} images", str(plan.unet_passes), str(control),
                  _size(plan), str(plan.files), style="bold")
    out.print(table)
    say(out, f"store: {plan.store}, maps as {plan.encoding}")
    say(out, _each_once(plan))
    for note in plan.notes:
        say(out, f"note: {note}")


def _size(counted: Line | Plan) -> str:
    return f"{'≤ ' if counted.at_most else ''}{human(counted.bytes)}"


def _each_once(plan: Plan) -> str:
    """What is computed once although several combos need it."""
    n, p = plan.images, plan.pieces
    parts = {"images read and encoded": n * p.encoded, "texts": p.texts, "edge maps": n * p.edges,
             "noised latents": n * p.noised, "down halves": n * p.halves,
             "UNet passes": plan.unet_passes}
    return "each once: " + ", ".join(f"{v} {k}" for k, v in parts.items() if v)


def show_extracted(done: Extracted) -> None:
    """What an extraction did."""
    out = console()
    rows = {k: v for k, v in done.rows.items() if v}
    if not rows:
        say(out, f"nothing to do: all {done.images} images of all combos are in {done.store}")
        return
    listed = ", ".join(f"{name} {count}" for name, count in rows.items())
    say(out, f"extracted (rows): {listed}")
    say(out, f"store: {done.store}")


def show_status(status: Status) -> None:
    """Done, missing and stale combos."""
    out = console()
    say(out, status.store, "bold")
    table = grid("combo", "state", "images", left=2)
    styles = {"done": "green", "partial": "yellow", "missing": "red", "stale": "magenta"}
    for combo in status.combos:
        why = f" ({'; '.join(combo.why)})" if combo.why else ""
        table.add_row(escape(combo.name), escape(f"{combo.state}{why}"),
                      f"{combo.done}/{combo.total}", style=styles[combo.state])
    out.print(table)
    say(out, "images are compared by name here; extract compares their contents", "dim")
    if status.extra:
        say(out, f"also in the store: {', '.join(status.extra)}")
    for note in status.notes:
        say(out, f"note: {note}")


def show_store(report: StoreReport) -> None:
    """A store's tree, shapes, bytes, combos and gaps."""
    out = console()
    say(out, f"{report.path}: {report.dataset}, {report.images} images, {human(report.bytes)},"
        f" format {report.format}, blocks of {report.block}, batch {report.batch}")
    say(out, "versions: " + ", ".join(f"{n} {v}" for n, v in report.versions.items()), style="dim")
    for group in report.groups:
        out.print()
        say(out, f"{group.name}/  {human(group.bytes)}", style="bold")
        for line in _group_lines(group, report.images):
            say(out, f"  {line}")


def _group_lines(group: GroupReport, images: int) -> list[str]:
    settings = dict(group.settings)
    lines = [f"{k}: {v}" for k, v in settings.items()]
    names = {k: v for k, v in group.source.items() if v}
    lines += [f"{k} from: {v if isinstance(v, str) else ', '.join(v)}" for k, v in names.items()]
    lines.append(f"model: {group.model}, {group.compute}")
    lines += [f"{name}  {shape(dims)}  {dtype}" for name, (dims, dtype) in group.maps.items()]
    if group.error:
        lines.append(f"rounded by {group.error}")
    gap = f", missing rows {_ranges(group.missing)}" if group.missing else ""
    lines.append(f"done: {group.done}/{images}{gap}")
    return lines


def _ranges(rows: list[int]) -> str:
    """``0–31, 64–95 …``."""
    found: list[list[int]] = []
    for row in rows:
        if found and found[-1][1] == row - 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    text = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in found[:6])
    return text + (" …" if len(found) > 6 else "")


def show_layers(found: ModelMaps) -> None:
    """What a model offers."""
    out = console()
    say(out, f"{found.model}: {found.kind}, predicts {found.predicts}", style="bold")
    say(out, f"input: {found.default_size} px by default, any multiple of {found.size_multiple};"
        f" latent at {found.size} px: {shape(found.latent)}")
    table = grid("map", "kind", "channels", "stride", f"C×h×w at {found.size}", left=2)
    for layer in found.layers:
        channels = f"{layer.channels}" if layer.kind == "conv" else "tokens"
        table.add_row(layer.name, layer.kind, channels, str(layer.stride), shape(layer.shape))
    out.print(table)
    if any(layer.kind == "attention" for layer in found.layers):
        say(out, "attention maps have 77 channels for each 75 tokens of the prompt", style="dim")
    for name, digest in found.digests.items():
        say(out, f"{name:<12} sha256 {digest}")
    for note in found.notes:
        say(out, f"note: {note}")


def show_trained(trained: TrainedRun, page: Path | None = None) -> None:
    """Tables of results with their protocol, and where the run and its report are."""
    from gate_cache.learn.metrics.results import ScoreTable

    out = console()
    splits = ", ".join(f"{n}: " + ", ".join(f"{count} {unit}" for unit, count in s.items())
                       for n, s in trained.splits.items())
    say(out, f"split by image: {splits}")
    for results in trained.tables:
        out.print()
        if isinstance(results, ScoreTable):
            _show_scores(out, results)
        else:
            _show_results(out, results)
    out.print()
    say(out, f"run: {trained.run} ({trained.seconds:.0f} s)")
    if page:
        say(out, f"report: {page}")


def _show_results(out: Console, results: Results) -> None:
    first = results.rows[0].pck
    say(out, f"{results.title}: {first.pairs} pairs, {first.points} points", "bold")
    shown = [k for k in first.values if k[0] in SHOWN and k[2] in ("point", "image")]
    keys = sorted(shown, key=lambda k: (k[2] != "point", k[1] != "image", k[0]))
    names = [f"{_share(a)}\n{'img' if r == 'image' else r}\n{m}" for a, r, m in keys]
    table = grid("PCK, %\nradius\naveraged by", *names)
    for row in results.rows:
        values = ["–" if math.isnan(v := row.pck.values[k]) else f"{v:.1f}" for k in keys]
        table.add_row(escape(row.method.title), *values, style="bold" if row.trained else None)
    out.print(table)
    if first.boxless:
        say(out, f"{first.boxless} pairs whose target has no box with an extent are in no PCK of"
                 " the box", style="dim")
    say(out, f"{results.protocol}; trained rows are bold", style="dim")
    for row in results.rows:
        if row.note and row.trained:
            say(out, f"weights of {row.method.title}: {row.note}", style="dim")


def _show_scores(out: Console, results: ScoreTable) -> None:
    """Metrics with their 95 % intervals over images."""
    say(out, f"{results.title}: {results.rows[0].scores.details['images']} images", "bold")
    table = grid("%", *(n.replace("/", "\n") for n in results.rows[0].scores.values))
    for row in results.rows:
        between = row.scores.details["interval"]
        table.add_row(escape(row.method.title), *(
            f"{value:.1f}\n{between[name][0]:.1f}–{between[name][1]:.1f}"
            for name, value in row.scores.values.items()), style="bold" if row.note else None)
    out.print(table)
    floors = ", ".join(row.method.title for row in results.rows if not row.trained)
    say(out, f"{results.protocol}; below: 95 % of a bootstrap over images; all rows are trained"
             f" but floors, which know labels alone ({floors})", style="dim")
    for row in results.rows:
        if row.note:
            say(out, f"weights of {row.method.title}: {row.note}", style="dim")


def _share(alpha: float) -> str:
    return f"@{alpha:.2f}"
