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
from gate_cache.report.figures.marks import LINE, Canvas, cut, width_of, wrapped

Picture = npt.NDArray[np.uint8]

CELL, GAP, EDGE = 176, 10, 12
"""Longer side of a picture, space between, a page's margin; pixels."""


@dataclass(frozen=True)
class PictureCell:
    """One picture of a sheet, with the lines of its caption."""

    picture: Picture
    caption: str = ""


@dataclass(frozen=True)
class PictureRow:
    """A row of a sheet, with its title to the left."""

    title: str
    cells: Sequence[PictureCell]


def heat(values: npt.NDArray[np.floating], low: float | None = None,
         high: float | None = None) -> Picture:
    """(h, w) numbers to (h, w, 3) colours of cividis, from dark blue (low) to yellow (high).

    The scale's ends are by default those of the values, without NaN.
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


def sheet(rows: Sequence[PictureRow], title: str = "", heads: Sequence[str] = (),
          cell: int = CELL, foot: int = 0) -> Canvas:
    """Rows of pictures with captions below them, on white; `heads` are above the columns.

    The longer side of a picture has `cell` pixels, and `foot` pixels at the bottom are left free.
    """
    left = EDGE + min(round(max(width_of(r.title) for r in rows)), 2 * cell)
    left += GAP if left > EDGE else 0
    width = left + max(len(r.cells) for r in rows) * (cell + GAP) - GAP + EDGE
    heads_at = EDGE + (LINE + 10 if title else 0)
    top = heads_at + LINE * max((h.count("\n") + 1 for h in heads), default=0)
    pictures = [[fitted(c.picture, cell) for c in row.cells] for row in rows]
    heights = [max(p.shape[0] for p in of_row) + 7
               + LINE * max(c.caption.count("\n") + 1 for c in row.cells)
               for of_row, row in zip(pictures, rows, strict=True)]
    canvas = Canvas(width, top + sum(heights) + foot)
    canvas.text(title, (EDGE, EDGE - 2), 15)
    for i, head in enumerate(heads):
        canvas.lines(head.split("\n"), (left + i * (cell + GAP), heads_at))
    for of_row, row, height in zip(pictures, rows, heights, strict=True):
        canvas.lines(wrapped(row.title, left - EDGE - GAP), (EDGE, top))
        for i, (picture, entry) in enumerate(zip(of_row, row.cells, strict=True)):
            x = left + i * (cell + GAP)
            canvas.picture(picture, (x, top))
            canvas.lines([cut(line, cell, 12) for line in entry.caption.split("\n")],
                         (x, top + picture.shape[0] + 2), 12)
        top += height
    return canvas


def save(picture: Picture, path: Path) -> Path:
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
    kind, file = "jpeg" if photograph else "png", io.BytesIO()
    Image.fromarray(picture).save(file, kind, optimize=True, quality=82)  # of JPEG alone
    return file.getvalue(), f"image/{kind}"
