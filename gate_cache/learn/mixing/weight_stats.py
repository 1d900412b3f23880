"""What trained assigners weigh: concentration and overlap (paper, Figure 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import torch

BINS, TOP = 40, ("top1", "top2")
"""Steps of the histograms, and their names."""


@dataclass(frozen=True)
class WeightStats:
    """Weights of n assigners over b features, over N images.

    Attributes
    ----------
    mean : (n, b) mean weight of each feature
    top1, top2 : (n,) mean of each image's largest and second largest weight
    top1_std, top2_std : (n,) their standard deviation over images
    overlap : shares of images, mean over pairs of assigners: ``top1`` where both have the same
        largest weight; ``top2`` where they do not, but share one of their two largest; ``none``.
        Empty for one assigner
    histogram : ``top1`` and ``top2``: (n, 40) images by that weight, in equal steps from 0 to 1
    """

    mean: list[list[float]]
    top1: list[float]
    top1_std: list[float]
    top2: list[float]
    top2_std: list[float]
    overlap: dict[str, float]
    histogram: dict[str, list[list[int]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As run files keep it under ``weights``."""
        return asdict(self)


def weight_stats(weights: torch.Tensor | Sequence[torch.Tensor]) -> WeightStats:
    """Statistics of (N, n, b) weights. With a single feature its second largest weight is 0."""
    stacked = weights if isinstance(weights, torch.Tensor) else torch.stack(list(weights))
    stacked = stacked.double().cpu()
    order = stacked.argsort(dim=-1, descending=True, stable=True)
    largest = torch.nn.functional.pad(stacked.gather(-1, order), (0, 1))[..., :2]
    spread, mean = torch.std_mean(largest, 0, correction=0)
    return WeightStats(stacked.mean(0).tolist(), mean[:, 0].tolist(), spread[:, 0].tolist(),
                       mean[:, 1].tolist(), spread[:, 1].tolist(), _overlap(order[..., :2]),
                       {name: [torch.histc(column, BINS, 0, 1).int().tolist()
                               for column in largest[..., i].T] for i, name in enumerate(TOP)})


def _overlap(top: torch.Tensor) -> dict[str, float]:
    """Of (N, n, 2 or 1) numbers of the largest weights."""
    pairs = list(combinations(range(top.shape[1]), 2))
    if not pairs:
        return {}
    first = torch.stack([top[:, j, 0] == top[:, k, 0] for j, k in pairs])
    shared = torch.stack([(top[:, j, :, None] == top[:, k, None]).flatten(1).any(1)
                          for j, k in pairs])
    top1, either = first.double().mean().item(), shared.double().mean().item()
    return {"none": 1 - either, "top1": top1, "top2": either - top1}
