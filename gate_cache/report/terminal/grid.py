"""Lines and tables on stdout, never wider than what shows them (rich)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import render
from rich.table import Table

PLAIN_WIDTH = 80
"""Columns where stdout is no terminal, so that tables can be compared."""
LEAST, SHORT, BETWEEN = 20, 8, 2
"""Width that a folded column of text keeps, that of a heading that is not folded, space between."""


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, soft_wrap=False,
                   highlight=False)


def say(line: str, style: str | None = None) -> None:
    """Print one line as it is: no markup, no folding, so that paths can be copied."""
    _console().print(line, markup=False, style=style, soft_wrap=True)


def say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"note: {note}")


class Grid:
    """A table of rich's markup. One that is too wide is shown as several, one below the other.

    Parameters
    ----------
    columns : their headings
    left : how many of them, the first ones, are text, which is folded where it must be and repeated
        in every table; the others are numbers, of which nothing is cut off
    """

    def __init__(self, *columns: str, left: int = 1) -> None:
        self._left = left
        self._columns, self._rows = columns, list[tuple[Sequence[str], str | None]]()

    def add_row(self, *cells: str, style: str | None = None) -> None:
        """Append a row; cells that are left out at its end are empty."""
        self._rows.append(((*cells, *[""] * (len(self._columns) - len(cells))), style))

    def parts(self, width: int) -> Iterator[Table]:
        """Tables that are no wider than `width`, with as many columns of numbers as fit."""
        numbers = list(range(self._left, len(self._columns)))
        while True:
            fitting = (n for n in range(len(numbers), 1, -1) if self._need(numbers[:n]) <= width)
            count = next(fitting, 1)  # one at least, however narrow the terminal is
            yield self._table(numbers[:count])
            numbers = numbers[count:]
            if not numbers:
                return

    def _need(self, numbers: Sequence[int]) -> int:
        widths = [*(min(self._width(i), LEAST) for i in range(self._left)),
                  *map(self._width, numbers)]
        return sum(widths) + BETWEEN * (len(widths) - 1)

    def _width(self, column: int) -> int:
        return max(map(_width, [self._heading(column), *(row[column] for row, _ in self._rows)]))

    def _heading(self, column: int) -> str:
        """A heading; that of numbers is folded where it is wider than they are."""
        name = self._columns[column]
        if column < self._left:
            return name
        cells = max([SHORT, *(_width(row[column]) for row, _ in self._rows)])
        return "\n".join(fill(line, cells, break_long_words=False) for line in name.split("\n"))

    def _table(self, numbers: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False)
        columns = [*range(self._left), *numbers]
        for i in columns:
            text = i < self._left
            table.add_column(self._heading(i), justify="left" if text else "right",
                             overflow="fold", no_wrap=not text)
        for cells, style in self._rows:
            table.add_row(*(cells[i] for i in columns), style=style)
        return table


def put(grid: Grid, left_out: int = 0) -> None:
    """Print a table, and how many rows more there are."""
    console = _console()
    for number, table in enumerate(grid.parts(console.width)):
        if number:
            console.print()
        console.print(table)
    if left_out > 0:
        say(f"… and {left_out} more (--json has all)")


def _width(markup: str) -> int:
    return max(map(cell_len, render(markup).plain.split("\n")))


def shape(dims: Any) -> str:
    """``640×64×64``."""
    return "×".join(str(d) for d in dims)
