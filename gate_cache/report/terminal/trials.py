"""Results of trials, of trained weights and of probes on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.learn.metrics.pck import metric_name
from gate_cache.report.terminal.grid import Grid, put, say, say_notes
from gate_cache.training.sweep_tables import Mean, over_seeds

if TYPE_CHECKING:
    from pathlib import Path

    from gate_cache.analysis.probe import Probed, ProbeRow, ProbeTable
    from gate_cache.training.evaluate import Evaluated
    from gate_cache.training.sweep import Swept


def show_swept(sweep: Swept, page: Path | None = None) -> None:
    """Baselines first, then trials, the best on ``test`` last; mean ± std over seeds."""
    means = over_seeds(sweep.rows)
    trained = sorted((m for m in means if m.trained),
                     key=lambda m: m.test.get(sweep.select, (-math.inf, 0))[0])
    names = [sweep.select, *_others(means, sweep.select)]
    table = Grid("trial", "seeds", *(_lines(name) for name in names))
    for mean in [*(m for m in means if not m.trained), *trained]:
        cells = [_cell(mean, name) for name in names]
        failed = f" ({mean.failed} failed)" if mean.failed else ""
        table.add_row(escape(mean.name), f"{mean.seeds}{failed}" if mean.trained else "", *cells)
    put(table)
    say(f"sweep: {sweep.folder} (results.csv, results.json), {sweep.seconds:.0f} s")
    if page:
        say(f"report: {page}")


def _lines(metric: str) -> str:
    """A metric's name as a column's head."""
    return metric_name(metric).replace(" (", "\n(").replace("/", "\n")


def _others(means: list[Mean], select: str) -> list[str]:
    """A few more metrics, where they fit on a line."""
    names = next((list(m.test) for m in means if m.test), [])
    if not select.startswith("pck"):
        return [n for n in names if n != select]
    return [n for n in names if n.startswith("pck@0.10") and n != select
            and "average=category" not in n][:2]


def _cell(mean: Mean, name: str) -> str:
    if name not in mean.test:
        return ""
    value, spread = mean.test[name]
    return f"{value:.1f}" + ("" if math.isnan(spread) else f" ± {spread:.1f}")


def show_evaluated(scores: Evaluated) -> None:
    """All metrics; the one that chose the checkpoint with its interval."""
    say(f"{scores.run} on the {scores.split} split of {scores.manifest}", "bold")
    table = Grid("metric", scores.split, "95 % interval")
    for name, value in scores.values.items():
        low, high = scores.interval
        between = f"{low:.1f} – {high:.1f}" if name == scores.select and not math.isnan(low) else ""
        table.add_row(escape(metric_name(name)), f"{value:.2f}", between)
    put(table)
    say(scores.protocol)
    say_notes(scores.notes)


MOST = 15
"""Features of a table that are shown."""


def show_probed(probed: Probed) -> None:
    """The best feature of each task first, and how far the others are behind it."""
    for table in probed.tables:
        _show(table, probed.split)
    say(f"{probed.manifest}: {probed.seconds:.0f} s")


def _show(ranked: ProbeTable, split: str) -> None:
    solved = f"{ranked.probe} solved on {ranked.solved}" if ranked.solved else "nearest neighbour"
    say(f"{ranked.task}: {ranked.judged} {ranked.unit} of {split}, {solved}", "bold")
    table = Grid("combo", "maps", "%", "95 %", "behind the best", left=2)
    most = {combos: max(len(row.maps) for row in ranked.rows if row.combos == combos)
            for combos in {row.combos for row in ranked.rows}}
    for row in ranked.rows[:MOST]:
        maps = "all" if len(row.maps) == most[row.combos] > 1 else " ".join(row.maps)
        name = row.combos[0] if len(row.combos) == 1 else f"mean of {len(row.combos)}"
        table.add_row(escape(name), escape(maps), f"{row.value:.1f}",
                      _between(*row.interval), _behind(row, ranked.rows[0]),
                      style="bold" if row.equal else None)
    put(table, len(ranked.rows) - MOST)
    equal = sum(row.equal for row in ranked.rows) - 1
    say(f"{equal or 'no'} other feature{'s' * (equal != 1)} (bold) within the paired interval of"
        f" the best; {metric_name(ranked.metric)}", style="dim")
    say("")


def _between(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1f}–{high:.1f}"


def _behind(row: ProbeRow, best: ProbeRow) -> str:
    if row is best:
        return ""
    low, high = row.behind_interval
    return f"{row.behind:.1f} ({low:.1f} to {high:.1f})"
