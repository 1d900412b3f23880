"""Label files as people make them: grey, palettes, grey saved as colours, colours, and arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.images import read_as

Labels = npt.NDArray[np.int64]
_COLOURED = ("RGB", "RGBA", "LA")
_SCALED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of few bits by, by its name of the coding."""


def read_labels(path: Path, colours: bool = False) -> Labels:
    """Read a label picture as (h, w) numbers: grey values of any depth, or indices of a palette.

    Parameters
    ----------
    colours : whether labels are colours, as 0xRRGGBB, of whatever kind the picture is

    Raises
    ------
    DataError
        Missing or damaged; a picture of colours where none are asked for, or one with transparency.
    """
    with read_as(path, "label picture", "labels"), Image.open(path) as image:
        if colours or image.mode in _COLOURED:
            return _of_colours(path, image, colours)
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise ValueError(f"mode '{image.mode}' is not one number a pixel: save it as 8-bit grey"
                             " or with a palette")
        coding = image.tile[0][3] if image.tile else None
        scale = _SCALED.get(coding, 1) if isinstance(coding, str) else 1
        return np.asarray(np.asarray(image).astype(np.int64) // scale)


def _of_colours(path: Path, image: Image.Image, colours: bool) -> Labels:
    wide = image.mode.startswith(("I", "F"))
    values = np.asarray(image if wide else image.convert("RGBA"), np.int64)
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


def read_array(path: Path) -> Labels:
    """Read labels from a .npy file as (h, w) numbers.

    A `DataError` where it is missing, damaged, pickled, or no table of whole numbers.
    """
    with read_as(path, "label file", "labels"):
        values = np.load(path, allow_pickle=False)
        if values.ndim != 2 or not values.size:
            raise ValueError(f"shape {values.shape}, expected (height, width)")
        whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            raise ValueError(f"{values.dtype} values that are not whole")
        return np.asarray(whole)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Bring labels to (height, width): every pixel takes the label of its nearest one."""
    height, width = size
    small = labels.astype(np.int32)  # cv2 takes no 64-bit numbers
    resized = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.int64)


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
