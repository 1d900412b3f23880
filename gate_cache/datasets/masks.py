"""``masks``: your own images and label pictures of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Split
from gate_cache.datasets.common.files import passed_over, read_text, walk
from gate_cache.datasets.common.labelled import LabelledImages, plain_table
from gate_cache.datasets.common.splits import Shares, Tree
from gate_cache.datasets.folder import images_below

EXPECTED = ("expected <root>/images/ and <root>/masks/ with a .png of the same name for every"
            " image, and the names of the classes in the manifest (dataset.classes) or in"
            " <root>/classes.txt, one a line")

MOST = 255
"""Classes at most: 255 marks what does not count."""


class Masks(LabelledImages):
    """Images with a label picture each; ids are paths below the folder of images.

    Parameters
    ----------
    root : Path
    folders : names of the folders of images and of label pictures below it
    classes : their names, by label; None for those of ``classes.txt``
    ignore : the label that does not count
    shares : of images that become ``val`` and ``test`` where no folder is called so
    split_seed : another value, another split
    """

    protocol = ("masks: IoU over all pixels of a split's images; a split is a folder called train,"
                " val or test, else a seeded share")
    expected = EXPECTED

    def __init__(self, root: Path, folders: tuple[str, str] = ("images", "masks"),
                 classes: Sequence[str] | None = None, ignore: int = 255,
                 shares: Shares | None = None, split_seed: int = 0) -> None:
        super().__init__("masks", root)
        self.parts = folders
        self.named = classes
        self.ignore = ignore
        self.shares = shares or {}
        self.split_seed = split_seed

    @cached_property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes, by label."""
        return tuple(self.named) if self.named is not None else self._listed_classes()

    def _listed_classes(self) -> tuple[str, ...]:
        path = self.root / "classes.txt"
        names = tuple(filter(None, map(str.strip, read_text(path, EXPECTED).splitlines())))
        if not 0 < len(names) <= MOST:
            raise DataError(f"{path}: {len(names)} classes; expected 1 … {MOST}, one a line")
        return names

    def path(self, sample_id: str) -> Path:
        """The image file of a sample."""
        return self.root / self.parts[0] / sample_id

    def label_file(self, sample_id: str) -> Path:
        """The label picture of a sample."""
        return (self.root / self.parts[1] / sample_id).with_suffix(".png")

    def passed_over(self) -> dict[str, int]:
        """Files among the images that are none, by suffix."""
        return passed_over(self.root / self.parts[0], {s.id for s in self.samples()})

    def classes_by_label(self) -> Mapping[int, int]:
        """Labels are classes, but for the one that does not count."""
        return plain_table(len(self.classes), self.ignore)

    def listed(self) -> tuple[list[str], list[str]]:
        """Ids of all images, and those without labels."""
        ids = [s.id for s in images_below(self.root / self.parts[0])]
        there = set(walk(self.root / self.parts[1], frozenset({".png"})))
        return ids, [i for i in ids if Path(i).with_suffix(".png").as_posix() not in there]

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        return Tree([s.id for s in self.samples()], self.shares, self.split_seed).split_of
