"""``data``: what a data set holds, as tables."""

from __future__ import annotations

from rich.markup import escape

from gate_cache.core.errors import listed
from gate_cache.datasets.common.base import SPLITS
from gate_cache.datasets.common.files import passed_over_line
from gate_cache.datasets.summary.summary import Counts, Summary, labelled_pixels
from gate_cache.report.terminal.grid import Grid, put, say
from gate_cache.workspace.data_summary import counted

MOST = 60
"""Classes, or categories, that are listed one by one."""


def show_data(summary: Summary) -> None:
    say(f"{summary.name}: {sum(summary.images.values())} images", "bold")
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
    put(table)
    if len(summary.classes) > MOST:
        say(f"… and {len(summary.classes) - MOST} more (--json has all)")
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
    put(table)
    if len(summary.categories) > MOST:
        say(f"… and {len(summary.categories) - MOST} more (--json has all)")
    say(f"{summary.points.get('visible', 0)} visible points, {summary.points.get('outside', 0)}"
             f" outside their picture; {summary.boxless} boxes without extent")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
