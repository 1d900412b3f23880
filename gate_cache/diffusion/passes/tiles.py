"""Tiles of an image larger than the model: what each pass is given, and how maps are blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    from gate_cache.core.size import Area, Tiling
    from gate_cache.diffusion.passes.schedule import Item
    from gate_cache.diffusion.techniques.base import Images, Inputs

_APART = 2**40
"""More than a store's rows: row r of tile k has number r + (k + 1) · `_APART`."""


def cut(values: torch.Tensor, tiles: Tiling, items: Sequence[Item]) -> torch.Tensor:
    """(B, C, H, W) of whole images to (B, C, h, w) of each item's tile."""
    areas = list(tiles.areas(tiles.whole.height // values.shape[-2]))
    return torch.stack([whole[(..., *areas[item.tile])]
                        for whole, item in zip(values, items, strict=True)])


def blending(tiles: Tiling, stride: int) -> list[tuple[Area, torch.Tensor]]:
    """Each tile's place in a map of the whole image, and its (h, w) share of the cells there.

    A share rises linearly from the tile's border on, over the overlap; all shares of a cell add up
    to 1, so that a border of the image, where there is one tile, has it whole.

    Parameters
    ----------
    stride : pixels of a cell
    """
    overlap = tiles.overlap // stride

    def ramp(count: int) -> torch.Tensor:
        at = torch.arange(count, dtype=torch.float64)
        return ((torch.minimum(at, at.flip(0)) + 0.5) / max(overlap, 0.5)).clamp_max(1)

    share = torch.outer(*map(ramp, tiles.tile.cells(stride)))
    total, areas = torch.zeros(tiles.whole.cells(stride), dtype=torch.float64), tiles.areas(stride)
    for area in tiles.areas(stride):
        total[area] += share
    return [(area, (share / total[area]).float()) for area in areas]


class Tiled:
    """Inputs cut into tiles; see `gate_cache.diffusion.techniques.base.Inputs`.

    Where a row's number is asked for, and in what is kept, they are whole: edges of a tile are
    those of its image, so that tiles agree where they overlap.

    Parameters
    ----------
    inputs : of whole images
    """

    def __init__(self, inputs: Inputs, tiles: Tiling) -> None:
        self._inputs, self._tiles = inputs, tiles
        self._areas = list(tiles.areas())

    @staticmethod
    def numbers(items: Sequence[Item]) -> list[int]:
        """What the methods take for each item's tile."""
        return [item.row + (item.tile + 1) * _APART for item in items]

    def id(self, row: int) -> str:
        """The image's id."""
        return self._inputs.id(row % _APART)

    def prompt(self, row: int, prompt: str) -> str:
        """A combo's prompt, as for the whole image."""
        return self._inputs.prompt(row % _APART, prompt)

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """(N, C, h, w) float32, of whole images."""
        return self._inputs.latents([row % _APART for row in rows])

    def images(self, rows: Sequence[int]) -> Images:
        """(N, H, W, 3) uint8."""
        return np.asarray(self._cut(self._inputs.images([row % _APART for row in rows]), rows))

    def masks(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool."""
        return np.asarray(self._cut(self._inputs.masks([row % _APART for row in rows]), rows))

    def from_folder(self, folder: str, rows: Sequence[int]) -> Images:
        """As `images`, of a folder's files."""
        files = self._inputs.from_folder(folder, [row % _APART for row in rows])
        return np.asarray(self._cut(files, rows))

    def cached(self, key: object, rows: Sequence[int], make: Callable[[list[int]], Any]) -> Any:
        """Arrays made once a row; those of an image's height and width are cut."""
        return self._cut(self._inputs.cached(key, [row % _APART for row in rows], make), rows)

    def _cut(self, arrays: Any, rows: Sequence[int]) -> Any:
        if rows[0] < _APART or tuple(arrays.shape[1:3]) != self._tiles.whole:
            return arrays
        return np.stack([whole[self._areas[row // _APART - 1]]
                         for whole, row in zip(arrays, rows, strict=True)])
