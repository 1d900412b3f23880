"""Descriptors between the cells of a map: bilinear interpolation, without making them.

An interpolated vector is u·a + v·b + … of four neighbouring cells. Its product with another vector
is the same mixture of four products, its squared length u²·aa + 2uv·ab + … of theirs: so nothing
is resized but maps of one channel, however many channels the descriptors have.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from gate_cache.core.size import Sides, Size

BLOCK = 2**18
"""Values of a map that are worked on at once: they stay in a processor's cache."""
EPS = 1e-12


def resized(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, h, w) maps as (N, height, width), bilinear between cell centres."""
    if tuple(values.shape[-2:]) == (height, width):
        return values
    return F.interpolate(values[None], (height, width), mode="bilinear", align_corners=False)[0]


def channel_blocks(level: torch.Tensor, cells: int | None = None) -> Iterator[slice]:
    """The channels of a (C, h, w) map in blocks of `BLOCK` values.

    Parameters
    ----------
    cells : that a channel has when it is worked on; by default h·w
    """
    step = max(BLOCK // (cells or level[0].numel()), 1)
    return (slice(i, i + step) for i in range(0, len(level), step))


def neighbour_products(level: torch.Tensor, size: Sides | None = None) -> torch.Tensor:
    """Dot products of a (C, h, w) map's cells: what lengths between them are made of.

    Parameters
    ----------
    size : the map is first resized to it, a block of channels at a time

    Returns
    -------
    (5, h + 1, w + 1): of each cell with itself, with the one to its right, the one below, the one
    below to the right; and of the last two's common neighbours. The last row and column are
    repeated.
    """
    h, w = level.shape[1:] if size is None else Size.of(size)
    products = torch.zeros(5, h + 1, w + 1, device=level.device)
    for part in channel_blocks(level, h * w):
        x = F.pad(resized(level[part].float(), h, w)[None], (0, 1, 0, 1), mode="replicate")[0]
        products[0] += (x * x).sum(0)
        products[1, :, :-1] += (x[:, :, :-1] * x[:, :, 1:]).sum(0)
        products[2, :-1] += (x[:, :-1] * x[:, 1:]).sum(0)
        products[3, :-1, :-1] += (x[:, :-1, :-1] * x[:, 1:, 1:]).sum(0)
        products[4, :-1, :-1] += (x[:, :-1, 1:] * x[:, 1:, :-1]).sum(0)
    return products


def as_unit(products: torch.Tensor) -> torch.Tensor:
    """The `neighbour_products` of the same cells, each brought to unit length."""
    lengths = products[0].clamp_min(0).sqrt().clamp_min(EPS)
    unit = products.clone()
    unit[0] /= lengths * lengths
    unit[1, :, :-1] /= lengths[:, :-1] * lengths[:, 1:]
    unit[2, :-1] /= lengths[:-1] * lengths[1:]
    unit[3, :-1, :-1] /= lengths[:-1, :-1] * lengths[1:, 1:]
    unit[4, :-1, :-1] /= lengths[:-1, 1:] * lengths[1:, :-1]
    return unit


def between(values: torch.Tensor, steps: int) -> torch.Tensor:
    """(N, h, w) values of cells, and of the positions between their centres.

    Parameters
    ----------
    steps : from one centre to the next

    Returns
    -------
    (N, H, W), H = (h − 1)·steps + 1, W likewise: from the first centre to the last
    """
    size = [(side - 1) * steps + 1 for side in values.shape[-2:]]
    return F.interpolate(values[None], size, mode="bilinear", align_corners=True)[0]


def lengths_between(products: torch.Tensor, steps: int) -> torch.Tensor:
    """(H, W) lengths of interpolated vectors at the positions of `between`.

    Parameters
    ----------
    products : (5, h + 1, w + 1), the cells' `neighbour_products`
    """
    own, right, below, falling, rising = products
    top, v = _steps(own.shape[0] - 1, steps, own.device)
    left, u = _steps(own.shape[1] - 1, steps, own.device)
    v, u = v[:, None], u[None]

    def at(values: torch.Tensor, down: int, along: int) -> torch.Tensor:
        return values[top + down][:, left + along]

    a, b, c, d = (1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u
    squares = (a * a * at(own, 0, 0) + b * b * at(own, 0, 1) + c * c * at(own, 1, 0)
               + d * d * at(own, 1, 1)
               + 2 * (a * b * at(right, 0, 0) + c * d * at(right, 1, 0)
                      + a * c * at(below, 0, 0) + b * d * at(below, 0, 1)
                      + a * d * at(falling, 0, 0) + b * c * at(rising, 0, 0)))
    return squares.clamp_min(0).sqrt()


def _steps(length: int, steps: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each position the cell before it, and the share of the next one."""
    at = torch.arange((length - 1) * steps + 1, device=device)
    return at // steps, (at % steps) / steps
