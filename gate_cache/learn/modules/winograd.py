"""3×3 convolutions on a CPU whose input is transformed once for all that convolve it.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4×4, 3×3): a quarter
of the multiplications. What is left for each convolution is 36 products of matrices; a sweep's
trials, which all see the same maps, share the rest. On a GPU its own library chooses.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from gate_cache.core.size import Sides, Size

SIDE, WIDER = 4, 6
"""Cells along a tile's side, and with those around it that a convolution sees."""
MOST_BYTES = 2**29
"""Of transformed maps: 2.25 times the maps themselves."""
_MAPS = torch.tensor([[4., 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                      [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
_WEIGHTS = torch.tensor([[6., 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4],
                         [0, 0, 24]]) / 24
_RESULT = torch.tensor([[1., 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0],
                        [0, 1, -1, 8, -8, 1]])
MAPS, WEIGHTS, RESULT = (torch.kron(m, m) for m in (_MAPS, _WEIGHTS, _RESULT))
"""The paper's Bᵀ, G and Aᵀ, along both sides at once."""


class Tiles(NamedTuple):
    """Maps (N, C, h, w) as their convolutions take them.

    Attributes
    ----------
    values : (36, C, N·h·w/16)
    maps : N
    """

    values: torch.Tensor
    maps: int


Convolvable = torch.Tensor | Tiles
_SHARED: MutableMapping[torch.Tensor, dict[Size | None, Convolvable]] = WeakIdKeyDictionary()


def convolvable(bucket: torch.Tensor, resolution: Sides | None = None) -> Convolvable:
    """(…, C, h, w) maps for `convolved`, made once as long as `bucket` is there.

    Parameters
    ----------
    resolution : side, or (height, width), to which the maps are averaged before, where they are
        finer
    """
    size = Size.of(resolution) if resolution else None
    if bucket.requires_grad:
        return _made(bucket, size)
    made = _SHARED.setdefault(bucket, {})
    if size not in made:
        made[size] = _made(bucket, size)
    return made[size]


def _made(bucket: torch.Tensor, size: Size | None) -> Convolvable:
    maps = bucket.flatten(0, -4)
    if size:
        height, width = map(min, size, maps.shape[-2:])
        if (height, width) != maps.shape[-2:]:
            maps = F.adaptive_avg_pool2d(maps, (height, width))
    fits = maps.numel() * maps.element_size() * WIDER**2 / SIDE**2 <= MOST_BYTES
    if maps.requires_grad or maps.dtype != torch.float32 or maps.device.type != "cpu" \
            or not fits or maps.shape[-1] % SIDE or maps.shape[-2] % SIDE:
        return maps
    padded = F.pad(maps, (1, 1, 1, 1)).transpose(0, 1)
    tiles = padded.unfold(2, WIDER, SIDE).unfold(3, WIDER, SIDE).permute(4, 5, 0, 1, 2, 3)
    values = MAPS @ tiles.reshape(WIDER**2, -1)
    return Tiles(values.view(WIDER**2, maps.shape[1], -1), len(maps))


def convolved(maps: Convolvable, conv: nn.Conv2d) -> torch.Tensor:
    """What a 3×3 convolution with a border of zeros makes of maps.

    Returns
    -------
    (N, D, h, w), or of `Tiles` (N, D, 16, h·w/16): the same values, tile by tile
    """
    if isinstance(maps, torch.Tensor):
        return torch.as_tensor(conv(maps))
    out, channels = conv.weight.shape[:2]
    weights = (WEIGHTS @ conv.weight.view(out * channels, -1).T).view(WIDER**2, out, channels)
    products = torch.bmm(weights, maps.values).view(WIDER**2, -1)
    found = (RESULT @ products).view(SIDE**2, out, maps.maps, -1)
    return (found if conv.bias is None else found + conv.bias[:, None, None]).permute(2, 1, 0, 3)
