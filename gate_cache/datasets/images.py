"""Reading images from files. Pillow decodes (it refuses truncated files), cv2 resizes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from gate_cache.errors import DataError
from gate_cache.geometry import Placement, Square
from gate_cache.specs import Fit

Pixels = npt.NDArray[np.uint8]


def read_rgb(path: Path) -> Pixels:
    """Read an image as (h, w, 3) RGB, upright as its EXIF orientation says.

    Raises
    ------
    DataError
        Missing, unreadable or truncated; the message names the file and the way out.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_eight_bit(upright).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: image not found") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError,
            Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: cannot be read as an image ({reason});"
                        " replace the file or move it out of the data set") from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip it to white."""
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel, mode '{image.mode}'; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image, from its header.

    Raises
    ------
    DataError
        As `read_rgb`.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow reports a TIFF upright already.
            turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error});"
                        " replace the file or move it out of the data set") from None
    return (width, height) if turned else (height, width)


def to_square(image: Pixels, size: int, fit: Fit = "squash") -> Pixels:
    """Bring an image to (size, size, 3): area averaging when shrinking, cubic when growing.

    ``squash`` does not keep the aspect, as in the peers' code; ``pad`` does, and continues the
    image's border into the rest of the square: any fixed colour would draw a frame.
    """
    place = Square(size, fit).place(*image.shape[:2])
    inner = _resized(image, place)
    below, right = size - place.top - place.height, size - place.left - place.width
    if not (place.top or place.left or below or right):
        return inner
    return np.asarray(cv2.copyMakeBorder(inner, place.top, below, place.left, right,
                                         cv2.BORDER_REPLICATE), dtype=np.uint8)


def _resized(image: Pixels, place: Placement) -> Pixels:
    if image.shape[:2] == (place.height, place.width):
        return image
    method = cv2.INTER_AREA if max(image.shape[:2]) > place.size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (place.width, place.height), interpolation=method),
                      dtype=np.uint8)
