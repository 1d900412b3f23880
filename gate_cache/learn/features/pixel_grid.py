"""Reading maps at an image's own pixels, wherever the image lies in the model's square."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement, Points


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
    maps : (N, C, r, r) of the whole square
    place : of the image in the square
    points : (P, 2) shares of the image's sides

    Returns
    -------
    (P, N, C)
    """
    window = place.window(maps.shape[-1])
    grid = torch.from_numpy(window.enter(points) * 2 - 1).to(maps, non_blocking=True)
    cut = window.cut(maps)
    values = F.grid_sample(cut, grid[None, None].expand(len(cut), -1, -1, -1), mode="bilinear",
                           padding_mode="border", align_corners=False)
    return values[:, :, 0].permute(2, 0, 1)


def tiles(count: int, most: int) -> Iterator[slice]:
    """Slices that cover `count` in order, each of at most `most`."""
    for start in range(0, count, most):
        yield slice(start, min(start + most, count))
