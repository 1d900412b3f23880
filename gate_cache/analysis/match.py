"""``match``: points of one image found in another, judged where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError, UserError
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset, ImageDataset, Pair
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.features.similarity import comes_back, match
from gate_cache.learn.metrics.pck import SELECT, correct, longer_side, pck
from gate_cache.workspace.pick import one

if TYPE_CHECKING:
    from gate_cache.analysis.describe import Describer
    from gate_cache.core.geometry import Points
    from gate_cache.workspace.workspace import Workspace

GRID = 6
"""Points along each side where there are no key points."""
WITHIN = 0.1
"""A match comes back where that of the match is so near, as a share of the image's sides."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What is known of key points.

    Attributes
    ----------
    true : (K, 2) x and y in the target's pixels
    right : (K,) whether a match is within `radius` pixels of the truth
    pck : percent right by the radius's meaning, ``box`` or ``image``
    """

    true: Points
    right: Flags
    radius: float
    pck: dict[str, float]


@dataclass(frozen=True)
class Matches:
    """Points of one image and where they were found in another.

    Attributes
    ----------
    feature : what described them
    source, target : ids, with their pictures
    points, found : (K, 2) x and y in pixels of the source and of the target
    similarity : (K,) cosine of each match
    back : (K,) whether a match is cycle-consistent: the match's match is near the point
    judged : for key points; None for a grid of points
    note : why there is a grid where key points could be
    """

    feature: str
    source: str
    target: str
    pictures: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] = field(repr=False)
    points: Points
    found: Points
    similarity: npt.NDArray[np.float32]
    back: Flags
    judged: Judged | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        judged = {"pck@0.10": self.judged.pck, "radius": self.judged.radius,
                  "true": self.judged.true.tolist(), "right": self.judged.right.tolist()} \
            if self.judged else {}
        return {"feature": self.feature, "source": self.source, "target": self.target,
                "points": self.points.tolist(), "found": self.found.tolist(),
                "similarity": self.similarity.tolist(), "comes_back": self.back.tolist(), **judged}


def match_images(work: Workspace, describer: Describer, images: tuple[str, str],
                 grid: int | None = None, at: npt.ArrayLike | None = None) -> Matches:
    """Match two images of a manifest's data set.

    Parameters
    ----------
    work : the manifest on this machine
    describer : gives each image's descriptors
    images : ids of source and target, or parts of them
    grid : match so many points along each side, not key points
    at : (2,) or (K, 2), match these x and y in the source's pixels

    Raises
    ------
    UserError
        No such image, it is not in the store as it is now, or a point lies outside the source.
    """
    dataset = work.dataset()
    ids = [s.id for s in dataset.samples()]
    a, b = (one(ids, image, work.name, "its data set") for image in images)
    store = describer.store
    for sample_id in (a, b):
        if store.samples.find(sample_id, dataset.sha256(sample_id)) is None:
            raise StoreError(f"{store.path}: '{sample_id}' is not in it, or was changed since; run"
                             " 'gate-cache extract'")
    pair, note = (None, "") if grid or at is not None else _key_points(dataset, a, b)
    shares = pair.source_shares if pair else _grid(grid or GRID) if at is None else \
        _inside(np.atleast_2d(np.asarray(at, np.float64)), dataset.size(a), a)
    here, there = describer(a), describer(b)
    matched = match(here, there, shares)
    return Matches(
        describer.feature.name, a, b, (dataset.image(a), dataset.image(b)),
        _pixels(shares, dataset.size(a)), _pixels(matched.points, dataset.size(b)),
        matched.similarity, comes_back(here, there, shares, WITHIN),
        _judge(pair, matched.points) if pair else None, note)


def _key_points(dataset: ImageDataset, a: str, b: str) -> tuple[PairPoints | None, str]:
    """Key points that both images show, or why there are none."""
    if not isinstance(dataset, CorrespondenceDataset):
        return None, ""
    pairs = [p for split in (None, *SPLITS) for p in dataset.pairs(split)]  # published, then ours
    category = {i: p.category for p in pairs for i in (p.source, p.target)}
    if a not in category or category.get(a) != category.get(b):
        return None, "no key points in common: the images are of two categories, or in no pair"
    pair = PairPoints(Pair(a, b, category[a]), dataset.keypoints(a), dataset.keypoints(b))
    return (pair, "") if pair.shared.any() else (None, "no key point is visible in both images")


def _judge(pair: PairPoints, shares: Points) -> Judged:
    alpha, radius, average = SELECT
    prediction = pair.judge(shares)
    if not longer_side(pair.target, radius) > 0:
        radius = "image"  # a box without extent gives none
    values = pck([prediction], [alpha]).values
    return Judged(prediction.true, correct(prediction, alpha, radius),
                  alpha * longer_side(prediction.target, radius),
                  {r: values[alpha, r, average] for r in ("box", "image")})


def _grid(count: int) -> Points:
    along = (np.arange(count) + 0.5) / count
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)


def _inside(points: Points, size: tuple[int, int], image: str) -> Points:
    """Points in pixels as shares of the image's sides."""
    height, width = size
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(f"{image}: x = {x:g}, y = {y:g} is outside; it has {width} x {height}"
                            " pixels")
    return points / [width, height]


def _pixels(shares: Points, size: tuple[int, int]) -> Points:
    return np.asarray(shares * [size[1], size[0]])
