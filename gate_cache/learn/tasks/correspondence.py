"""Semantic correspondence: descriptors at key points, their matches and their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.features.interpolation import (
    EPS,
    between,
    lengths_between,
    neighbour_products,
)

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Buckets
    from gate_cache.learn.features.pairs import PairPoints

Matching = Literal["dense", "cells"]
FEWEST, MOST, FINE = 4, 8, 256
"""Steps of a dense search from a cell's centre to the next: as many as make a map so fine."""
_MAX_SCALE = 100.0  # CLIP's


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
    grid = (points * 2 - 1)[None, None].to(descriptors, non_blocking=True)
    # align_corners=False: -1 and 1 are the map's borders, as 0 and 1 are of shares, not centres
    values = F.grid_sample(descriptors[None], grid, mode="bilinear", padding_mode="border",
                           align_corners=False)
    return F.normalize(values[0, :, 0].T, dim=1)


def nearest(descriptors: torch.Tensor, target: torch.Tensor,
            matching: Matching = "dense") -> torch.Tensor:
    """Where the target is most like each of some descriptors, by cosine similarity.

    Parameters
    ----------
    descriptors : (K, D) of unit length, such as `sample` reads
    target : (D, h, w) of unit length over D
    matching : ``dense``: the target's descriptors are interpolated between cells, as DIFT and the
        released code of GATE do, here at `steps_between` from a cell's centre to the next;
        ``cells``: only centres are looked at. Either way a parabola through the best position's
        neighbours moves it by less than half a step along each axis.

    Returns
    -------
    (K, 2) in the target, x and y as shares of width and height
    """
    cosines = torch.einsum("kd,dhw->khw", descriptors, target)
    products = neighbour_products(target) if matching == "dense" else None
    return found_at(cosines, products, matching)


def found_at(cosines: torch.Tensor, products: torch.Tensor | None,
             matching: Matching) -> torch.Tensor:
    """Where (K, h, w) cosines of cells are highest, as `nearest` says.

    Parameters
    ----------
    products : (5, h + 1, w + 1) `neighbour_products` of the unit descriptors, for ``dense``
    matching : as of `nearest`
    """
    if matching == "cells" or products is None:
        return peaks(cosines)
    steps = steps_between(max(cosines.shape[1:]))
    fine = between(cosines, steps) / lengths_between(products, steps).clamp_min(EPS)
    sides, places = (torch.tensor(maps.shape[:0:-1]).to(maps.device, non_blocking=True)
                     for maps in (cosines, fine))  # (width, height) of both grids
    # fine positions count steps from the first cell's centre, half a cell from the border
    return ((peaks(fine) * places - 0.5) / steps + 0.5) / sides


def steps_between(side: int) -> int:
    """Steps from one of `side` cells to the next: coarse maps need more of them to be as exact."""
    return max(FEWEST, min(MOST, FINE // side))


def peaks(similarity: torch.Tensor) -> torch.Tensor:
    """Where each of (K, h, w) similarity maps is highest, (K, 2) shares: a parabola's peak."""
    h, w = similarity.shape[1:]
    best = similarity.flatten(1).argmax(1)
    y, x = best // w, best % w
    rows = torch.arange(len(best), device=best.device)
    along_x = x + 0.5 + _peak(similarity[rows, y], x)
    along_y = y + 0.5 + _peak(similarity[rows, :, x], y)
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
    inside = (best > 0) & (best < last) & (bend < 0)  # a plateau has no peak
    return torch.where(inside, offset.clamp(-0.5, 0.5), torch.zeros_like(offset))


class CorrespondenceLoss(nn.Module):
    """Cross-entropy over cosine similarities, both directions, with CLIP's temperature.

    For every key point, the other image's positions are the classes and the cell that holds the
    partner is the right one.

    Parameters
    ----------
    learnt : whether the temperature is, from 0.07 on
    """

    def __init__(self, learnt: bool = True) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)), requires_grad=learnt)

    def forward(self, a: torch.Tensor, b: torch.Tensor, points_a: torch.Tensor,
                points_b: torch.Tensor) -> torch.Tensor:
        """Loss of one pair.

        Parameters
        ----------
        a, b : (D, h, w) descriptors of both images, of unit length over D
        points_a, points_b : (K, 2) the same points in either, shares of its sides
        """
        scale = self.log_scale.exp().clamp(max=_MAX_SCALE)
        there = self._one_way(a, b, points_a, points_b, scale)
        back = self._one_way(b, a, points_b, points_a, scale)
        return (there + back) / 2

    @staticmethod
    def _one_way(a: torch.Tensor, b: torch.Tensor, points_a: torch.Tensor,
                 points_b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        logits = scale * torch.einsum("kd,dhw->khw", sample(a, points_a), b).flatten(1)
        return F.cross_entropy(logits, cells(points_b, b.shape[-2], b.shape[-1]))


class PairsLoss(nn.Module):
    """The loss of a batch of pairs: 2B descriptors, (D, h, w) each, sources first.

    Of each map only the cells that show its image count.
    """

    def __init__(self, buckets: Buckets, learnt: bool) -> None:
        super().__init__()
        self.loss = CorrespondenceLoss(learnt)
        self._buckets = buckets

    def forward(self, descriptors: Sequence[torch.Tensor] | torch.Tensor,
                pairs: Sequence[PairPoints]) -> torch.Tensor:
        """Mean over the pairs."""
        halves = descriptors[: len(pairs)], descriptors[len(pairs) :]
        return torch.stack([self._of_pair(*each) for each in zip(pairs, *halves, strict=True)]
                           ).mean()

    def _of_pair(self, pair: PairPoints, source: torch.Tensor,
                 target: torch.Tensor) -> torch.Tensor:
        here, there = (self._buckets.window(image.size) for image in (pair.source, pair.target))
        a, b = (torch.from_numpy(window.enter(points)).to(source, non_blocking=True) for
                window, points in ((here, pair.source_shares), (there, pair.target_shares)))
        return torch.as_tensor(self.loss(here.cut(source), there.cut(target), a, b))


def cells(points: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(K,) index of the cell of an h × w grid that holds each point."""
    x = (points[:, 0] * w).long().clamp(0, w - 1)
    y = (points[:, 1] * h).long().clamp(0, h - 1)
    return y * w + x
