"""Amalgamation: n weighted sums of a bucket, and the two regularisers (Eq. 3–5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.mixing.assigners import ConvAssigner

EPS = 1e-12


class Amalgamated(NamedTuple):
    """n weighted sums and their weights.

    Attributes
    ----------
    maps : (B, n, C, h, w), Σ_i w_i^j r_i for each assigner j
    weights : (B, n, b), each row sums to 1
    """

    maps: torch.Tensor
    weights: torch.Tensor


class Amalgamator(nn.Module):
    """n weight assigners over a bucket of b feature maps (Eq. 3 and 4).

    Parameters
    ----------
    channels : C of a feature map
    assigners : n
    hidden, dropout : of each assigner
    resolution : side to which the maps are averaged before they are weighed; by default as they are
    """

    def __init__(self, channels: int, assigners: int, hidden: int = 128,
                 dropout: float = 0.1, resolution: int | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        self.assigners = nn.ModuleList(
            ConvAssigner(channels, hidden, dropout) for _ in range(assigners))

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, C, h, w) to n sums."""
        return mix(bucket, self.weigh(bucket))

    def weigh(self, bucket: torch.Tensor) -> torch.Tensor:
        """(B, b, C, h, w) to (B, n, b) weights: softmax over the b maps (Eq. 3)."""
        flat = bucket.flatten(0, 1)
        if self.resolution and self.resolution < flat.shape[-1]:
            flat = F.adaptive_avg_pool2d(flat, self.resolution)
        logits = [f(flat).unflatten(0, bucket.shape[:2]) for f in self.assigners]
        return torch.stack(logits, 1).softmax(-1)


class FixedWeights(nn.Module):
    """One assigner that always says the same: uniform, or a single feature.

    Parameters
    ----------
    weights : b numbers that sum to 1
    """

    weights: torch.Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        fixed = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", fixed, persistent=False)

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, …) to one sum."""
        return mix(bucket, self.weigh(bucket))

    def weigh(self, bucket: torch.Tensor) -> torch.Tensor:
        """(B, 1, b), whatever is in the bucket."""
        return self.weights.expand(len(bucket), 1, -1)


def mix(bucket: torch.Tensor, weights: torch.Tensor) -> Amalgamated:
    """Σ_i w_i^j r_i for a bucket (B, b, C, h, w) or (B, b, C), weights (B, n, b) (Eq. 4)."""
    return Amalgamated(torch.einsum("bnk,bk...->bn...", weights, bucket), weights)


def sparsity(weights: torch.Tensor) -> torch.Tensor:
    """Σ_j ‖w^j‖₂ of (B, n, b) weights, mean over the batch (first regulariser of Eq. 5)."""
    return _norm(weights).sum(1).mean()


def diversity(weights: torch.Tensor) -> torch.Tensor:
    """½ Σ_j Σ_{k≠j} ‖w^j − w^k‖₂ of (B, n, b) weights, mean over the batch (second of Eq. 5).

    The gradient is finite where two assigners agree: there it is zero.
    """
    n = weights.shape[1]
    j, k = torch.triu_indices(n, n, 1, device=weights.device)
    return _norm(weights[:, j] - weights[:, k]).sum(1).mean()


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over the last axis, with a finite gradient at 0."""
    return (x.square().sum(-1) + EPS).sqrt()
