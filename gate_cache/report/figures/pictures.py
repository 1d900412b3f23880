"""Pictures as arrays: colours, captions, grids. PNG files are written by Pillow."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from gate_cache.core.replacing import replacing

Picture = npt.NDArray[np.uint8]

CELL, GAP, TEXT = 176, 6, 13
"""Side of a cell, space between cells, height of letters; pixels."""
_INK, _PAPER = (32, 33, 36), (255, 255, 255)
_CIVIDIS = np.array([  # dark blue to yellow, the same to colour-blind eyes; every eighth part
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115), (138, 134, 120),
    (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56)], np.float64)


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
    """(h, w) numbers to (h, w, 3) colours from dark blue (low) to yellow (high)."""
    low = float(np.nanmin(values)) if low is None else low
    high = float(np.nanmax(values)) if high is None else high
    shares = np.clip((values - low) / (high - low or 1), 0, 1)
    at = shares * (len(_CIVIDIS) - 1)
    below = np.minimum(at.astype(int), len(_CIVIDIS) - 2)
    part = (at - below)[..., None]
    mixed = _CIVIDIS[below] * (1 - part) + _CIVIDIS[below + 1] * part
    return np.asarray(mixed.round().astype(np.uint8))


def fitted(picture: Picture, side: int = CELL, smooth: bool = False) -> Picture:
    """Scaled so that the longer side is `side`; cells of a map stay squares unless `smooth`."""
    h, w = picture.shape[:2]
    scale = side / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, way))


def grid(rows: Sequence[PictureRow], title: str = "", cell: int = CELL) -> Picture:
    """Rows of pictures with captions, on white."""
    font, bold = _font(TEXT), _font(TEXT + 3)
    left = max((round(font.getlength(r.title)) for r in rows), default=0)
    left = min(left, 2 * cell) + 2 * GAP if left else GAP
    most = max(len(r.cells) for r in rows)
    line = TEXT + 2 * GAP
    top = TEXT + 3 * GAP if title else GAP
    width = left + most * (cell + GAP)
    page = Image.new("RGB", (width, top + len(rows) * (cell + line)), _PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, GAP), title, _INK, bold)
    for j, row in enumerate(rows):
        y = top + j * (cell + line)
        draw.multiline_text((GAP, y), _wrapped(row.title, left - 2 * GAP, font), _INK, font)
        for i, each in enumerate(row.cells):
            x = left + i * (cell + GAP)
            part = fitted(each.picture, cell)
            page.paste(Image.fromarray(part), (x, y))
            draw.text((x, y + part.shape[0] + 2), _cut(each.caption, cell, font), _INK, font)
    return np.asarray(page)


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


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _cut(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _wrapped(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
