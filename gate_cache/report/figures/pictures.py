"""Pictures as arrays: colours, captions, grids. PNG files are written by Pillow."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from gate_cache.core.replacing import replacing
from gate_cache.report.figures.marks import Canvas, cut, width_of, wrapped

Picture = npt.NDArray[np.uint8]

CELL, GAP, TEXT = 176, 6, 13
"""Side of a cell, space between cells, height of letters; pixels."""


@dataclass(frozen=True)
class PictureCell:
    """One picture of a grid, with its caption."""

    picture: Picture
    caption: str = ""


@dataclass(frozen=True)
class PictureRow:
    """A row of a grid, with its title to the left."""

    title: str
    cells: Sequence[PictureCell]


def heat(values: npt.NDArray[np.floating], low: float | None = None,
         high: float | None = None) -> Picture:
    """(h, w) numbers to (h, w, 3) colours of cividis, from dark blue (low) to yellow (high).

    Parameters
    ----------
    low, high : ends of the scale; by default those of the values, without NaN
    """
    low = float(np.nanmin(values)) if low is None else low
    high = float(np.nanmax(values)) if high is None else high
    shares = (values - low) / (high - low or 1)
    return np.asarray(colormaps["cividis"](shares, bytes=True)[..., :3])


def fitted(picture: Picture, side: int = CELL, smooth: bool = False) -> Picture:
    """Scaled so that the longer side is `side`; cells of a map stay squares unless `smooth`."""
    h, w = picture.shape[:2]
    scale = side / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, way))


def grid(rows: Sequence[PictureRow], title: str = "", cell: int = CELL) -> Picture:
    """Rows of pictures with captions, on white."""
    left = max((width_of(r.title, TEXT) for r in rows), default=0)
    left = min(round(left), 2 * cell) + 2 * GAP if left else GAP
    line = TEXT + 2 * GAP
    top = TEXT + 3 * GAP if title else GAP
    width = left + max(len(r.cells) for r in rows) * (cell + GAP)
    canvas = Canvas(width, top + len(rows) * (cell + line))
    canvas.text(title, (GAP, GAP), TEXT + 3)
    for j, row in enumerate(rows):
        y = top + j * (cell + line)
        for i, words in enumerate(wrapped(row.title, left - 2 * GAP, TEXT)):
            canvas.text(words, (GAP, y + i * (TEXT + 4)), TEXT)
        for i, entry in enumerate(row.cells):
            picture, x = fitted(entry.picture, cell), left + i * (cell + GAP)
            canvas.picture(picture, (x, y))
            canvas.text(cut(entry.caption, cell, TEXT), (x, y + picture.shape[0] + 2), TEXT)
    return canvas.done()


def save(picture: Picture, path: Path) -> Path:
    """Write a PNG file."""
    with replacing(path) as draft:
        Image.fromarray(picture).save(draft, "PNG", optimize=True)
    return path


def data_uri(picture: Picture, side: int = 320, smooth: bool = True) -> str:
    """A small picture as text for a page; `side` and `smooth` as of `encoded`."""
    data, kind = encoded(picture, side, smooth)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def encoded(picture: Picture, side: int, smooth: bool = True) -> tuple[bytes, str]:
    """A picture as a file for a page, and the file's type: JPEG where that is smaller, else PNG.

    Parameters
    ----------
    picture : (H, W, 3), or (H, W, 4) with opacity
    side : of the longer side at most
    smooth : a photograph; False for a map of classes, whose colours must stay as they are
    """
    if max(picture.shape[:2]) > side:
        picture = fitted(picture, side, smooth)
    photograph = smooth and picture.shape[2] == 3 and max(picture.shape[:2]) > 96
    file = io.BytesIO()
    if photograph:
        Image.fromarray(picture).save(file, "JPEG", quality=82, optimize=True)
    else:
        Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue(), f"image/{'jpeg' if photograph else 'png'}"
