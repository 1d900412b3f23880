"""Means over the noises of an ensemble (DIFT, Tang et al. 2023) and over tiles, as passes come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gate_cache.diffusion.passes.tiles import blending

if TYPE_CHECKING:
    from gate_cache.core.size import Area, Tiling
    from gate_cache.diffusion.passes.schedule import Half, Item, Tail

Maps = dict[str, torch.Tensor]


class Means:
    """Sums of a lane's passes, in float32 on the device.

    An image's noises, and its tiles, follow each other, in one pass or over the end of one. They
    are added one by one in that order, so that a mean's bits do not depend on where in a batch
    they are.

    Parameters
    ----------
    tiles : that images are cut into, if they are
    """

    def __init__(self, tiles: Tiling | None) -> None:
        self._sums: dict[tuple[Tail, Half, int], Maps] = {}
        self._tiles, self._last = tiles, len(tiles or [0]) - 1
        self._shares: dict[int, list[tuple[Area, torch.Tensor]]] = {}

    def of(self, tail: Tail, items: Sequence[Item], maps: Maps) -> tuple[Sequence[Item], Maps]:
        """Add a pass: the images that are complete, with their means.

        Parameters
        ----------
        maps : name to (B, C, h, w), whose first places are those of `items`
        """
        if self._tiles is None and all(item.half.ensemble == 1 for item in items):
            return items, maps
        whole: list[Item] = []
        means: dict[str, list[torch.Tensor]] = {name: [] for name in maps}
        for i, item in enumerate(items):
            sums = self._added(tail, item, {name: values[i] for name, values in maps.items()})
            if (item.member, item.tile) == (item.half.ensemble - 1, self._last):
                whole.append(item)
                del self._sums[tail, item.half, item.row]
                for name, values in sums.items():
                    means[name].append(values / item.half.ensemble)
        return whole, {name: torch.stack(values) for name, values in means.items() if values}

    def _added(self, tail: Tail, item: Item, maps: Maps) -> Maps:
        sums = self._sums.setdefault((tail, item.half, item.row), {})
        for name, values in maps.items():
            if self._tiles is not None:
                self._blend(sums, name, values, self._tiles, item.tile)
            elif name in sums:
                sums[name] += values
            else:
                sums[name] = values.to(torch.float32, copy=True)
        return sums

    def _blend(self, sums: Maps, name: str, values: torch.Tensor, tiles: Tiling,
               number: int) -> None:
        """Add a tile's (C, h, w) map to that of the whole image."""
        stride = tiles.tile.height // values.shape[-2]
        if stride not in self._shares:
            self._shares[stride] = [(area, share.to(values.device))
                                    for area, share in blending(tiles, stride)]
        if name not in sums:
            sums[name] = torch.zeros(len(values), *tiles.whole.cells(stride), device=values.device)
        area, share = self._shares[stride][number]
        sums[name][(..., *area)] += share * values
