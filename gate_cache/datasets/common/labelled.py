"""What data sets share whose pixels have classes: from the labels in a file to a mask."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import IGNORED, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, walk
from gate_cache.datasets.common.splits import with_val
from gate_cache.manifest.dataset_specs import HeldOut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HIGHEST = 65535
"""The highest label that is no colour."""
_UNKNOWN = 256


class LabelledImages(ImageFiles):
    """Base: images with a label file each.

    Attributes
    ----------
    classes : names of the classes, by number
    expected : how the tree should look and where to get it
    parts : folders that must be there below the root
    colours : whether labels are colours, as 0xRRGGBB
    """

    classes: tuple[str, ...]
    expected: str
    parts: tuple[str, ...]
    colours = False

    def listed(self) -> tuple[list[str], list[str]]:
        """Ids of all images, and those among them that have no label file."""
        raise NotImplementedError

    def label_file(self, sample_id: str) -> Path:
        """The file with an image's labels."""
        raise NotImplementedError

    def hint(self, sample_id: str) -> str:
        """What may be the matter with an image's labels that were not found."""
        return ""

    def sources(self, sample_id: str) -> tuple[Path, ...]:
        return self.path(sample_id), self.label_file(sample_id)

    def labels(self, sample_id: str) -> npt.NDArray[np.int64]:
        """(h, w) labels as the file has them."""
        from gate_cache.datasets.common.images import read_labels

        return read_labels(self.label_file(sample_id))

    def table(self, sample_id: str) -> Mapping[int, int]:
        """Every label that may occur in an image's file, and its class or `IGNORED`."""
        return plain_table(len(self.classes))

    def to_mask(self, sample_id: str, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(H, W) class of every pixel, from an image's labels.

        A `DataError` where they have another size than the image, or do not exist.
        """
        path, size = self.label_file(sample_id), self.size(sample_id)
        if labels.shape != size:
            raise DataError(f"{path}: {labels.shape[0]} × {labels.shape[1]} labels for an image of"
                            f" {size[0]} × {size[1]} (height × width); make them as large as the"
                            " upright image, without smoothing")
        return to_classes(path, labels, self.table(sample_id), self.colours)

    def faults_of(self, labels: Mapping[int, int]) -> list[str]:
        """What is wrong with all images' labels together, from how many images have each."""
        return []

    @property
    def _splits(self) -> Mapping[str, Split]:
        raise NotImplementedError

    def samples(self) -> Sequence[Sample]:
        need_folder(self.root, self.name, self.expected)
        for part in self.parts:
            need_folder(self.root / part, "folder", self.expected)
        ids, lone = self.listed()
        if not ids:
            raise DataError(f"{self.root}: no images; {self.expected}")
        if lone:
            more = f" ({len(lone)} of {len(ids)} images have none)" if len(lone) > 1 else ""
            raise DataError(f"{self.path(lone[0])}: has no labels, {self.label_file(lone[0])} not"
                            f" found{more}; {self.hint(lone[0])}{self.expected}")
        return [Sample(i) for i in ids]

    def split_of(self, sample_id: str) -> Split:
        return self._splits[sample_id]

    def mask(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """(H, W) class of every pixel, `IGNORED` where none counts.

        A `DataError` as of `labels` and `to_mask`.
        """
        return self.to_mask(sample_id, self.labels(sample_id))


class PublishedHalves(LabelledImages):
    """Base: images whose test half is published; ids are paths below the folder of images.

    Parameters
    ----------
    root : folder that holds those of images and of labels
    spec : which share of the published training images is ``val``

    Attributes
    ----------
    folders : of images, and of labels
    halves : folders below each: what is trained on, and what is ``test`` here
    """

    folders: tuple[str, str]
    halves: tuple[str, str]

    def __init__(self, root: Path, spec: HeldOut) -> None:
        super().__init__(self.name, root)
        self.spec = spec
        self.parts = tuple(f"{folder}/{half}" for folder in self.folders for half in self.halves)

    def path(self, sample_id: str) -> Path:
        return self.root / self.folders[0] / sample_id

    def files(self, extensions: frozenset[str]) -> list[str]:
        """Paths of all images of both halves, the training images first."""
        return [f"{half}/{name}" for half in self.halves
                for name in walk(self.root / self.folders[0] / half, extensions)]

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        ids = [s.id for s in self.samples()]
        train = [i for i in ids if i.startswith(f"{self.halves[0]}/")]
        return with_val(train, set(ids) - set(train), self.spec.val, self.spec.split_seed)


@cache
def _published() -> dict[str, list[str]]:
    return tomllib.loads(Path(__file__).parents[1].joinpath("classes.toml").read_text("utf-8"))


def class_names(data_set: str) -> tuple[str, ...]:
    """Names of a published data set's classes, in the order of their labels."""
    return tuple(_published()[data_set])


def plain_table(classes: int) -> dict[int, int]:
    """Labels that are the classes themselves, and 255, which does not count."""
    return {**{i: i for i in range(classes)}, IGNORED: IGNORED}


def to_classes(path: Path, labels: npt.NDArray[np.int64],
               table: Mapping[int, int], colours: bool = False) -> npt.NDArray[np.uint8]:
    """Translate labels, colours as 0xRRGGBB; one that is not in `table` is a `DataError`."""
    import numpy as np

    highest = 0xFFFFFF if colours else HIGHEST
    classes = _lookup(highest, tuple(table), tuple(table.values()))[np.clip(labels, 0, highest)]
    strange = (classes == _UNKNOWN) | (labels < 0) | (labels > highest)
    if strange.any():
        y, x = np.argwhere(strange)[0]
        label = labels[y, x]
        what = f"colour #{label:06x}" if colours else f"label {label}"
        there = ", ".join(f"#{n:06x}" for n in table) if colours else _spans(sorted(table))
        raise DataError(f"{path}: {what} at x = {x}, y = {y} is not one of {there}")
    return classes.astype(np.uint8)


@lru_cache(4)  # of colours it is 32 MB and takes longer than a picture, and all pictures have one
def _lookup(highest: int, labels: Sequence[int], classes: Sequence[int]) -> npt.NDArray[np.uint16]:
    """(highest + 1,): the class of every label, so that no class needs a comparison of its own."""
    import numpy as np

    lookup = np.full(highest + 1, _UNKNOWN, np.uint16)  # 256 must not look like a class
    lookup[list(labels)] = list(classes)
    return lookup


def distinct(labels: npt.NDArray[np.int64]) -> list[int]:
    """Which labels occur, sorted."""
    import numpy as np

    return [int(n) for n in np.unique(labels)]


def _spans(numbers: list[int]) -> str:
    """``0 … 3, 255`` for 0, 1, 2, 3, 255."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(f"{a} … {b}" if a < b else str(a) for a, b in zip(starts, ends, strict=True))
