"""Reports as tables on the terminal (rich)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.core.errors import counted, listed
from gate_cache.core.size import Size
from gate_cache.datasets.common.base import SPLITS
from gate_cache.datasets.common.files import passed_over_line
from gate_cache.datasets.summary.summary import Counts, Summary, labelled_pixels
from gate_cache.report.terminal.grid import Grid, put, say, say_notes, shape
from gate_cache.store.places.disk import human

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gate_cache.extraction.extract import Extracted
    from gate_cache.extraction.layers import ModelMaps
    from gate_cache.extraction.plan import Line, Plan
    from gate_cache.extraction.status import Status
    from gate_cache.learn.metrics.results import ScoreTable
    from gate_cache.training.train import TrainedRun

MOST = 60
"""Classes, or categories, that are listed one by one."""


def show_data(summary: Summary) -> None:
    say(f"{summary.name}: {counted(sum(summary.images.values()), 'image')}", "bold")
    table = Grid("", *SPLITS, "in all")
    _row(table, "images", summary.images)
    if summary.pixels:
        _row(table, "  with no pixel of a class", summary.blank)
    if summary.pairs:
        _row(table, "pairs", summary.pairs)
        _row(table, "  that share a visible point", summary.shared)
    put(table)
    if summary.classes:
        _show_classes(summary)
    if summary.categories:
        _show_points(summary)
    if summary.passed_over:
        say(passed_over_line(summary.passed_over))
    for kind, lines in (("note", [*summary.notes, *summary.unclassed]), ("fault", summary.faults)):
        for line in lines:
            say(f"{kind}: {line}")


def _row(table: Grid, name: str, counts: Counts) -> None:
    cells = [str(counts.get(s, 0)) for s in SPLITS]
    table.add_row(name, *cells, str(sum(counts.get(s, 0) for s in SPLITS)))


def _show_classes(summary: Summary) -> None:
    """Images of each class by split; of masks, those that show it, and its share of pixels."""
    pixels, ignored = labelled_pixels(summary)
    say("")
    share = ["pixels"] if summary.pixels else []
    table = Grid(counted(len(summary.classes), "class", "classes"), *SPLITS, *share)
    for name, counts in list(summary.classes.items())[:MOST]:
        cells = [str(counts.get(s, 0)) for s in SPLITS]
        if summary.pixels:
            cells.append(_percent(sum(summary.pixels[name].values()), pixels))
        table.add_row(escape(name), *cells)
    put(table, len(summary.classes) - MOST)
    if summary.pixels:
        say(f"labelled {_percent(pixels, pixels + ignored)} of all pixels, ignored"
                 f" {_percent(ignored, pixels + ignored)}")


def _show_points(summary: Summary) -> None:
    say("")
    title = counted(len(summary.categories), "category", "categories")
    table = Grid(title, "points", "images", "pairs", left=2)
    for name, images in list(summary.categories.items())[:MOST]:
        table.add_row(escape(name), escape(listed(summary.point_names.get(name, ()), 12)),
                      str(images), str(summary.category_pairs.get(name, 0)))
    put(table, len(summary.categories) - MOST)
    say(f"{counted(summary.points.get('visible', 0), 'visible point')},"
        f" {summary.points.get('outside', 0)}"
        f" outside their picture; {counted(summary.boxless, 'box', 'boxes')} without extent")


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "–"


SHOWN = (0.05, 0.1)
"""PCK's α that fit on a line; metrics.json has all."""


def show_plan(plan: Plan) -> None:
    size = ", ".join(f"{name} {Size.of(sides)}" for name, sides in plan.sizes.items()) \
        or Size.of(plan.size)
    say(f"{counted(plan.images, 'image')} at {size} px, model {plan.model}", "bold")
    table = Grid("group", "maps", "model passes", "ControlNet passes", "size", "files", "folders",
                 left=2)
    first: dict[str, str] = {}
    for line in plan.lines:
        maps = "\n".join(f"{n} {shape(s)}" for n, s in line.shapes.items())
        like = first.setdefault(maps, line.name)
        maps = maps if like == line.name else f"as {escape(like)}"
        maps += f" ({line.about})" if line.about else ""
        table.add_row(escape(line.name), maps, str(line.unet_passes or ""),
                      str(line.controlnet_passes or ""), _size(line), str(line.files),
                      str(line.folders))
    control = plan.images * plan.pieces.controlnet_passes
    table.add_row("in all", f"blocks of {counted(plan.block, 'image')}",
                  str(plan.unet_passes), str(control), _size(plan), str(plan.files),
                  str(plan.folders), style="bold")
    put(table)
    say(f"store: {plan.store}, maps as {plan.encoding}")
    say(_each_once(plan))
    if plan.hours is not None:
        say(f"about {plan.hours:,.1f} hours, at {plan.seconds:.3g} s an image")
    _show_proposals(plan)
    say_notes(plan.notes)


def _show_proposals(plan: Plan) -> None:
    """What would take less, where the store is larger than its disk or has very many files."""
    if not plan.proposals:
        return
    table = Grid(f"{human(plan.room)} of room; what takes less", "size", "files", "")
    for other in plan.proposals:
        table.add_row(escape(other.change), human(other.bytes), str(other.files),
                      "fits" if other.fits else "")
    put(table)


def _size(part: Line | Plan) -> str:
    return f"{'≤ ' if part.at_most else ''}{human(part.bytes)}"


def _each_once(plan: Plan) -> str:
    """What is computed once although several combos need it."""
    n, p = plan.images, plan.pieces
    parts = [counted(n * p.encoded, "image") + " read and encoded", counted(p.texts, "text"),
             counted(n * p.edges, "edge map"), counted(n * p.noised, "noised latent"),
             counted(n * p.halves, "first half", "first halves") + " of passes",
             counted(plan.unet_passes, "model pass", "model passes")]
    return "each once: " + ", ".join(part for part in parts if not part.startswith("0 "))


def show_extracted(done: Extracted) -> None:
    rows = {k: v for k, v in done.rows.items() if v}
    if len(rows) > 1:  # latents are no combo that a user has written
        rows.pop("latents", None)
    if not rows:
        say(f"nothing to do: all {counted(done.images, 'image')} of all combos are in {done.store}")
        return
    say("extracted (images): " + ", ".join(f"{name} {count}" for name, count in rows.items()))
    say(f"store: {done.store}")


def show_status(status: Status) -> None:
    say(status.store, "bold")
    table = Grid("combo", "state", "images", left=2)
    styles = {"done": "green", "partial": "yellow", "missing": "red", "stale": "magenta"}
    for combo in status.combos:
        why = f" ({'; '.join(combo.why)})" if combo.why else ""
        table.add_row(escape(combo.name), escape(f"{combo.state}{why}"),
                      f"{combo.done}/{combo.total}", style=styles[combo.state])
    put(table)
    say("images are compared by name here; extract compares their contents", "dim")
    if status.extra:
        say(f"also in the store: {', '.join(status.extra)}")
    say_notes(status.notes)


def show_layers(maps: ModelMaps) -> None:
    size = Size.of(maps.size)
    predicts = f", predicts {maps.predicts}" if maps.predicts else ""
    latent = f"; latent at {size} px: {shape(maps.latent)}" if maps.predicts else ""
    say(f"{maps.model}: {maps.kind}{predicts}", style="bold")
    say(f"input: {maps.default_size} px by default, any multiple of {maps.size_multiple}{latent}")
    table = Grid("map", "kind", "channels", "stride", f"C×h×w at {size}", "float16", left=2)
    for layer in maps.layers:
        channels = f"{layer.channels}" if layer.kind == "conv" else "tokens"
        table.add_row(layer.name, layer.kind, channels, str(layer.stride), shape(layer.shape),
                      human(layer.bytes))
    put(table)
    if any(layer.kind == "attention" for layer in maps.layers):
        say("attention maps have a channel for each token of the text, of CLIP's 77 for each 75 of"
            " the prompt", style="dim")
    for name, digest in maps.digests.items():
        say(f"{name:<12} sha256 {digest}")
    say_notes(maps.notes)


def show_trained(trained: TrainedRun, page: Path | None = None,
                 findings: Sequence[str] = ()) -> None:
    """Tables of results with their protocol, what they show, and where run and report are."""
    splits = ", ".join(f"{n}: " + ", ".join(
        counted(count, unit.removesuffix("s")) for unit, count in s.items())
                       for n, s in trained.splits.items())
    say(f"split by image: {splits}")
    for results in trained.tables:
        say("")
        pairs = "pairs" in results.rows[0].scores.details
        (_show_results if pairs else _show_scores)(results)
    say("")
    for line in findings:
        say(line, "bold")
    say(f"run: {trained.run} ({trained.seconds:.0f} s)")
    if page:
        say(f"report: {page}")


def _show_results(results: ScoreTable) -> None:
    """PCK over pairs."""
    from gate_cache.learn.metrics.pck import named  # with numpy, which a plan needs not

    first = results.rows[0].scores.details
    say(f"{results.title}: {counted(first['pairs'], 'pair')},"
        f" {counted(first['points'], 'point')}", "bold")
    keys = [(a, r, m) for m in ("point", "image") for r in ("image", "box") for a in SHOWN]
    names = [f"@{a:.2f}\n{'img' if r == 'image' else r}\n{m}" for a, r, m in keys]
    table = Grid("PCK, %\nradius\naveraged by", *names)
    for row in results.rows:
        values = [row.scores.values.get(named(*k)) for k in keys]
        table.add_row(escape(row.method.title), *("–" if v is None else f"{v:.1f}" for v in values),
                      style="bold" if row.trained else None)
    put(table)
    if first["pairs_without_box"]:
        say(f"in no PCK of the box: {counted(first['pairs_without_box'], 'pair')} whose target has"
            " no box with an extent", style="dim")
    say(f"{results.protocol}; trained rows are bold", style="dim")
    for row in results.rows:
        if row.note and row.trained:
            say(f"weights of {row.method.title}: {row.note}", style="dim")


def _show_scores(results: ScoreTable) -> None:
    """Metrics with their 95 % intervals over images."""
    say(f"{results.title}: {counted(results.rows[0].scores.details['images'], 'image')}", "bold")
    table = Grid("%", *(n.replace("/", "\n") for n in results.rows[0].scores.values))
    for row in results.rows:
        between = row.scores.details["interval"]
        table.add_row(escape(row.method.title), *(
            f"{value:.1f}\n{between[name][0]:.1f}–{between[name][1]:.1f}"
            for name, value in row.scores.values.items()), style="bold" if row.note else None)
    put(table)
    floors = ", ".join(row.method.title for row in results.rows if not row.trained)
    say(f"{results.protocol}; below: 95 % of a bootstrap over images; all rows are trained but"
        f" floors, which know labels alone ({floors})", style="dim")
    for row in results.rows:
        if row.note:
            say(f"weights of {row.method.title}: {row.note}", style="dim")
