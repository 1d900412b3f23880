"""Lines, circles and words drawn on pictures, with smooth edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from gate_cache.report.figures.pictures import Picture

Colour = tuple[int, int, int]
At = tuple[float, float]

FINE = 3
"""Drawn so many times larger, then made smaller."""
BLUE, ORANGE, GREEN, PINK = (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)
SKY, AMBER, YELLOW, BLACK = (86, 180, 233), (230, 159, 0), (240, 228, 66), (0, 0, 0)
OKABE_ITO: tuple[Colour, ...] = (BLUE, AMBER, GREEN, PINK, SKY, ORANGE, YELLOW, BLACK)
"""Eight colours that the colour-blind tell apart (Okabe and Ito 2008)."""
INK, PAPER = (32, 33, 36), (255, 255, 255)
LINE = 17
"""Height of a line of text, in pixels."""


class Canvas:
    """A white page for marks with a white rim.

    Places (x, y), widths and radii are in its pixels, sizes of text are heights of letters, colours
    (red, green, blue) from 0 to 255.
    """

    def __init__(self, width: int, height: int) -> None:
        self.height = height
        self._page = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self._page)

    def picture(self, picture: Picture, at: At) -> None:
        """Put a picture as it is; its cells stay sharp."""
        h, w = picture.shape[:2]
        large = Image.fromarray(picture).resize((w * FINE, h * FINE), Image.Resampling.NEAREST)
        self._page.paste(large, _fine(at))

    def line(self, a: At, b: At, colour: Colour, width: float = 1.5, dashed: bool = False) -> None:
        for start, end in _dashes(a, b) if dashed else [(a, b)]:
            self._draw.line([_fine(start), _fine(end)], PAPER, round((width + 1.2) * FINE))
            self._draw.line([_fine(start), _fine(end)], colour, round(width * FINE))

    def ring(self, at: At, radius: float, colour: Colour, width: float = 1.5) -> None:
        self._ellipse(at, radius + 0.6, None, PAPER, width + 1.2)
        self._ellipse(at, radius, None, colour, width)

    def dot(self, at: At, radius: float, colour: Colour) -> None:
        self._ellipse(at, radius + 1.2, PAPER, None, 0)
        self._ellipse(at, radius, colour, None, 0)

    def square(self, at: At, radius: float, colour: Colour) -> None:
        for half, fill in ((radius + 1.2, PAPER), (radius, colour)):
            x, y = at
            self._draw.rectangle([_fine((x - half, y - half)), _fine((x + half, y + half))], fill)

    def cross(self, at: At, radius: float, colour: Colour) -> None:
        x, y = at
        ends = [((x - radius, y + s * radius), (x + radius, y - s * radius)) for s in (1, -1)]
        for extra, fill in ((1.6, PAPER), (0.0, colour)):
            for a, b in ends:
                self._draw.line([_fine(a), _fine(b)], fill, round((2.5 + extra) * FINE))

    def text(self, words: str, at: At, size: float = 13, colour: Colour = INK,
             middle: bool = False, rim: bool = False) -> None:
        """One line of text, its top left or its middle there; a rim is to be read on pictures."""
        self._draw.text(_fine(at), words, colour, _font(size * FINE),
                        anchor="mm" if middle else "la", stroke_width=FINE * 2 if rim else 0,
                        stroke_fill=PAPER)

    def lines(self, lines: Sequence[str], at: At, size: float = 13) -> None:
        """Lines of text, the top left of the first one there."""
        for i, line in enumerate(lines):
            self.text(line, (at[0], at[1] + i * LINE), size)

    def done(self) -> Picture:
        """(H, W, 3) of all that was drawn, brought down to its size."""
        return np.asarray(self._page.reduce(FINE))  # means: pictures come out as they were

    def _ellipse(self, at: At, radius: float, fill: Colour | None, outline: Colour | None,
                 width: float) -> None:
        x, y = at
        self._draw.ellipse([_fine((x - radius, y - radius)), _fine((x + radius, y + radius))],
                           fill, outline, round(width * FINE))


class Legend:
    """Words, each beside what draws its mark around a point of the canvas, in as many lines as they
    need on a page of this width and margin."""

    def __init__(self, entries: Sequence[tuple[str, Callable[[Canvas, At], None]]], width: int,
                 edge: int) -> None:
        self._entries: list[tuple[str, Callable[[Canvas, At], None], float, int]] = []
        x, row = float(edge), 0
        for words, mark in entries:
            room = width_of(words) + 40
            if x > edge and x + room > width:
                x, row = float(edge), row + 1
            self._entries.append((words, mark, x, row))
            x += room
        self.height = (row + 1) * (LINE + 3)

    def draw(self, canvas: Canvas, top: float) -> None:
        """Draw it, from that height down."""
        for words, mark, x, row in self._entries:
            y = top + row * (LINE + 3)
            mark(canvas, (x + 7, y + 8))
            canvas.text(words, (x + 20, y))


def width_of(words: str, size: float = 13) -> float:
    """Pixels that words take."""
    return float(_font(size).getlength(words))


def wrapped(words: str, width: float, size: float = 13) -> Sequence[str]:
    """Words in lines that are no wider than that."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def cut(words: str, width: float, size: float = 13) -> str:
    """As much of some words as fits."""
    if width_of(words, size) <= width:
        return words
    while words and width_of(words + "…", size) > width:
        words = words[:-1]
    return words + "…"


def ink_on(colour: Colour) -> Colour:
    """Black or white: what is read on a colour."""
    r, g, b = colour
    return BLACK if 0.299 * r + 0.587 * g + 0.114 * b > 140 else PAPER  # luma, ITU-R BT.601


def _fine(at: At) -> tuple[int, int]:
    return round(at[0] * FINE), round(at[1] * FINE)


def _dashes(a: At, b: At) -> list[tuple[At, At]]:
    whole, length, gap = math.dist(a, b), 7, 5

    def on(way: float) -> At:
        share = min(way / whole, 1)
        return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share

    starts = [i * (length + gap) for i in range(math.ceil(whole / (length + gap)))]
    return [(on(s), on(s + length)) for s in starts]


def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Pillow's own: the same on every machine
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
