"""Key points and boxes against their picture: what lies outside is not visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import DataError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def within(xy: Floats, size: tuple[int, int]) -> Bools:
    """(K,) bool: which of (K, 2) points lie in a picture of (height, width); its border counts."""
    with np.errstate(invalid="ignore"):  # NaN, where a point's place is not known, is not inside
        return np.asarray(((xy >= 0) & (xy <= size[::-1])).all(1))


def in_box(xy: Floats, box: Floats) -> Bools:
    """(K,) bool: which of (K, 2) points lie in a box x0, y0, x1, y1, or a pixel beside it."""
    return np.asarray(((xy >= box[:2] - 1) & (xy <= box[2:] + 1)).all(1))


def tight_box(xy: Floats, visible: Bools) -> Floats:
    """(4,) x0, y0, x1, y1 of the visible points; NaN without any."""
    corners = xy[visible] if visible.any() else np.full((1, 2), np.nan)
    return np.concatenate([corners.min(0), corners.max(0)])


def has_extent(box: Floats) -> bool:
    """Whether a box has a longer side, from which a radius can be made."""
    return bool(max(box[2] - box[0], box[3] - box[1]) > 0)


def check_box(path: Path, box: Floats, size: tuple[int, int]) -> Floats:
    """An annotated box: its corners are in order, and at most a pixel outside the picture.

    Else a `DataError`: perhaps it is x, y, width, height, or of another picture.
    """
    height, width = size
    ordered = box[0] <= box[2] and box[1] <= box[3]
    if ordered and box.min() >= -1 and box[2] <= width + 1 and box[3] <= height + 1:
        return box
    numbers = ", ".join(f"{n:g}" for n in box)
    raise DataError(f"{path}: the box {numbers} is not x0, y0, x1, y1 in a picture of {width} ×"
                    f" {height} (width × height)")
