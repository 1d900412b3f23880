"""``pairs``: your own images with key points in a table (docs/datasets.md).

``points.csv`` has a line for every point that an image has: ``image,point,x,y`` and, if you like,
``visible``. Images are paths below the root; a point means the same in all images of a category,
which is the image's own folder (train, val or test apart). Without a table of pairs
(``source,target``), all ordered pairs of a category and split are taken.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from gate_cache.core.errors import DataError, counted, did_you_mean, listed
from gate_cache.datasets.common.base import SPLITS, Keypoints, Pair, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, passed_over
from gate_cache.datasets.common.listed_pairs import PairsWithin, notes_on
from gate_cache.datasets.common.splits import BY_FOLDER, SplitRule, Tree, parent_of
from gate_cache.datasets.common.tables import EMPTY, Row, inside, number, read_csv, whole

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
    """Points of every image by name, images sorted; and how many lines give none, by why."""

    points: dict[str, dict[str, TablePoint]] = field(default_factory=dict)
    odd: Counter[str] = field(default_factory=Counter)


def read_points(path: Path, path_of: Callable[[str, str], str]) -> PointTable:
    """Read a table with the columns image, point, x, y and perhaps visible.

    `path_of` makes an id of a name in the table, and the place for messages. The `DataError` of a
    line that is no point, or repeats one of its image, says how many more there are.
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


LOOKS = "case, spaces or the coding of accents alone"


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ by no more than `LOOKS`."""
    groups = defaultdict[str, list[str]](list)
    for name in names:
        groups[" ".join(unicodedata.normalize("NFC", name).casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _point(place: str, row: Row, coco: bool, odd: Counter[str]) -> TablePoint:
    visible = _visibility(place, row, coco)
    x, y = _place(place, row)
    if x is None or y is None:
        odd[NO_PLACE] += visible != "0"
        return TablePoint(float("nan"), float("nan"), False)
    if (x, y) == (0, 0) and not visible:  # so COCO writes a point that is not annotated
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
        raise DataError(f"{place}: x = '{texts[0]}', y = '{texts[1]}' are not numbers; leave both"
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


class Pairs(ImageFiles):
    """The images of a table of key points; ids are their paths below the root.

    Parameters
    ----------
    root : Path
    points, pairs : names of the tables below it; without one of pairs, all are taken
    rule : how images are split
    links : folders that an image may lie in by a link, beside the root; None where it may lie
        anywhere
    """

    protocol = ("pairs: ordered pairs inside a category and split, or as listed; points visible in"
                " both; box = tight box of the visible key points")

    def __init__(self, root: Path, points: str = "points.csv", pairs: str | None = None,
                 rule: SplitRule = BY_FOLDER, links: Sequence[Path] | None = ()) -> None:
        super().__init__("pairs", root)
        self.rule = rule
        self.links = links
        self.tables = root / points, root / pairs if pairs else None

    def samples(self) -> Sequence[Sample]:
        need_folder(self.root, "data set 'pairs'", EXPECTED)
        lacking = [i for i in self._points if not self.path(i).is_file()]
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise DataError(f"{self.path(lacking[0])}: image not found{more}, and"
                            f" {self.tables[0].name} has points of it; images are paths below"
                            f" {self.root}")
        return [Sample(i) for i in self._points]

    @cached_property
    def _table(self) -> PointTable:
        return read_points(self.tables[0], self._id)

    def _id(self, named: str, place: str) -> str:
        return inside(self.root, named, place, self.links)

    @property
    def _points(self) -> dict[str, dict[str, TablePoint]]:
        return self._table.points

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self.root, [s.id for s in self.samples()], self.rule)

    def category(self, sample_id: str) -> str:
        """The folder of an image that says what its points mean."""
        return next(iter(self._tree.folders_of[parent_of(sample_id)][::-1]), "all")

    def point_names(self) -> dict[str, list[str]]:
        """Names of a category's points, in the order of their first lines."""
        return self._names

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        by_category: dict[str, dict[str, None]] = defaultdict(dict)
        for i, points in self._points.items():
            by_category[self.category(i)] |= dict.fromkeys(points)
        for category, names in by_category.items():
            for group in alike(names):
                raise DataError(f"{self.tables[0]}: category '{category}' has the points"
                                f" {listed(map(repr, sorted(group)))}, which differ by {LOOKS};"
                                " spell them alike")
        return {category: list(names) for category, names in by_category.items()}

    def notes(self) -> list[str]:
        """What of the tables does not count, or is improbable, a line for each kind."""
        lines = [f"{self.tables[0].name}: {counted(count, 'point')} {why}"
                 for why, count in sorted(self._table.odd.items()) if count]
        if self.tables[1] is None:
            return lines
        name, pairs = self.tables[1].name, self._listed
        if apart := sum(self.split_of(p.source) != self.split_of(p.target) for p in pairs):
            lines.append(f"{name}: in no split: {apart} of {counted(len(pairs), 'pair')}, whose"
                         " images are in two")
        return [*lines, *notes_on(name, pairs)]

    def passed_over(self) -> dict[str, int]:
        own = {t.relative_to(self.root).as_posix() for t in self.tables if t}
        return passed_over(self.root, {*self._points, *own})

    def keypoints(self, sample_id: str) -> Keypoints:
        """The points of an image; those of its category that it lacks are not visible.

        Nor are those outside the picture.
        """
        import numpy as np

        from gate_cache.datasets.common.points import tight_box, within

        points = self._points[sample_id]
        row = [points.get(name) for name in self._names[self.category(sample_id)]]
        xy = np.array([(p.x, p.y) if p else (np.nan, np.nan) for p in row])
        size = self.size(sample_id)
        visible = np.array([p is not None and p.visible for p in row]) & within(xy, size)
        return Keypoints(xy, visible, tight_box(xy, visible), size)

    def split_of(self, sample_id: str) -> Split:
        return self._tree.split(sample_id)

    def pairs(self, split: Split | None) -> Sequence[Pair]:
        """Pairs of which both images are in a split; for None all that the table lists."""
        if self.tables[1] is not None:
            return [p for p in self._listed if split is None
                    or self.split_of(p.source) == self.split_of(p.target) == split]
        groups: dict[tuple[Split, str], list[str]] = defaultdict(list)
        for i in self._points:
            if split in (None, self.split_of(i)):
                groups[self.split_of(i), self.category(i)].append(i)
        order = sorted(groups, key=lambda group: SPLITS.index(group[0]))  # stable within a split
        return PairsWithin((name, groups[s, name]) for s, name in order)

    @cached_property
    def _listed(self) -> list[Pair]:
        path, pairs, wrong = self.tables[1], list[Pair](), list[str]()
        for line, row in read_csv(path, ("source", "target"), EXPECTED) if path else ():
            try:
                pairs.append(self._pair(f"{path}:{line}", row["source"], row["target"], not wrong))
            except DataError as error:
                wrong.append(str(error))
        raise_all(wrong)
        return pairs

    def _pair(self, place: str, first: str, second: str, hint: bool) -> Pair:
        source, target = self._id(first, place), self._id(second, place)
        for i in (source, target):
            if i not in self._points:  # every line may be wrong, and to look among all takes long
                raise DataError(f"{place}: '{i}' has no points in {self.tables[0].name}"
                                f"{did_you_mean(i, self._points) if hint else ''}")
        if self.category(source) != self.category(target):
            raise DataError(f"{place}: '{source}' and '{target}' are of two categories, whose"
                            " points mean different things")
        return Pair(source, target, self.category(source))
