"""``classifier``: a linear layer, or one hidden layer, on pooled features (paper, Table 7)."""

from __future__ import annotations

import torch
from torch import nn

from gate_cache.learn.mixing.vectors import RowNorm


class Classifier(nn.Module):
    """Standardise (batch norm without parameters), then classify.

    Parameters
    ----------
    features : n·C
    tokens : T of the attention feature, 0 without
    classes : number of outputs
    hidden : units of a hidden layer with ReLU; 0: none
    """

    def __init__(self, features: int, tokens: int, classes: int, hidden: int = 0) -> None:
        super().__init__()
        width = features + tokens
        deeper = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        self.body = nn.Sequential(RowNorm(width, affine=False), *deeper,
                                  nn.Linear(hidden or width, classes))
        self._tokens = tokens

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None,
                extra: torch.Tensor | None = None) -> torch.Tensor:
        """(1, B, n, C) and (B, T) or None to logits (B, classes)."""
        parts = [maps[0].flatten(1)]
        if self._tokens and attention is not None:
            parts.append(attention)
        return torch.as_tensor(self.body(torch.cat(parts, 1)))
