"""Reading images and label files with Pillow, and bringing images into the model's input.

Label files are as people make them: grey, palettes, grey saved as colours, colours, and arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from gate_cache.core.errors import DataError
from gate_cache.core.fingerprint import need_regular
from gate_cache.core.geometry import Frame, Placement
from gate_cache.core.preprocessing import WHITE, Color, Preprocessing, Resample
from gate_cache.core.size import Fit, Shapes, Sides

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
_COLOURED = ("RGB", "RGBA", "LA")
_SCALED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of few bits by, by its name of the coding."""


def read_rgb(path: Path, background: Color | None = WHITE) -> Pixels:
    """Read an image as (h, w, 3) RGB, upright as its EXIF orientation says; of several the first.

    Parameters
    ----------
    background : what transparent pixels are laid on; None: their alpha is dropped

    Raises
    ------
    DataError
        Missing, unreadable or truncated; the message names the file and the way out.
    """
    with _opened(path) as image:
        if background is not None:
            _refuse_deep_key(image)
        upright = _eight_bit(ImageOps.exif_transpose(image))
        if background is not None and upright.has_transparency_data:
            upright = _laid_on(upright, background)
        return np.asarray(upright.convert("RGB"))


@contextmanager
def read_as(path: Path, file: str, kind: str, way_out: str = "") -> Iterator[None]:
    """Turn whatever reading a file raises into a `DataError`: ``… cannot be read as an image``."""
    try:
        need_regular(path)
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: {file} not found") from None
    except DataError:
        raise
    except Exception as error:  # a damaged file makes Pillow and numpy raise almost anything
        words = getattr(error, "strerror", None) or str(error)
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else \
            " ".join(words.split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read as {kind} ({reason}){way_out}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    way_out = "; replace the file or move it out of the data set"
    with read_as(path, "image", "an image", way_out), Image.open(path) as image:
        yield image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip it to white."""
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel, mode '{image.mode}'; convert it to 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if image.info.get("transparency") is not None:  # of 16 bits: other values share its high byte
        clear = values == image.info["transparency"]
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


def _refuse_deep_key(image: Image.Image) -> None:
    """Refuse a transparent colour of 16 bits a channel, of which Pillow keeps the high ones."""
    coding = str(getattr(image, "tile", ()))
    if image.info.get("transparency") is not None and "RGB;16" in coding:
        raise ValueError("16 bits a channel and a transparent colour, of which 8 bits would be"
                         " compared; save it with an alpha channel")


def _laid_on(image: Image.Image, background: Color) -> Image.Image:
    """Compose a picture with alpha, or with a transparent colour, on a plain one."""
    below = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(below, image.convert("RGBA"))


def holds_several(path: Path) -> bool:
    """Whether a file is an animation, or has several pages; a photograph's previews do not count.

    Raises as `read_rgb`.
    """
    with _opened(path) as image:
        return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def file_input(path: Path, how: Preprocessing) -> Pixels:
    """A file as the model takes it, (H, W, 3)."""
    return to_frame(read_rgb(path, how.background), how.size, how.fit, how.resample, how.shapes)


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image, from its header; raises as `read_rgb`."""
    with _opened(path) as image:
        width, height = image.size
        # Pillow reports a TIFF upright already.
        turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def to_frame(image: Pixels, size: Sides, fit: Fit = "squash", resample: Resample = "bicubic",
             shapes: Shapes = ()) -> Pixels:
    """Bring an image to the model's input, (H, W, 3).

    ``squash`` does not keep the aspect, as in the peers' code; ``pad`` and ``keep``
    do, and continue the image's border into the rest: any fixed colour would draw a frame.

    Parameters
    ----------
    image : (h, w, 3) RGB
    size : in pixels, of a square or (H, W)
    resample : a filter of Pillow, or ``opencv`` as some peers do it
    shapes : as of `Frame`
    """
    place = Frame(size, fit, shapes).place(*image.shape[:2])
    inner = _resized(image, place, resample)
    below, right = (side - area.stop for side, area in zip(place.size, place.area, strict=True))
    if not (place.top or place.left or below or right):
        return inner
    return np.asarray(cv2.copyMakeBorder(inner, place.top, below, place.left, right,
                                         cv2.BORDER_REPLICATE), dtype=np.uint8)


def _resized(image: Pixels, place: Placement, resample: Resample) -> Pixels:
    if image.shape[:2] == (place.height, place.width):
        return image
    size = (place.width, place.height)
    if resample == "opencv":
        shrinks = any(a > b for a, b in zip(image.shape, place.size, strict=False))
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, size, interpolation=method), dtype=np.uint8)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[resample.upper()]))


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
        need_regular(path)
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
