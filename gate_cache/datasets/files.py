"""What data sets made of image files share: root checks, hashing, reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.errors import DataError
from gate_cache.fingerprint import file_sha256

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ImageFiles:
    """Base of data sets whose samples are files below a root.

    Parameters
    ----------
    name : what messages and stores call the data set
    root : folder; checked when the samples are listed
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root

    def path(self, sample_id: str) -> Path:
        """The image file of a sample."""
        return self.root / sample_id

    def sha256(self, sample_id: str) -> str:
        """sha256 (hex) of the image file."""
        try:
            return file_sha256(self.path(sample_id))
        except OSError as error:
            raise DataError(f"{self.path(sample_id)}: cannot be read: {error.strerror}") from None

    def size(self, sample_id: str) -> tuple[int, int]:
        """(height, width) in pixels, from the file's header."""
        from gate_cache.datasets.images import size_of

        return size_of(self.path(sample_id))

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """The image as (height, width, 3) RGB."""
        from gate_cache.datasets.images import read_rgb

        return read_rgb(self.path(sample_id))


def need_folder(root: Path, what: str, expected: str) -> None:
    """Raise `DataError` with the way out unless `root` is a folder."""
    if not root.is_dir():
        raise DataError(f"{root}: {what} not found; {expected}")


def walk(root: Path, extensions: frozenset[str]) -> list[str]:
    """Relative paths (``/`` between parts) of all files with these extensions, sorted.

    Hidden files and folders are skipped; links to folders are followed, loops are not.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in seen:
            folders[:] = []
            continue
        seen.add((info.st_dev, info.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        below = Path(folder).relative_to(root)
        found += [(below / n).as_posix() for n in names
                  if not n.startswith(".") and os.path.splitext(n)[1].lower() in extensions]
    return sorted(found)
