"""Height and width of an input or a map, and pictures in tiles. No numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
