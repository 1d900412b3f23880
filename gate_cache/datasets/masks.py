"""``masks``: your own images and label pictures of the same names, and what their labels mean."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from gate_cache.core.errors import DataError, counted, did_you_mean, listed
from gate_cache.datasets.common.base import IGNORED, Split
from gate_cache.datasets.common.files import read_text, walk
from gate_cache.datasets.common.labelled import HIGHEST, LabelledImages, distinct
from gate_cache.datasets.common.splits import SplitRule, Tree
from gate_cache.datasets.folder import images_below
from gate_cache.manifest.dataset_specs import MasksSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Values:
    """Which label is which class.

    Attributes
    ----------
    names : label, or colour as ``#rrggbb``, to the name of its class, None for none; None where
        labels are the classes' numbers
    ignore : the label that does not count; None for 255 where `names` says nothing
    """

    names: Mapping[int | str, str | None] | None = None
    ignore: int | Literal["none"] | None = None

    @property
    def colours(self) -> bool:
        """Whether labels are colours."""
        return any(isinstance(label, str) for label in self.names or ())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order in which they are given."""
        return tuple(dict.fromkeys(name for name in (self.names or {}).values() if name))

    def table(self, classes: Sequence[str]) -> dict[int, int]:
        """Every label that may occur, and its class or `IGNORED`.

        A `DataError` where a name is no class, or a label no number and no colour.
        """
        if self.names is None:
            ignored = IGNORED if self.ignore is None else self.ignore
            table = {i: i for i in range(len(classes))}
            return table if ignored == "none" else {**table, ignored: IGNORED}
        by_label = {} if self.ignore in (None, "none") else {self._number(self.ignore): IGNORED}
        for label, name in self.names.items():
            if name is not None and name not in classes:
                raise DataError(f"dataset.values: {label}: '{name}' is none of the classes"
                                f"{did_you_mean(name, classes)}")
            number = self._number(label)
            if name is not None and number in by_label:
                raise DataError(f"dataset.values: {label}: '{name}', but dataset.ignore, or another"
                                " spelling of it, says otherwise; remove one of them")
            by_label[number] = IGNORED if name is None else classes.index(name)
        return by_label

    def _number(self, label: int | str | None) -> int:
        if isinstance(label, int) and not self.colours and 0 <= label <= HIGHEST:
            return label
        if not isinstance(label, str) or not _COLOUR.fullmatch(label):
            raise DataError(f"dataset.values: '{label}' is not a label: expected whole numbers"
                            f" of 0 … {HIGHEST}, or colours as in '#ff0000' for all of them")
        return int(label[1:], 16)


def hint_for(labels: Sequence[int], strange: Sequence[int], classes: int, values: Values) -> str:
    """The way out for the labels of a picture, sorted, of which the strange ones are no class."""
    if values.colours:
        colours = listed((f"'#{n:06x}'" for n in strange), 3)
        return f"; set in dataset.values which class {colours} is (null: none)"
    if values.names is not None:
        return "; set in dataset.values which class it is (null: none)"
    if IGNORED in strange:
        return "; set dataset.ignore: 255 if it does not count, or values: {0: …, 255: …}"
    if labels[0] == 1 and labels[-1] == classes:
        return f"; labels that start at 1 need dataset.values: {{1: …, {classes}: …}}"
    if list(strange) == [classes]:
        return f"; try dataset.ignore: {classes}, or classes: {classes + 1} names"
    return "; say which class each label is in dataset.values, as in {0: background, 18: car}"


SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Of label pictures: formats that keep labels as they are."""
EXPECTED = ("expected <root>/images/ and <root>/masks/ with a .png of the same name for every"
            " image, and the names of the classes in the manifest (dataset.classes) or in"
            " <root>/classes.txt, one a line")

MOST = IGNORED
"""Classes at most: 255 marks what does not count."""


class Masks(LabelledImages):
    """Images with a label picture each; ids are paths below the folder of images.

    Without `classes` in its section, their names are those of `values`, or of ``classes.txt``.
    """

    protocol = ("masks: IoU over all pixels of a split's images; a split is a folder called train,"
                " val or test, else a seeded part")
    expected = EXPECTED

    def __init__(self, root: Path, spec: MasksSpec) -> None:
        super().__init__("masks", root)
        self.parts = (spec.images, spec.masks)
        self.named = spec.classes
        self.values = Values(spec.values, spec.ignore)
        self.colours = self.values.colours
        self.rule = SplitRule.of(spec)

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.named is None and self.values.classes:
            return self.values.classes
        names = tuple(self.named) if self.named is not None else self._listed_classes()
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise DataError(f"{self.root}: class '{twice[0]}' is named twice, in dataset.classes or"
                            " classes.txt; give each label a name of its own, or set in"
                            " dataset.values which labels are one class")
        return names

    def _listed_classes(self) -> tuple[str, ...]:
        path = self.root / "classes.txt"
        names = tuple(filter(None, map(str.strip, read_text(path, EXPECTED).splitlines())))
        if not 0 < len(names) <= MOST:
            raise DataError(f"{path}: {len(names)} classes; expected 1 … {MOST}, one a line")
        return names

    def path(self, sample_id: str) -> Path:
        return self.root / self.parts[0] / sample_id

    def label_file(self, sample_id: str) -> Path:
        stem = PurePosixPath(sample_id).with_suffix("")
        return self.root / self.parts[1] / self._pictures.get(str(stem), f"{stem}.png")

    @cached_property
    def _pictures(self) -> Mapping[str, str]:
        """Label pictures below their folder, by path without suffix; .png comes first."""
        ranked = sorted(self._label_pictures(),  # the last one of a path is what the dict holds
                        key=lambda n: -SUFFIXES.index(os.path.splitext(n)[1].lower()))
        return {os.path.splitext(n)[0]: n for n in ranked}

    def _label_pictures(self) -> list[str]:
        return walk(self.root / self.parts[1], frozenset(SUFFIXES))

    def hint(self, sample_id: str) -> str:
        """Which files there are instead."""
        stem = PurePosixPath(sample_id).stem
        below = self.root / self.parts[1] / PurePosixPath(sample_id).parent
        there = [p.name for p in below.glob(f"{glob.escape(stem)}[._-]*")]
        if any(n.lower().endswith((".jpg", ".jpeg")) for n in there):
            return "JPEG does not keep labels as they were: save them as PNG; "
        return f"there is {listed(sorted(there), 2)}, which is called otherwise; " if there else ""

    def labels(self, sample_id: str) -> npt.NDArray[np.int64]:
        """(h, w) labels as the file has them; with colours as values, 0xRRGGBB."""
        from gate_cache.datasets.common.images import read_labels

        return read_labels(self.label_file(sample_id), self.colours)

    def to_mask(self, sample_id: str, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(H, W) class of every pixel; a label of none is named, with what it may mean."""
        if self._binary == "unclear":
            raise DataError(f"{self.root / self.parts[1]}: all labels are 0 or 255, and 255 is"
                            " ignored unless you set dataset.values: {0: background, 255: object}"
                            " (or ignore: 255)")
        try:
            return super().to_mask(sample_id, labels)
        except DataError as error:
            present = distinct(labels)
            strange = [n for n in present if n not in self._table]
            hint = hint_for(present, strange, len(self.classes), self.values) if strange else ""
            raise DataError(f"{error}{hint}") from None

    def notes(self) -> list[str]:
        """How 255 is read, and label pictures without an image."""
        stems = {os.path.splitext(s.id)[0] for s in self.samples()}
        lone = len(set(self._pictures) - stems)
        twins = len(self._label_pictures()) - len(self._pictures)
        return [*([f"all label pictures are black and white: 255 is read as '{self.classes[1]}'"]
                  if self._binary == "object" else []),
                *([f"without an image: {counted(lone, 'label picture')}"] if lone else []),
                *([f"not read: {counted(twins, 'label picture')} called as another but for the"
                   f" suffix ({', '.join(SUFFIXES)}: the first counts)"] if twins else [])]

    def passed_over(self) -> dict[str, int]:
        return self._images[1]

    def table(self, sample_id: str) -> Mapping[int, int]:
        """Labels are classes, but for the one that does not count; or as `values` says."""
        return self._table

    @cached_property
    def _table(self) -> Mapping[int, int]:
        table = self.values.table(self.classes)
        return {**table, IGNORED: 1} if self._binary == "object" else table

    @cached_property
    def _binary(self) -> Literal["object", "unclear"] | None:
        """What 255 is where no picture of the set has another label but 0, and nothing is said."""
        if self.values.names or self.values.ignore is not None:
            return None
        present: set[int] = set()
        for sample in self.samples():
            present.update(distinct(self.labels(sample.id)))
            if not present <= {0, IGNORED}:
                return None  # which in most sets the first picture shows: the rest is not read
        return None if IGNORED not in present else "object" if len(self.classes) == 2 else "unclear"

    @cached_property
    def _images(self) -> tuple[list[str], dict[str, int]]:
        return images_below(self.root / self.parts[0])

    def listed(self) -> tuple[list[str], list[str]]:
        self.values.table(self.classes)  # which names the first value that is no class
        ids = self._images[0]
        stems: dict[str, str] = {}
        for i in ids:
            twin = stems.setdefault(os.path.splitext(i)[0], i)
            if twin != i:
                raise DataError(f"{self.path(twin)}: '{i}' has the same name but for its suffix,"
                                " and would share its label picture; rename or remove one")
        # as they are now: listing is what notices that one is gone
        there = {os.path.splitext(name)[0] for name in self._label_pictures()}
        return ids, [i for stem, i in stems.items() if stem not in there]

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        return Tree(self.root / self.parts[0], [s.id for s in self.samples()], self.rule).split_of
