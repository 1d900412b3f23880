"""Means over the noises of an ensemble, image by image, as passes come (DIFT, Tang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gate_cache.diffusion.passes.schedule import Half, Item, Tail

Maps = dict[str, torch.Tensor]


class Means:
    """Sums of a lane's passes, in float32 on the device.

    An image's noises follow each other, in one pass or over the end of one. They are added one by
    one in that order, so that a mean's bits do not depend on where in a batch they are.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[Tail, Half, int], Maps] = {}

    def of(self, tail: Tail, items: Sequence[Item], maps: Maps) -> tuple[Sequence[Item], Maps]:
        """Add a pass: the images that are complete, with their means.

        Parameters
        ----------
        maps : name to (B, C, h, w), whose first places are those of `items`
        """
        if all(item.half.ensemble == 1 for item in items):
            return items, maps
        whole: list[Item] = []
        means: dict[str, list[torch.Tensor]] = {name: [] for name in maps}
        for i, item in enumerate(items):
            sums = self._added(tail, item, {name: values[i] for name, values in maps.items()})
            if item.member == item.half.ensemble - 1:
                whole.append(item)
                del self._sums[tail, item.half, item.row]
                for name, values in sums.items():
                    means[name].append(values / item.half.ensemble)
        return whole, {name: torch.stack(values) for name, values in means.items() if values}

    def _added(self, tail: Tail, item: Item, maps: Maps) -> Maps:
        key = tail, item.half, item.row
        if key not in self._sums:
            self._sums[key] = {name: values.to(torch.float32, copy=True)
                               for name, values in maps.items()}
            return self._sums[key]
        for name, values in self._sums[key].items():
            values += maps[name]
        return self._sums[key]
