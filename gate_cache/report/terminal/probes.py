"""``probe``: features ranked, a table a task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.report.terminal.grid import Grid, put, say

if TYPE_CHECKING:
    from gate_cache.analysis.probe import Probed, ProbeRow, ProbeTable

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
        table.add_row(escape(_title(row)), escape(maps), f"{row.value:.1f}",
                      _between(*row.interval), _behind(row, ranked.rows[0]),
                      style="bold" if row.equal else None)
    put(table)
    if len(ranked.rows) > MOST:
        say(f"… and {len(ranked.rows) - MOST} more (--json has all)")
    equal = sum(row.equal for row in ranked.rows) - 1
    say(f"{equal or 'no'} other feature{'s' * (equal != 1)} (bold) within the paired interval of"
        f" the best; {ranked.metric}", style="dim")
    say("")


def _title(row: ProbeRow) -> str:
    return row.combos[0] if len(row.combos) == 1 else f"mean of {len(row.combos)}"


def _between(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1f}–{high:.1f}"


def _behind(row: ProbeRow, best: ProbeRow) -> str:
    if row is best:
        return ""
    low, high = row.behind_interval
    return f"{row.behind:.1f} ({low:.1f} to {high:.1f})"
