"""Reading maps at an image's own pixels, wherever the image lies in the model's input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement, Points
    from gate_cache.core.size import Sides


def centres(size: tuple[int, int], pixels: slice | np.ndarray = slice(None)) -> Points:
    """(P, 2) centres of an image's pixels as shares of its sides.

    Parameters
    ----------
    size : (height, width)
    pixels : which, counted along the rows; all by default
    """
    height, width = size
    numbers = np.arange(height * width)[pixels] if isinstance(pixels, slice) else pixels
    return np.stack([(numbers % width + 0.5) / width, (numbers // width + 0.5) / height], 1)


def read_at(maps: torch.Tensor, place: Placement, points: Points) -> torch.Tensor:
    """Bilinear interpolation at points of an image, of the cells that show any of it.

    Parameters
    ----------
    maps : (N, C, h, w) of the whole input
    place : of the image in it
    points : (P, 2) shares of the image's sides

    Returns
    -------
    (P, N, C)
    """
    window = place.window(maps.shape[-2:])
    grid = torch.from_numpy(window.enter(points) * 2 - 1).to(maps, non_blocking=True)
    cut = window.cut(maps)
    values = F.grid_sample(cut, grid[None, None].expand(len(cut), -1, -1, -1), mode="bilinear",
                           padding_mode="border", align_corners=False)
    return values[:, :, 0].permute(2, 0, 1)


def tiles(count: int, most: int) -> Iterator[slice]:
    """Slices that cover `count` in order, each of at most `most`."""
    for start in range(0, count, most):
        yield slice(start, min(start + most, count))


@dataclass(frozen=True)
class Taps:
    """Cells that pixels read, and their shares: 4 a level.

    Attributes
    ----------
    cells : (P, 4·L) numbers of cells; levels one after the other, each along its rows
    shares : (P, 4·L)
    """

    cells: torch.Tensor
    shares: torch.Tensor

    def read(self, table: torch.Tensor) -> torch.Tensor:
        """(cells, D) to (P, D)."""
        return F.embedding_bag(self.cells, table, per_sample_weights=self.shares, mode="sum")

    def of(self, part: slice) -> Taps:
        """Those of some of the pixels."""
        return Taps(self.cells[part], self.shares[part])


def taps(place: Placement, sizes: Iterable[Sides], points: Points, device: torch.device) -> Taps:
    """Bilinear interpolation at (P, 2) points as `read_at` does it, in numbers.

    Parameters
    ----------
    place : of the image in the model's input
    sizes : of each level's map
    points : (P, 2) shares of the image's sides
    device : where the numbers are kept
    """
    cells, shares, first = [], [], 0
    for window in map(place.window, sizes):
        width = window.resolution.width
        x, y = window.enter(points).T
        (x0, x1, fx), (y0, y1, fy) = _ends(x, window.columns), _ends(y, window.rows)
        cells += [first + row * width + column for row in (y0, y1) for column in (x0, x1)]
        shares += [v * u for v in (1 - fy, fy) for u in (1 - fx, fx)]
        first += window.resolution.area
    return Taps(*(torch.from_numpy(v).to(device, non_blocking=True) for v in (
        np.stack(cells, 1), np.stack(shares, 1).astype(np.float32))))


def _ends(share: Points, along: slice) -> tuple[Points, Points, Points]:
    """Both neighbouring cells of (P,) shares of a window's side, and how near the second is."""
    count = along.stop - along.start
    at = (share * count - 0.5).clip(0, count - 1)
    low = np.floor(at).astype(np.int64)
    return along.start + low, along.start + np.minimum(low + 1, count - 1), at - low
