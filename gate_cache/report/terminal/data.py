"""``data``: what a data set holds, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gate_cache.core.errors import listed
from gate_cache.datasets.common.base import SPLITS
from gate_cache.datasets.common.pictures import passed_over_line
from gate_cache.datasets.summary.summary import Counts, Summary, labelled_pixels
from gate_cache.report.terminal.tables import console, grid, say
from gate_cache.workspace.data_summary import counted

MOST = 60
"""Classes, or categories, that are listed one by one."""


def show_data(found: Summary) -> None:
    """Splits, classes, labels, points, pairs, notes and faults."""
    out = console()
    say(out, f"{found.name}: {sum(found.images.values())} images", "bold")
    table = grid("", *SPLITS, "in all")
    _row(table, "images", found.images)
    if found.pixels:
        _row(table, "  with no pixel of a class", found.blank)
    if found.pairs:
        _row(table, "pairs", found.pairs)
        _row(table, "  that share a visible point", found.shared)
    out.print(table)
    if found.classes:
        _show_classes(out, found)
    if found.categories:
        _show_points(out, found)
    if found.passed_over:
        say(out, passed_over_line(found.passed_over))
    for kind, lines in (("note", [*found.notes, *found.unclassed]), ("fault", found.faults)):
        for line in lines:
            say(out, f"{kind}: {line}")


def _row(table: Table, name: str, counts: Counts) -> None:
    cells = [str(counts.get(s, 0)) for s in SPLITS]
    table.add_row(name, *cells, str(sum(counts.get(s, 0) for s in SPLITS)))


def _show_classes(out: Console, found: Summary) -> None:
    """Images of each class by split; of masks, those that show it, and its share of pixels."""
    pixels, ignored = labelled_pixels(found)
    say(out, "")
    share = ["pixels"] if found.pixels else []
    table = grid(counted(len(found.classes), "class", "classes"), *SPLITS, *share)
    for name, counts in list(found.classes.items())[:MOST]:
        cells = [str(counts.get(s, 0)) for s in SPLITS]
        if found.pixels:
            cells.append(_percent(sum(found.pixels[name].values()), pixels))
        table.add_row(escape(name), *cells)
    out.print(table)
    if len(found.classes) > MOST:
        say(out, f"… and {len(found.classes) - MOST} more (--json has all)")
    if found.pixels:
        say(out, f"labelled {_percent(pixels, pixels + ignored)} of all pixels, ignored"
                 f" {_percent(ignored, pixels + ignored)}")


def _show_points(out: Console, found: Summary) -> None:
    say(out, "")
    title = counted(len(found.categories), "category", "categories")
    table = grid(title, "points", "images", "pairs", left=2)
    for name, images in list(found.categories.items())[:MOST]:
        table.add_row(escape(name), escape(listed(found.point_names.get(name, ()), 12)),
                      str(images), str(found.category_pairs.get(name, 0)))
    out.print(table)
    if len(found.categories) > MOST:
        say(out, f"… and {len(found.categories) - MOST} more (--json has all)")
    say(out, f"{found.points.get('visible', 0)} visible points, {found.points.get('outside', 0)}"
             f" outside their picture; {found.boxless} boxes without extent")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
