"""Semantic correspondence: descriptors at key points, their matches and their loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

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
    (K, 2) in the target, shares of width and height: the centre of the most similar cell, moved
    by less than half a cell to the peak of a parabola through its neighbours, along each axis
    """
    return nearest(sample(source, points), target)


def nearest(wanted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where (K, D) descriptors are found in a (D, h, w) target, as `match` says."""
    return peaks(torch.einsum("kd,dhw->khw", wanted, target))


def peaks(similarity: torch.Tensor) -> torch.Tensor:
    """Where each of (K, h, w) similarity maps is highest, (K, 2), as `match` says."""
    h, w = similarity.shape[1:]
    best = similarity.flatten(1).argmax(1)
    y, x = best // w, best % w
    each = torch.arange(len(best), device=best.device)
    along_x = x + 0.5 + _peak(similarity[each, y], x)
    along_y = y + 0.5 + _peak(similarity[each, :, x], y)
    return torch.stack([along_x / w, along_y / h], 1)


def _peak(values: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Offset of a parabola's peak from each row's maximum, in [-0.5, 0.5]; 0 at the ends.

    Parameters
    ----------
    values : (K, n)
    best : (K,) index of each row's maximum
    """
    last = values.shape[1] - 1
    left, here, right = (values.gather(1, (best + d).clamp(0, last)[:, None])[:, 0]
                         for d in (-1, 0, 1))
    bend = left - 2 * here + right
    offset = (left - right) / (2 * bend)
    inside = (best > 0) & (best < last) & (bend < 0)
    return torch.where(inside, offset.clamp(-0.5, 0.5), torch.zeros_like(offset))


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
