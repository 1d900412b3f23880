"""Reading ``points.csv`` of `gate_cache.datasets.pairs`, as people export it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.tables import EMPTY, Row, number, read_csv, whole

EXPECTED = ("expected <root>/points.csv with the columns image, point, x, y (and visible), images"
            " being paths below <root>")
_VISIBLE = {"true": "1", "yes": "1", "false": "0", "no": "0"}
NO_PLACE = "without a place (empty, nan or -1, -1): not visible"
ZERO = ("at 0, 0 without a word on visibility: taken as not annotated (1 in a column 'visible' says"
        " that they are meant)")
HIDDEN = "hidden, as COCO's visibility 1 beside 2 says: not visible"


@dataclass(frozen=True)
class TablePoint:
    """One line of the table of points; NaN where it gives no place."""

    x: float
    y: float
    visible: bool


@dataclass
class PointTable:
    """All lines.

    Attributes
    ----------
    points : of every image by name, images sorted
    odd : how many lines give no visible point, by why
    """

    points: dict[str, dict[str, TablePoint]] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)


def read_points(path: Path, path_of: Callable[[str, str], str]) -> PointTable:
    """Read a table with the columns image, point, x, y and perhaps visible.

    Parameters
    ----------
    path_of : a name in the table, and the place for messages, to an id

    Raises
    ------
    DataError
        A line that is no point, or a point that an image has twice: the line is named, and how many
        more there are.
    """
    rows = read_csv(path, ("image", "point", "x", "y"), EXPECTED, empty=("x", "y"))
    coco = any(whole(row.get("visible", "")) == "2" for _, row in rows)
    table, points = PointTable(), defaultdict[str, dict[str, TablePoint]](dict)
    wrong: list[str] = []
    for line, row in rows:
        place = f"{path}:{line}"
        try:
            sample_id, name = path_of(row["image"], place), whole(row["point"])
            if name in points[sample_id]:
                raise DataError(f"{place}: '{sample_id}' has a point '{name}' already")
            points[sample_id][name] = _point(place, row, coco, table.odd)
        except DataError as error:
            wrong.append(str(error))
    raise_all(wrong)
    if not points:
        raise DataError(f"{path}: no points; {EXPECTED}")
    table.points = {i: points[i] for i in sorted(points)}
    return table


def raise_all(wrong: Sequence[str]) -> None:
    """Raise one line for several: the first, and how many more there are."""
    if wrong:
        more = f" ({len(wrong)} lines are wrong)" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}")


def refuse_alike(path: Path, category: str, names: Iterable[str]) -> None:
    """Raise where names of a category's points differ by case alone."""
    for group in same_but_case(names):
        alike = listed(f"'{n}'" for n in sorted(group))
        raise DataError(f"{path}: category '{category}' has the points {alike}, which differ by"
                        " case alone; spell them alike")


def same_but_case(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ by case alone."""
    groups = defaultdict[str, list[str]](list)
    for name in names:
        groups[name.casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _point(place: str, row: Row, coco: bool, odd: Counter[str]) -> TablePoint:
    visible = _visibility(place, row, coco)
    x, y = _place(place, row)
    if x is None or y is None:
        odd[NO_PLACE] += visible != "0"
        return TablePoint(float("nan"), float("nan"), False)
    if (x, y) == (0, 0) and not visible:
        odd[ZERO] += 1
        return TablePoint(x, y, False)
    if coco:
        odd[HIDDEN] += visible == "1"
        return TablePoint(x, y, visible == "2")
    return TablePoint(x, y, visible != "0")


def _place(place: str, row: Row) -> tuple[float | None, float | None]:
    texts = row.get("x", ""), row.get("y", "")
    try:
        x, y = map(number, texts)
    except ValueError:
        raise DataError(f"{place}: x = '{texts[0]}', y = '{texts[1]}' are no numbers; leave both"
                        " empty where there is no point") from None
    if (x is None) != (y is None):
        raise DataError(f"{place}: no '{'x' if x is None else 'y'}', and there is the other")
    return (None, None) if (x, y) == (-1, -1) else (x, y)


def _visibility(place: str, row: Row, coco: bool) -> str:
    """``0``, ``1``, with `coco` ``2``, or nothing where nothing is said."""
    text = whole(row.get("visible", "").lower())
    value = "" if text in EMPTY else _VISIBLE.get(text, text)
    if value not in ("", "0", "1", "2"):
        raise DataError(f"{place}: visible is '{text}', expected 1 or 0, or COCO's 0, 1 and 2")
    return "2" if coco and text in ("true", "yes") else value
