"""PCK: the percentage of correct key points, with its whole protocol spelt out.

A predicted point is correct when its distance to the true one, in the target's original pixels,
is at most α times the longer side of the target image (``image``) or of its object's box
(``box``). Correct points are averaged over all points (``point``), or first over each pair's points
and then over pairs (``image``), or first over a category's points (``category``) or pairs
(``category-image``) and then over categories. A pair whose target has no box, or one without extent
(of a single point, say), has no radius by it and is in no PCK of the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gate_cache.core.size import Size
    from gate_cache.datasets.common.base import Keypoints

ALPHAS = (0.01, 0.05, 0.1, 0.15)
RADII = ("image", "box")
AVERAGES = ("point", "image", "category", "category-image")
SELECT = (0.1, "box", "point")
"""The PCK that chooses the best checkpoint on ``val``: α, radius, average."""
BROAD = (SELECT[0], "image", SELECT[2])
"""The PCK that leads in reports where the radius of `SELECT` is below one cell of the maps."""
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Points of one pair.

    Attributes
    ----------
    predicted : (K, 2) x and y in the target's original pixels
    true : (K, 2) likewise
    target : the target's key points, for its size and box
    category : of both images
    """

    predicted: Points
    true: Points
    target: Keypoints
    category: str = ""


@dataclass(frozen=True)
class PCK:
    """All variants of one PCK.

    Attributes
    ----------
    values : percent by (α, radius, average)
    pairs, points : how many were judged
    boxless : how many of these pairs have no box, so that they are in no PCK of the box
    """

    values: dict[tuple[float, str, str], float]
    pairs: int
    points: int
    boxless: int = 0

    def to_json(self) -> dict[str, float | None]:
        """Flat names such as ``pck@0.10/radius=box/average=point``; NaN becomes None."""
        return {named(*key): None if math.isnan(v) else v for key, v in self.values.items()}


def named(alpha: float, radius: str, average: str) -> str:
    """``pck@0.10/radius=box/average=point``."""
    return f"pck@{alpha:.2f}/radius={radius}/average={average}"


def metric_name(name: str) -> str:
    """A metric for people: ``PCK@0.10 (box, by point)``."""
    parts = name.split("/")
    if len(parts) != 3 or not parts[0].startswith("pck@"):
        return name
    radius, average = (p.partition("=")[2] for p in parts[1:])
    return f"PCK{parts[0][3:]} ({radius}, by {average})"


SELECTED, BROADER = named(*SELECT), named(*BROAD)
NAMES = [named(a, r, m) for a in ALPHAS for r in RADII for m in AVERAGES]


def share(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(…) percent of right points, from (…, 2) right points and all; NaN without any."""
    right, points = counts[..., 0], counts[..., 1]
    return np.asarray(100 * right / np.where(points, points, math.nan))


def pck(predictions: Sequence[Prediction], alphas: Sequence[float] = ALPHAS) -> PCK:
    """PCK over pairs, in every combination of α, radius and average.

    Pairs without points are left out; with no pair at all the values are NaN.
    """
    judged = [p for p in predictions if len(p.true)]
    values = {}
    for alpha in alphas:
        for radius in RADII:
            counted = with_radius(judged, radius)
            hits = [correct(p, alpha, radius) for p in counted]
            values[alpha, radius, "point"] = _percent(hits)
            values[alpha, radius, "image"] = _percent([[h.mean()] for h in hits])
            groups = _by_category(counted, hits).values()
            values[alpha, radius, "category"] = _percent([[np.concatenate(g).mean()]
                                                          for g in groups])
            values[alpha, radius, "category-image"] = _percent(
                [[np.mean([h.mean() for h in g])] for g in groups])
    return PCK(values, len(judged), sum(len(p.true) for p in judged),
               len(judged) - len(with_radius(judged, "box")))


def with_radius(predictions: Sequence[Prediction], radius: str) -> list[Prediction]:
    """Those that have points and a radius."""
    return [p for p in predictions if len(p.true) and longer_side(p.target, radius) > 0]


def correct(prediction: Prediction, alpha: float, radius: str) -> npt.NDArray[np.bool_]:
    """(K,) bool: which predicted points lie within the radius (the border counts).

    None does where there is no radius: leave such predictions out (`with_radius`).
    """
    distance = np.hypot(*(prediction.predicted - prediction.true).T)
    return np.asarray(distance <= alpha * longer_side(prediction.target, radius))


def by_category(predictions: Sequence[Prediction], alpha: float, radius: str) -> dict[str, float]:
    """Percent of each category's points that are correct."""
    judged = with_radius(predictions, radius)
    hits = [correct(p, alpha, radius) for p in judged]
    return {name: _percent(h) for name, h in sorted(_by_category(judged, hits).items())}


def units(predictions: Sequence[Prediction], alpha: float, radius: str,
          ) -> npt.NDArray[np.int64]:
    """(N, 2) right points and all that count of each prediction: none without a radius."""
    hits = [correct(p, alpha, radius) for p in predictions]
    counted = [len(with_radius([p], radius)) for p in predictions]
    return np.array([[int(h.sum()), n * len(h)] for h, n in zip(hits, counted, strict=True)],
                    np.int64).reshape(-1, 2)  # of no predictions too


def radius_in_cells(targets: Sequence[Keypoints], resolution: Size) -> float | None:
    """Median radius of `SELECT` in cells of maps; None where no target has one.

    Of a cell, the longer way across it counts, where the image was squashed into the maps.
    """
    radii = [SELECT[0] * longer_side(t, SELECT[1]) * min(
        cells / side for cells, side in zip(resolution, t.size, strict=True)) for t in targets]
    valid = [radius for radius in radii if not math.isnan(radius)]
    return float(np.median(valid)) if valid else None


def _by_category(judged: Sequence[Prediction], hits: Sequence[npt.NDArray[np.bool_]],
                 ) -> dict[str, list[npt.NDArray[np.bool_]]]:
    groups: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for prediction, hit in zip(judged, hits, strict=True):
        groups.setdefault(prediction.category, []).append(hit)
    return groups


def longer_side(target: Keypoints, radius: str) -> float:
    """The longer side, in pixels, of the image or of the box; NaN for a box without extent."""
    if radius == "image":
        return float(max(target.size))
    x0, y0, x1, y1 = target.box
    side = float(max(x1 - x0, y1 - y0))
    return side if side > 0 else math.nan


def _percent(parts: Sequence[npt.ArrayLike]) -> float:
    return float(100 * np.concatenate([np.atleast_1d(p) for p in parts]).mean()) if parts else \
        float("nan")
