"""Semantic correspondence: descriptors at key points, their matches and their loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

UPSAMPLE = 4
"""Similarity maps are resized by this before the best match is taken: finer than a cell."""

_MAX_SCALE = 100.0


def sample(descriptors: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Descriptors at key points, by bilinear interpolation.

    Parameters
    ----------
    descriptors : (D, h, w)
    points : (K, 2) x and y as shares of width and height, in [0, 1]

    Returns
    -------
    (K, D) of unit length
    """
    grid = (points * 2 - 1)[None, None].to(descriptors)
    found = F.grid_sample(descriptors[None], grid, mode="bilinear", padding_mode="border",
                          align_corners=False)
    return F.normalize(found[0, :, 0].T, dim=1)


def match(source: torch.Tensor, target: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Where each of the source's points is found in the target: cosine nearest neighbour.

    Parameters
    ----------
    source, target : (D, h, w) unit descriptors
    points : (K, 2) in the source, shares of width and height

    Returns
    -------
    (K, 2) in the target, shares of width and height, at the centres of a grid `UPSAMPLE` times
    finer than the descriptors
    """
    similarity = torch.einsum("kd,dhw->khw", sample(source, points), target)
    fine = F.interpolate(similarity[None], scale_factor=UPSAMPLE, mode="bilinear",
                         align_corners=False)[0]
    h, w = fine.shape[1:]
    best = fine.flatten(1).argmax(1)
    return torch.stack([(best % w + 0.5) / w, (best // w + 0.5) / h], 1)


class CorrespondenceLoss(nn.Module):
    """Cross-entropy over cosine similarities, both directions, with CLIP's learnt temperature.

    For every key point, the other image's positions are the classes and the cell that holds the
    partner is the right one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, a: torch.Tensor, b: torch.Tensor, points_a: torch.Tensor,
                points_b: torch.Tensor) -> torch.Tensor:
        """Loss of one pair: descriptors (D, h, w), points (K, 2) as shares of the sides."""
        scale = self.log_scale.exp().clamp(max=_MAX_SCALE)
        there = self._one_way(a, b, points_a, points_b, scale)
        back = self._one_way(b, a, points_b, points_a, scale)
        return (there + back) / 2

    @staticmethod
    def _one_way(a: torch.Tensor, b: torch.Tensor, points_a: torch.Tensor,
                 points_b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        logits = scale * torch.einsum("kd,dhw->khw", sample(a, points_a), b).flatten(1)
        return F.cross_entropy(logits, cells(points_b, b.shape[-2], b.shape[-1]))


def cells(points: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(K,) index of the cell of an h × w grid that holds each point."""
    x = (points[:, 0] * w).long().clamp(0, w - 1)
    y = (points[:, 1] * h).long().clamp(0, h - 1)
    return y * w + x
