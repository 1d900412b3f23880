"""Feature up-samplers at read time: maps made sharper with the picture as a guide."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from gate_cache.core.plugins import load_plugin
from gate_cache.manifest.heads import JOINT_BILATERAL, UPSAMPLERS

Upsampler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From maps (N, C, h, w) and a picture (3, H, W), 0 … 1, to (N, C, H, W), all float32 on one
device."""
RADIUS, SPATIAL, RANGE = 2, 0.5, 0.1
"""Of Kopf et al.: 5×5 cells; σ_d in cells, and σ_r in shares of the picture's range."""


def upsampler(name: str, device: torch.device) -> Upsampler:
    """An up-sampler by name: ours, or what another package's entry point makes for a device.

    Raises
    ------
    UserError
        It cannot be imported.
    """
    if name == JOINT_BILATERAL:
        return joint_bilateral
    made: Upsampler = load_plugin(UPSAMPLERS, name)(device)
    return made


def joint_bilateral(maps: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Joint bilateral up-sampling (Kopf et al., SIGGRAPH 2007, section 3).

    S̃_p = (1/k_p) Σ_q S_q · f(‖p↓ − q↓‖) · g(‖Ĩ_p − Ĩ_q‖) over the cells q within `RADIUS` of
    the one that pixel p lies in: f and g are Gaussians of `SPATIAL` and `RANGE`, p↓ and q↓ places
    in cells, k_p the sum of the weights. Ĩ_q is the picture's mean over cell q, where the paper
    takes one pixel.

    Parameters
    ----------
    maps : (N, C, h, w)
    guide : (3, H, W) the picture, 0 … 1

    Returns
    -------
    (N, C, H, W)
    """
    n, channels, h, w = maps.shape
    height, width = guide.shape[1:]
    (y, row), (x, column) = _places(height, h, maps), _places(width, w, maps)
    steps = torch.arange(-RADIUS, RADIUS + 1, device=maps.device)
    rows, columns = row[:, None] + steps, column[:, None] + steps
    near = (y[:, None] - rows).square()[:, None, :, None] + \
        (x[:, None] - columns).square()[None, :, None, :]
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & \
        ((columns >= 0) & (columns < w))[None, :, None, :]
    cells = rows.clamp(0, h - 1)[:, None, :, None] * w + columns.clamp(0, w - 1)[None, :, None, :]
    colours = F.adaptive_avg_pool2d(guide, (h, w)).flatten(1)[:, cells]
    unlike = (guide[:, :, :, None, None] - colours).square().sum(0)
    exponents = -near / (2 * SPATIAL**2) - unlike / (2 * RANGE**2)
    shares = exponents.masked_fill(~inside, -torch.inf).flatten(2).softmax(-1)
    table = maps.flatten(2).permute(2, 0, 1).reshape(h * w, n * channels)
    read = F.embedding_bag(cells.reshape(height * width, -1), table, mode="sum",
                           per_sample_weights=shares.flatten(0, 1))
    return read.view(height, width, n, channels).permute(2, 3, 0, 1).contiguous()


def _places(length: int, cells: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where pixels lie among cells whose centres are whole numbers, and the nearest of these."""
    at = (torch.arange(length, device=like.device) + 0.5) * cells / length - 0.5
    return at.to(like), at.round().clamp(0, cells - 1).long()
