"""Tables as people export them: separated by commas, semicolons or tabs; ids as paths."""

from __future__ import annotations

import csv
import io
import math
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from gate_cache.core.errors import DataError
from gate_cache.core.roots import escapes
from gate_cache.datasets.common.files import read_text

SEPARATORS = ",;\t"
EMPTY = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>"})
"""What stands for no value, in lower case."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.I)
_DECIMAL = re.compile(r"^([-+]?\d*),(\d+)$")
Row = dict[str, str]


def read_csv(path: Path, columns: Sequence[str], expected: str,
             empty: Sequence[str] = ()) -> list[tuple[int, Row]]:
    """Rows of a table with a header, each with its line number; blank lines are skipped.

    Values are separated by what separates the most names of the header: commas, semicolons or
    tabs. The header's names are taken in lower case; where no comma separates, ``1,5`` is 1.5.

    Parameters
    ----------
    columns : that must be there
    expected : the way out
    empty : of these columns, which may be empty in a row, or not reach so far

    Raises
    ------
    DataError
        As `read_text`; or one of `columns` is missing in the header or in a row, is there twice, or
        a row has more values than the header.
    """
    text = read_text(path, expected)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=header.count)
    # strict: a quotation mark that is not closed would swallow all rows behind it without a word.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True,
                        skipinitialspace=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise DataError(f"{path}: not a table of comma-separated values ({error})") from None
    if separator != ",":
        rows = [(n, [_DECIMAL.sub(r"\1.\2", c.strip()) for c in cells]) for n, cells in rows]
    names = [n.strip().lower() for n in rows[0][1]] if rows else []
    for name in columns:
        if names.count(name) != 1:
            why = "two columns" if name in names else "no column"
            raise DataError(f"{path}: {why} '{name}'; expected {', '.join(columns)}")
    required = [c for c in columns if c not in empty]
    return [(number, _row(f"{path}:{number}", names, cells, required))
            for number, cells in rows[1:]]


def _row(place: str, names: list[str], cells: list[str], required: list[str]) -> Row:
    extra = [c for c in cells[len(names):] if c.strip()]
    if extra:
        raise DataError(f"{place}: {len(cells)} values in {len(names)} columns ('{extra[0]}' is"
                        " too many)")
    row = {n: c.strip() for n, c in zip(names, cells, strict=False) if n}
    lacking = [c for c in required if row.get(c, "").lower() in EMPTY]
    if lacking:
        raise DataError(f"{place}: no '{lacking[0]}'")
    return row


def number(text: str) -> float | None:
    """A number; None where there is none, a `ValueError` for something else, or one not finite."""
    if text.lower() in EMPTY:
        return None
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def whole(text: str) -> str:
    """``3`` for ``3.0``, as tables of floating-point numbers write it; else the text itself."""
    return text.split(".")[0] if re.fullmatch(r"\d+\.0+", text) else text


def inside(root: Path, named: str, place: str, links: Sequence[Path] | None = ()) -> str:
    """The path of a file below a data set's root, as ids are: ``/`` between parts, no ``.``.

    Parameters
    ----------
    named : as a table says; absolute where it is below the root
    place : of the name, for messages
    links : folders that it may lie in by a link, beside the root; None where it may lie anywhere

    Raises
    ------
    DataError
        It leaves the root, by its name or by a link.
    """
    if "\0" in named:
        raise DataError(f"{place}: {named!r} is not a path; images are paths below {root}")
    text = named.replace("\\", "/")
    if os.path.isabs(text):
        below = os.path.relpath(text, root.absolute())
        text = below if links is None or not escapes(below) else text
    text = posixpath.normpath(text)
    if links is None:
        return text
    problem = escapes(text)
    real = (root / text).resolve()
    if not problem and not any(real.is_relative_to(top.resolve()) for top in (root, *links)):
        problem = f"leads to {real} by a link"
    if problem:
        raise DataError(f"{place}: '{named}' {problem}; images are paths below {root}, or pass"
                        " --allow-outside")
    return text
