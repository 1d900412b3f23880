"""A sweep's results on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.report.terminal.tables import console, grid, say
from gate_cache.training.sweep_tables import Mean, over_seeds

if TYPE_CHECKING:
    from pathlib import Path

    from gate_cache.training.evaluate import Evaluated
    from gate_cache.training.sweep import Swept


def show_swept(found: Swept, page: Path | None = None) -> None:
    """Baselines first, then trials, the best on ``test`` last; mean ± std over seeds."""
    out = console()
    means = over_seeds(found.rows)
    trained = sorted((m for m in means if m.trained),
                     key=lambda m: m.test.get(found.select, (-math.inf, 0))[0])
    table = grid("trial", "seeds", found.select, *_others(means, found.select))
    for mean in [*(m for m in means if not m.trained), *trained]:
        cells = [_cell(mean, name) for name in [found.select, *_others(means, found.select)]]
        failed = f" ({mean.failed} failed)" if mean.failed else ""
        table.add_row(escape(mean.name), f"{mean.seeds}{failed}" if mean.trained else "", *cells)
    out.print(table)
    say(out, f"sweep: {found.folder} (results.csv, results.json), {found.seconds:.0f} s")
    if page:
        say(out, f"report: {page}")


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


def show_evaluated(found: Evaluated) -> None:
    """All metrics; the one that chose the checkpoint with its interval."""
    out = console()
    say(out, f"{found.run} on the {found.split} split of {found.manifest}", "bold")
    table = grid("metric", found.split, "95 % interval")
    for name, value in found.values.items():
        low, high = found.interval
        shown = f"{low:.1f} – {high:.1f}" if name == found.select and not math.isnan(low) else ""
        table.add_row(escape(name), f"{value:.2f}", shown)
    out.print(table)
    say(out, found.protocol)
    for note in found.notes:
        say(out, f"note: {note}")
