"""``pairs``: your own images with key points in a table (docs/datasets.md).

``points.csv`` has a line for every point that an image has: ``image,point,x,y`` and, if you like,
``visible``. Images are paths below the root; a point means the same in all images of a category,
which is the image's folder (after train, val or test, where there are such folders). Without a
table of pairs (``source,target``), all ordered pairs of a category and split are taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

from gate_cache.core.errors import DataError, did_you_mean
from gate_cache.datasets.common.base import SPLITS, Keypoints, Pair, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, read_csv
from gate_cache.datasets.common.splits import Shares, Tree

EXPECTED = ("expected <root>/points.csv with the columns image, point, x, y (and visible), images"
            " being paths below <root>")
_VISIBLE = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False,
            "no": False}


@dataclass(frozen=True)
class Point:
    """One line of the table of points."""

    x: float
    y: float
    visible: bool


class Pairs(ImageFiles):
    """The images of a table of key points; ids are their paths below the root.

    Parameters
    ----------
    root : Path
    points, pairs : names of the tables below it; without one of pairs, all are taken
    shares : of images that become ``val`` and ``test`` where no folder is called so
    split_seed : another value, another split
    """

    protocol = ("pairs: ordered pairs inside a category and split, or as listed; points visible in"
                " both; box = tight box of the visible key points")

    def __init__(self, root: Path, points: str = "points.csv", pairs: str | None = None,
                 shares: Shares | None = None, split_seed: int = 0) -> None:
        super().__init__("pairs", root)
        self.tables = root / points, root / pairs if pairs else None
        self.shares = shares or {}
        self.split_seed = split_seed

    def samples(self) -> Sequence[Sample]:
        """All images of the table, sorted by path."""
        need_folder(self.root, "data set 'pairs'", EXPECTED)
        for i in self._points:
            if not self.path(i).is_file():
                raise DataError(f"{self.path(i)}: image not found, and {self.tables[0].name} has"
                                " points of it")
        return [Sample(i) for i in self._points]

    @cached_property
    def _points(self) -> dict[str, dict[str, Point]]:
        """Points of every image by name, images sorted."""
        path = self.tables[0]
        found: dict[str, dict[str, Point]] = defaultdict(dict)
        for number, row in read_csv(path, ("image", "point", "x", "y"), EXPECTED):
            if row["point"] in found[row["image"]]:
                raise DataError(f"{path}:{number}: '{row['image']}' has a point '{row['point']}'"
                                " already")
            found[row["image"]][row["point"]] = _point(path, number, row)
        if not found:
            raise DataError(f"{path}: no points; {EXPECTED}")
        return {i: found[i] for i in sorted(found)}

    @cached_property
    def _tree(self) -> Tree:
        return Tree([s.id for s in self.samples()], self.shares, self.split_seed)

    def category(self, sample_id: str) -> str:
        """The folder of an image that says what its points mean."""
        return self._tree.class_of[sample_id] or "all"

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Names of a category's points, in the order of their first lines."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for i, points in self._points.items():
            found[self.category(i)] |= dict.fromkeys(points)
        return {category: list(names) for category, names in found.items()}

    def keypoints(self, sample_id: str) -> Keypoints:
        """The points of an image; those of its category that it lacks are not visible."""
        import numpy as np

        points = self._points[sample_id]
        row = [points.get(name) for name in self._names[self.category(sample_id)]]
        xy = np.array([(p.x, p.y) if p else (np.nan, np.nan) for p in row])
        visible = np.array([p is not None and p.visible for p in row])
        shown = xy[visible] if visible.any() else np.full((1, 2), np.nan)
        return Keypoints(xy, visible, np.concatenate([shown.min(0), shown.max(0)]),
                         self.size(sample_id))

    def split_of(self, sample_id: str) -> Split:
        """The split of an image."""
        return self._tree.split_of[sample_id]

    def pairs(self, split: Split | None) -> list[Pair]:
        """Pairs of which both images are in a split; for None all that the table lists."""
        if self.tables[1] is not None:
            return [p for p in self._listed if split is None or self._both_in(p, split)]
        if split is None:
            return [p for s in SPLITS for p in self.pairs(s)]
        groups: dict[str, list[str]] = defaultdict(list)
        for i in self._points:
            if self.split_of(i) == split:
                groups[self.category(i)].append(i)
        return [Pair(a, b, name) for name, ids in groups.items() for a, b in permutations(ids, 2)]

    def _both_in(self, pair: Pair, split: Split) -> bool:
        return self.split_of(pair.source) == self.split_of(pair.target) == split

    @cached_property
    def _listed(self) -> list[Pair]:
        assert self.tables[1] is not None
        return [self._pair(number, row["source"], row["target"]) for number, row in
                read_csv(self.tables[1], ("source", "target"), EXPECTED)]

    def _pair(self, number: int, source: str, target: str) -> Pair:
        place = f"{self.tables[1]}:{number}"
        for i in (source, target):
            if i not in self._points:
                raise DataError(f"{place}: '{i}' has no points in {self.tables[0].name}"
                                f"{did_you_mean(i, self._points)}")
        if self.category(source) != self.category(target):
            raise DataError(f"{place}: '{source}' and '{target}' are of two categories, whose"
                            " points mean different things")
        return Pair(source, target, self.category(source))


def _point(path: Path, number: int, row: dict[str, str]) -> Point:
    try:
        x, y = float(row["x"]), float(row["y"])
        visible = _VISIBLE[row.get("visible", "").lower()]
    except ValueError:
        raise DataError(f"{path}:{number}: x = '{row['x']}', y = '{row['y']}' are no numbers"
                        ) from None
    except KeyError as error:
        raise DataError(f"{path}:{number}: visible is {error}, expected 1 or 0") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise DataError(f"{path}:{number}: x = {x}, y = {y} are not finite")
    return Point(x, y, visible)
