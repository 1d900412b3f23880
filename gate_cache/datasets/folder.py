"""``folder``: any tree of images, with classes by folder where there are any."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from gate_cache.core.errors import DataError, counted, did_you_mean
from gate_cache.datasets.common.base import Listing, NoClass, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, passed_over_line, pictures
from gate_cache.datasets.common.splits import BY_FOLDER, SplitRule, Tree, parent_of


class ImageFolder(ImageFiles):
    """All images below a folder; a sample's id is its path below it.

    Parameters
    ----------
    root : Path
    rule : how images are split
    files : the images, as paths below `root`; by default all that are there
    labels : classes of images by id, in place of those by folder
    """

    protocol = ("folder: accuracy over all images of a split; a class is a folder, a split a folder"
                " called train, val or test, else a seeded part")

    named_splits = True  # names and settings alone decide them, and the classes

    def __init__(self, root: Path, rule: SplitRule = BY_FOLDER,
                 files: Sequence[str] | None = None,
                 labels: Mapping[str, str] | None = None) -> None:
        super().__init__("folder", root)
        self.rule = rule
        self.files = files
        self.labels = labels

    def samples(self) -> Sequence[Sample]:
        """All images, sorted by path, or those that were named, in their order.

        A `DataError` where there are none, or one that was named is missing or named twice.
        """
        return Listing(self._walked[0])

    @cached_property
    def _walked(self) -> tuple[list[str], dict[str, int]]:
        """Ids of all images, and how many other files there are, by suffix."""
        need_folder(self.root, "image folder",
                    "put images there, or set dataset.root in the manifest, or --data")
        return images_below(self.root) if self.files is None else self._named(self.files)

    def _named(self, files: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        names = [posixpath.normpath(name) for name in files]
        for name, times in Counter(names).items():
            if times > 1:
                raise DataError(f"{self.root}: dataset.files names '{name}' {times} times")
            if not self.path(name).is_file():
                raise DataError(f"{self.path(name)}: not found, but dataset.files names it")
        return names, {}

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self.root, self._walked[0], self.rule)

    @cached_property
    def _class_of(self) -> dict[str, str | None]:
        """The label of each image; else of each folder: the part of its path after the split, or
        else the first one, where there is one."""
        if self.labels is not None:
            return self._labelled(self.labels)
        folders, split = self._tree.folders_of, self._tree.depth or 0
        before = {tuple(path[:split]) for path in folders.values()}
        after = any(len(path) > split for path in folders.values())
        if len(before) > 1 and after:
            raise DataError(f"{self.root}: classes lie both above the folders train, val and test"
                            " and below them; put all images into <split>/<class>/")
        # <split>/<class>/, or <class>/<split>/, or without splits <class>/
        level = split if len(before) == 1 and after else max(split - 1, 0)
        return {i: path[level] if len(path) > level else None for i, path in folders.items()}

    def _labelled(self, labels: Mapping[str, str]) -> dict[str, str | None]:
        ids = self._walked[0]
        if strange := sorted(labels.keys() - set(ids)):
            raise DataError(f"{self.root}: labels are given for {counted(len(strange), 'image')}"
                            f" not there, such as '{strange[0]}'{did_you_mean(strange[0], ids)}")
        return {i: labels.get(i) for i in ids}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted({name for name in self._class_of.values() if name is not None}))

    def label(self, sample_id: str) -> int:
        """The class of an image; a `NoClass` where it lies in no class folder."""
        key = parent_of(sample_id) if self.labels is None else sample_id
        number = self._numbers[key]
        if number is None:
            raise NoClass(f"{self.path(sample_id)}: has no label" if self.labels else
                          f"{self.path(sample_id)}: is in no class folder; move it to"
                          " <class>/, or to train/<class>/, test/<class>/ …")
        return number

    @cached_property
    def _numbers(self) -> dict[str, int | None]:
        """As `_class_of`, by the classes' numbers."""
        numbers: dict[str | None, int] = {name: n for n, name in enumerate(self.classes)}
        return {key: numbers.get(name) for key, name in self._class_of.items()}

    def split_of(self, sample_id: str) -> Split:
        return self._tree.split(sample_id)

    def splits(self) -> list[Split]:
        """The split of every image."""
        return self._tree.splits()

    def passed_over(self) -> dict[str, int]:
        return self._walked[1]


def images_below(root: Path) -> tuple[list[str], dict[str, int]]:
    """All images below a folder, sorted by path, and the other files by suffix; a `DataError`
    where there are no images."""
    others: Counter[str] = Counter()
    samples = pictures(root, others)
    if not samples:
        raise DataError(f"{root}: no images below it"
                        + (f" that can be read ({passed_over_line(others)})" if others else ""))
    return samples, dict(sorted(others.items()))
