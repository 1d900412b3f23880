"""``folder``: any tree of images, with classes by folder where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, passed_over
from gate_cache.datasets.common.pictures import passed_over_line, pictures
from gate_cache.datasets.common.splits import Shares, Tree


class Folder(ImageFiles):
    """All images below a folder; a sample's id is its path below it.

    Parameters
    ----------
    root : Path
    shares : of images that become ``val`` and ``test`` where no folder is called so
    split_seed : another value, another split
    """

    protocol = ("folder: accuracy over all images of a split; a class is a folder, a split a folder"
                " called train, val or test, else a seeded share of each class")

    def __init__(self, root: Path, shares: Shares | None = None, split_seed: int = 0) -> None:
        super().__init__("folder", root)
        self.shares = shares or {}
        self.split_seed = split_seed

    def samples(self) -> Sequence[Sample]:
        """All images, sorted by path."""
        need_folder(self.root, "image folder",
                    "put images there, or set dataset.root in the manifest, or --data")
        return images_below(self.root)

    @cached_property
    def _tree(self) -> Tree:
        return Tree([s.id for s in self.samples()], self.shares, self.split_seed)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, sorted."""
        return tuple(sorted({name for name in self._tree.class_of.values() if name}))

    def label(self, sample_id: str) -> int:
        """The class of an image.

        Raises
        ------
        DataError
            It lies in no class folder.
        """
        name = self._tree.class_of[sample_id]
        if name is None:
            raise DataError(f"{self.path(sample_id)}: is in no class folder; move it to"
                            " <class>/, or to train/<class>/, test/<class>/ …")
        return self.classes.index(name)

    def split_of(self, sample_id: str) -> Split:
        """By folder or by share; ``train`` where neither is given."""
        return self._tree.split_of[sample_id]

    def passed_over(self) -> dict[str, int]:
        """Files that are no images, by suffix."""
        return passed_over(self.root, {s.id for s in self.samples()})


def images_below(root: Path) -> list[Sample]:
    """All images below a folder, sorted by path; a `DataError` where there are none."""
    found = [Sample(name) for name in pictures(root)]
    if not found:
        other = passed_over(root, ())
        raise DataError(f"{root}: no images below it"
                        + (f" that can be read ({passed_over_line(other)})" if other else ""))
    return found
