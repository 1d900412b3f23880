"""``probe``: features ranked, a table a task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.report.terminal.tables import console, grid, say

if TYPE_CHECKING:
    from gate_cache.training.probe import Probed, ProbeRow, ProbeTable

MOST = 15
"""Features of a table that are shown."""


def show_probed(found: Probed) -> None:
    """The best feature of each task first, and how far the others are behind it."""
    for table in found.tables:
        _show(table, found.split)
    say(console(), f"{found.manifest}: {found.seconds:.0f} s")


def _show(found: ProbeTable, split: str) -> None:
    out = console()
    solved = f", {found.probe} solved on {found.solved}" if found.solved else ", nearest neighbour"
    say(out, f"{found.task}: {found.judged} {found.unit} of {split}{solved}", "bold")
    table = grid("combo", "maps", "%", "95 %", "behind the best", left=2)
    whole = {row.combos: row.maps for row in sorted(found.rows, key=lambda r: len(r.maps))}
    for row in found.rows[:MOST]:
        maps = "all" if row.maps == whole[row.combos] and len(row.maps) > 1 else " ".join(row.maps)
        table.add_row(escape(_title(row)), escape(maps), f"{row.value:.1f}",
                      _between(*row.interval), _behind(row, found.rows[0]),
                      style="bold" if row.equal else None)
    out.print(table)
    if len(found.rows) > MOST:
        say(out, f"… and {len(found.rows) - MOST} more (--json has all)")
    equal = sum(row.equal for row in found.rows) - 1
    say(out, f"{equal or 'no'} other feature{'s' * (equal != 1)} (bold) within the paired interval"
             f" of the best; {found.metric}", style="dim")
    out.print()


def _title(row: ProbeRow) -> str:
    return row.combos[0] if len(row.combos) == 1 else f"mean of {len(row.combos)}"


def _between(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1f}–{high:.1f}"


def _behind(row: ProbeRow, best: ProbeRow) -> str:
    if row is best:
        return ""
    low, high = row.behind_interval
    return f"{row.behind:.1f} ({low:.1f} to {high:.1f})"
