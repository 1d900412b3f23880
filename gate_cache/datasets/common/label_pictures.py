"""Label pictures as people paint them: grey, palettes, grey saved as colours, and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.images import Labels, read_labels

_COLOURED = ("RGB", "RGBA", "LA")


def read_picture(path: Path, colours: bool = False) -> Labels:
    """Read a label picture as (h, w) numbers.

    Parameters
    ----------
    colours : whether labels are colours, as 0xRRGGBB, of whatever kind the picture is

    Raises
    ------
    DataError
        Missing or damaged; a picture of colours where none are asked for, or one with transparency.
    """
    try:
        with Image.open(path) as image:
            if not colours and image.mode not in _COLOURED:
                return read_labels(path)
            wide = image.mode.startswith(("I", "F"))
            values = np.asarray(image if wide else image.convert("RGBA"), np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return read_labels(path)  # which says what is wrong with it
    if wide or ((values[..., 3] < 255).any() and not (values[..., 3] == values[..., 0]).all()):
        raise DataError(f"{path}: cannot be read as labels (transparent, or over 8 bits a colour):"
                        " save it as 8-bit grey or with a palette")
    red, green, blue = (values[..., i] for i in range(3))
    if colours:
        return np.asarray(red << 16 | green << 8 | blue)
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise DataError(f"{path}: cannot be read as labels (a picture of colours): say which class"
                        " each is in dataset.values, as in {'#ff0000': car}, or save it as 8-bit"
                        " grey or with a palette")
    return np.asarray(red)


def turned(path: Path) -> bool:
    """Whether a photograph is upright only as its EXIF orientation says."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(0x0112, 1) not in (0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def thick(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(256,) how many pixels of each class have no neighbour above, below or beside of another."""
    wide = np.pad(mask, 1, mode="edge")
    same = np.ones(mask.shape, bool)
    for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
                          (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))):
        same &= wide[rows, columns] == mask
    return np.bincount(mask[same], minlength=256)
