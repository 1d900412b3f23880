"""What the correspondence heads share: joining maps into one descriptor a position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

ATTENTION_SCALE = 0.5


class Join(nn.Module):
    """Concatenate amalgamated and attention features, each of unit length at every position.

    Without that, cosine similarity would hardly see the attention feature, whose values are
    hundreds of times smaller. Its share is one learnt number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_scale = nn.Parameter(torch.tensor(ATTENTION_SCALE))

    def forward(self, features: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, D, h, w) and (B, T, h, w) or None to (B, D + T, h, w) of unit length over D + T."""
        joined = F.normalize(features, dim=1)
        if attention is None:
            return joined
        scaled = F.normalize(attention, dim=1) * self.attention_scale
        return F.normalize(torch.cat([joined, scaled], 1), dim=1)
