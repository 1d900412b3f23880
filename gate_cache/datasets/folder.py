"""``folder``: any tree of images. Nothing to train on yet, everything to extract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gate_cache.datasets.base import Sample
from gate_cache.datasets.files import ImageFiles, need_folder, walk
from gate_cache.errors import DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


class Folder(ImageFiles):
    """All images below a folder; a sample's id is its path below it."""

    def __init__(self, root: Path) -> None:
        super().__init__("folder", root)

    def samples(self) -> Sequence[Sample]:
        """All images, sorted by path."""
        need_folder(self.root, "image folder",
                    "put images there, or set dataset.root in the manifest, or --data")
        found = [Sample(name) for name in walk(self.root, EXTENSIONS)]
        if not found:
            raise DataError(f"{self.root}: no images ({', '.join(sorted(EXTENSIONS))}) below it")
        return found
