"""``conv``: one more 3×3 convolution after each assigner's sum (paper, C.1)."""

from __future__ import annotations

import torch
from torch import nn

from gate_cache.learn.modules.descriptor import Join


class ConvHead(nn.Module):
    """A convolution of its own for each of the n sums, concatenated, then attention.

    Parameters
    ----------
    channels : C of a feature map
    assigners : n
    out_channels : of each convolution
    """

    def __init__(self, channels: int, assigners: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, padding=1) for _ in range(assigners))
        self.join = Join()

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, n, C, h, w) and (B, T, h, w) or None to unit descriptors (B, D, h, w)."""
        parts = [conv(maps[:, j]) for j, conv in enumerate(self.convs)]
        return torch.as_tensor(self.join(torch.cat(parts, 1), attention))
