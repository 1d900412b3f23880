"""``folder``: any tree of images, with classes by folder where there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Listing, NoClass, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder
from gate_cache.datasets.common.pictures import passed_over_line, pictures
from gate_cache.datasets.common.splits import Shares, Tree, parent_of


class ImageFolder(ImageFiles):
    """All images below a folder; a sample's id is its path below it.

    Parameters
    ----------
    root : Path
    shares : of images that become ``val`` and ``test`` where no folder is called so
    split_seed : another value, another split
    split_folders : whether folders called after splits are the splits
    """

    protocol = ("folder: accuracy over all images of a split; a class is a folder, a split a folder"
                " called train, val or test, else a seeded share")

    named_splits = True  # names and settings alone decide them

    def __init__(self, root: Path, shares: Shares | None = None, split_seed: int = 0,
                 split_folders: bool = True) -> None:
        super().__init__("folder", root)
        self.shares = shares or {}
        self.split_seed = split_seed
        self.split_folders = split_folders

    def samples(self) -> Sequence[Sample]:
        """All images, sorted by path."""
        return Listing(self._walked[0])

    @cached_property
    def _walked(self) -> tuple[list[str], dict[str, int]]:
        """Ids of all images, and how many other files there are, by suffix."""
        need_folder(self.root, "image folder",
                    "put images there, or set dataset.root in the manifest, or --data")
        return images_below(self.root)

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self.root, self._walked[0], self.shares, self.split_seed, self.split_folders)

    @cached_property
    def _class_of(self) -> dict[str, str | None]:
        """Of each folder: the part of its path after the split, or else the first one, where there
        is one."""
        folders, split = self._tree.folders_of, self._tree.depth or 0
        before = {tuple(path[:split]) for path in folders.values()}
        after = any(len(path) > split for path in folders.values())
        if len(before) > 1 and after:
            raise DataError(f"{self.root}: classes lie both above the folders train, val and test"
                            " and below them; put all images into <split>/<class>/")
        at = split if len(before) == 1 and after else max(split - 1, 0)
        return {i: path[at] if len(path) > at else None for i, path in folders.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, sorted."""
        return tuple(sorted({name for name in self._class_of.values() if name}))

    def label(self, sample_id: str) -> int:
        """The class of an image.

        Raises
        ------
        NoClass
            It lies in no class folder.
        """
        name = self._class_of[parent_of(sample_id)]
        if name is None:
            raise NoClass(f"{self.path(sample_id)}: is in no class folder; move it to"
                          " <class>/, or to train/<class>/, test/<class>/ …")
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def split_of(self, sample_id: str) -> Split:
        """By folder or by share; ``train`` where neither is given."""
        return self._tree.split(sample_id)

    def passed_over(self) -> dict[str, int]:
        """Files that are no images, by suffix."""
        return self._walked[1]


def images_below(root: Path) -> tuple[list[str], dict[str, int]]:
    """All images below a folder, sorted by path, and the other files by suffix; a `DataError`
    where there are no images."""
    others: Counter[str] = Counter()
    found = pictures(root, others)
    if not found:
        raise DataError(f"{root}: no images below it"
                        + (f" that can be read ({passed_over_line(others)})" if others else ""))
    return found, dict(sorted(others.items()))
