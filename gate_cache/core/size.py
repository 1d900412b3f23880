"""Height and width of an input or a map, and pictures in tiles. No numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

Fit = Literal["squash", "pad", "keep"]
"""How an image is brought into the model's input (see `gate_cache.core.geometry`)."""
SHAPES, SHAPE = "shapes", "shape"
"""Of a recipe: the shapes that inputs have, and the one that those of a group's rows have."""
Sides = int | Sequence[int]
"""The side of a square, or height and width."""
Area = tuple[slice, slice]
"""Rows and columns."""


class Size(NamedTuple):
    """Height and width, in pixels or in cells."""

    height: int
    width: int

    @classmethod
    def of(cls, sides: Sides) -> Size:
        """From one number, of a square, or from height and width."""
        return cls(sides, sides) if isinstance(sides, int) else cls(*sides)

    @property
    def sides(self) -> int | list[int]:
        """As manifests, recipes and JSON have it: one number where it is a square."""
        return self.height if self.height == self.width else list(self)

    @property
    def area(self) -> int:
        """Pixels, or cells."""
        return self.height * self.width

    def cells(self, stride: int) -> Size:
        """Whole cells of so many pixels a side."""
        return Size(self.height // stride, self.width // stride)

    def __str__(self) -> str:
        return "×".join(map(str, dict.fromkeys(self)))


Shapes = tuple[Size, ...]
"""Of inputs, of which each image has the one that is nearest to its own aspect."""
NARROWEST, STEPS = 2, 16
"""The square's side by the shortest one; and steps of the square's side, if the model takes them so
small: for 1,024 pixels those of Stable Diffusion XL's training."""


def shapes_of(side: int, multiple: int, largest: int | None = None) -> Shapes:
    """Inputs of at most side² pixels in different aspects, from the flattest to the tallest.

    Short sides are those from side / `NARROWEST` on in steps of side / `STEPS`, or of the next
    multiple that the model takes; long ones as long as the pixels allow, in the same steps.

    Parameters
    ----------
    side : of the square among them
    multiple : that every side must be of, as `side` is
    largest : longest side that there may be
    """
    step = -(-side // (STEPS * multiple)) * multiple
    short = range(side - step * (side // (NARROWEST * step)), side, step)
    flat = [Size(s, w) for s in short if (w := (side * side // s - side) // step * step + side)
            <= (largest or w)]
    return (*flat, Size(side, side), *(Size(*reversed(size)) for size in reversed(flat)))


def nearest_shape(shapes: Shapes, height: int, width: int) -> Size:
    """The shape whose aspect is nearest to an image's, as a ratio; of two the one that is flatter.

    By whole numbers, so that it is the same on every machine. `shapes` are as of `shapes_of`.
    """
    # h/w lies behind the geometric mean of a/b and c/d where h²·b·d > w²·a·c
    return shapes[sum(height**2 * a.width * b.width > width**2 * a.height * b.height
                      for a, b in pairwise(shapes))]


@dataclass(frozen=True)
class Tiling:
    """A picture in tiles that overlap, row by row; the last of a row or column ends at the border.

    Attributes
    ----------
    whole, tile : pixels of the picture and of a tile
    overlap : pixels that two neighbours share, the last two of a row or column more
    """

    whole: Size
    tile: Size
    overlap: int

    def __len__(self) -> int:
        return len(list(self.areas()))

    def areas(self, stride: int = 1) -> Iterator[Area]:
        """Each tile's place in a map of the whole picture, of so many pixels a cell."""
        rows, columns = (
            [slice(start // stride, (start + tile) // stride)
             for start in (*range(0, whole - tile, tile - self.overlap), whole - tile)]
            for whole, tile in zip(self.whole, self.tile, strict=True))
        return ((row, column) for row in rows for column in columns)
