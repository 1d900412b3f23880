"""``classifier``: one hidden layer, or a linear one, on pooled features (paper, Table 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.mixing.vectors import RowNorm

DROPPED, DROPPED_HIDDEN = 0.2, 0.5
"""Share of the features, and of the hidden units, that a training step does without: the rates of
Srivastava et al. (2014). Without them a few thousand images are learnt by heart."""


class Classifier(nn.Module):
    """Standardise (batch norm without parameters), then classify.

    Parameters
    ----------
    features : n·C
    tokens : T of the attention feature, 0 without
    classes : number of outputs
    hidden : units of a hidden layer with ReLU and dropout; 0: none, and no dropout
    """

    def __init__(self, features: int, tokens: int, classes: int, hidden: int = 0) -> None:
        super().__init__()
        width = features + tokens
        relu = nn.Sequential(nn.ReLU(), nn.Dropout(DROPPED_HIDDEN))
        deeper = [nn.Linear(width, hidden), relu] if hidden else []
        self.body = nn.Sequential(RowNorm(width, affine=False), *deeper,
                                  nn.Linear(hidden or width, classes))
        self._dropped = DROPPED if hidden else 0.0
        self._tokens = tokens

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None,
                _extra: torch.Tensor | None = None) -> torch.Tensor:
        """(1, B, n, C) and (B, T) or None to logits (B, classes)."""
        parts = [maps[0].flatten(1)]
        if self._tokens and attention is not None:
            parts.append(attention)
        standard = F.dropout(self.body[0](torch.cat(parts, 1)), self._dropped, self.training)
        return torch.as_tensor(self.body[1:](standard))
