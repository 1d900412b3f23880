"""``nn``: the amalgamated map itself is the descriptor; matching is cosine nearest neighbour."""

from __future__ import annotations

import torch
from torch import nn

from gate_cache.learn.modules.descriptor import Join


class NearestNeighbour(nn.Module):
    """Concatenate the n sums (Eq. 4), then the attention feature. Nothing else is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.join = Join()

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, n, C, h, w) and (B, T, h, w) or None to unit descriptors (B, n·C + T, h, w)."""
        return torch.as_tensor(self.join(maps.flatten(1, 2), attention))
