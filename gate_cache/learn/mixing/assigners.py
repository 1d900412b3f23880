"""Weight assigners: a number for a feature map (paper, A.4), or for each of its channels."""

from __future__ import annotations

import torch
from torch import nn


class ConvAssigner(nn.Module):
    """Convolution 3×3, ReLU, batch norm, dropout, global average, linear: a map to logits.

    Parameters
    ----------
    channels : C of a feature map
    hidden : width after the convolution, 128 by default
    dropout : probability
    outputs : logits of a map. Where there are several, the convolution has no bias: they are of the
        released code, which has none
    """

    def __init__(self, channels: int, hidden: int = 128, dropout: float = 0.1,
                 outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=outputs == 1), nn.ReLU(),
            nn.BatchNorm2d(hidden), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to (N,) logits, or (N, outputs)."""
        return torch.as_tensor(self.body(maps)).squeeze(1)
