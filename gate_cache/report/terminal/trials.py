"""A sweep's results on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.report.terminal.grid import Grid, put, say, say_notes
from gate_cache.training.sweep_tables import Mean, over_seeds

if TYPE_CHECKING:
    from pathlib import Path

    from gate_cache.training.evaluate import Evaluated
    from gate_cache.training.sweep import Swept


def show_swept(sweep: Swept, page: Path | None = None) -> None:
    """Baselines first, then trials, the best on ``test`` last; mean ± std over seeds."""
    means = over_seeds(sweep.rows)
    trained = sorted((m for m in means if m.trained),
                     key=lambda m: m.test.get(sweep.select, (-math.inf, 0))[0])
    names = [sweep.select, *_others(means, sweep.select)]
    table = Grid("trial", "seeds", *(name.replace("/", "\n") for name in names))
    for mean in [*(m for m in means if not m.trained), *trained]:
        cells = [_cell(mean, name) for name in names]
        failed = f" ({mean.failed} failed)" if mean.failed else ""
        table.add_row(escape(mean.name), f"{mean.seeds}{failed}" if mean.trained else "", *cells)
    put(table)
    say(f"sweep: {sweep.folder} (results.csv, results.json), {sweep.seconds:.0f} s")
    if page:
        say(f"report: {page}")


def _others(means: list[Mean], select: str, most: int = 2) -> list[str]:
    """A few more metrics, where they fit on a line."""
    names = next((list(m.test) for m in means if m.test), [])
    if not select.startswith("pck"):
        return [n for n in names if n != select]
    return [n for n in names if n.startswith("pck@0.10") and n != select
            and "average=category" not in n][:most]


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
        table.add_row(escape(name), f"{value:.2f}", between)
    put(table)
    say(scores.protocol)
    say_notes(scores.notes)
