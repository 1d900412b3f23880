"""Amalgamation: n weighted sums of a bucket, and the two regularisers (Eq. 3–5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.mixing.assigners import ConvAssigner

EPS = 1e-12
Weights = Literal["map", "channel"]


class Amalgamated(NamedTuple):
    """n weighted sums and their weights.

    Attributes
    ----------
    maps : (B, n, C, h, w), Σ_i w_i^j r_i for each assigner j
    weights : (B, n, b), or (B, n, b, C) of channels; their sum over b is 1
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
    weights : of a whole ``map``, as the paper has it, or of each ``channel``, as the released code
    resolution : side to which the maps are averaged before they are weighed; by default as they are
    """

    def __init__(self, channels: int, assigners: int, hidden: int = 128, dropout: float = 0.1,
                 weights: Weights = "map", resolution: int | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        outputs = 1 if weights == "map" else channels
        self.assigners = nn.ModuleList(
            ConvAssigner(channels, hidden, dropout, outputs) for _ in range(assigners))

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, C, h, w) to n sums."""
        return mix(bucket, self.weigh(bucket))

    def weigh(self, bucket: torch.Tensor) -> torch.Tensor:
        """(B, b, C, h, w) to (B, n, b[, C]) weights: softmax over the b maps (Eq. 3)."""
        flat = bucket.flatten(0, 1)
        if self.resolution and self.resolution < flat.shape[-1]:
            flat = F.adaptive_avg_pool2d(flat, self.resolution)
        logits = [f(flat).unflatten(0, bucket.shape[:2]) for f in self.assigners]
        return torch.stack(logits, 1).softmax(2)


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
    """Σ_i w_i^j r_i of (B, b, C, …), for weights (B, n, b) or (B, n, b, C) (Eq. 4)."""
    of_each = "bnk,bk...->bn..." if weights.dim() == 3 else "bnkc,bkc...->bnc..."
    return Amalgamated(torch.einsum(of_each, weights, bucket), weights)


def by_map(weights: torch.Tensor) -> torch.Tensor:
    """(…, n, b) weights as they are; of (N, n, b, C) ones their means over the channels."""
    return weights.mean(-1) if weights.dim() == 4 else weights


def sparsity(weights: torch.Tensor) -> torch.Tensor:
    """Σ_j ‖w^j‖₂ of (B, n, b[, C]) weights, mean over batch and channels (Eq. 5, first)."""
    return _norm(weights).sum(1).mean()


def diversity(weights: torch.Tensor) -> torch.Tensor:
    """½ Σ_j Σ_{k≠j} ‖w^j − w^k‖₂ of such weights, mean over batch and channels (Eq. 5, second).

    The gradient is finite where two assigners agree: there it is zero.
    """
    n = weights.shape[1]
    j, k = torch.triu_indices(n, n, 1, device=weights.device)
    return _norm(weights[:, j] - weights[:, k]).sum(1).mean()


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over the maps of (B, n, b[, C]), with a finite gradient at 0."""
    return (x.square().sum(2) + EPS).sqrt()
