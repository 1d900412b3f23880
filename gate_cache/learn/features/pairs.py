"""Pairs of a correspondence data set with the points they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.learn.metrics.pck import PCK, Points, Prediction, pck

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import CorrespondenceDataset, Keypoints, Pair, Split


@dataclass(frozen=True, eq=False)
class PairPoints:
    """One pair and the key points visible in both of its images."""

    pair: Pair
    source: Keypoints
    target: Keypoints

    @cached_property
    def shared(self) -> npt.NDArray[np.bool_]:
        """(K,) bool: visible in both."""
        return self.source.visible & self.target.visible

    @cached_property
    def source_shares(self) -> Points:
        """(K', 2) shared points of the source as shares of its sides."""
        return shares(self.source)[self.shared]

    @cached_property
    def target_shares(self) -> Points:
        """(K', 2) shared points of the target as shares of its sides."""
        return shares(self.target)[self.shared]

    def judge(self, predicted_shares: Points) -> Prediction:
        """A prediction, (K', 2) shares of the target's sides, in original pixels."""
        height, width = self.target.size
        return Prediction(predicted_shares * [width, height], self.target.xy[self.shared],
                          self.target, self.pair.category)


def shares(points: Keypoints) -> Points:
    """(K, 2) points as shares of width and height."""
    height, width = points.size
    return np.asarray(points.xy / [width, height])


def load_pairs(dataset: CorrespondenceDataset, split: Split | None) -> list[PairPoints]:
    """All pairs of a split (None: the published protocol) that share at least one point."""
    known: dict[str, Keypoints] = {}

    def points(sample_id: str) -> Keypoints:
        if sample_id not in known:
            known[sample_id] = dataset.keypoints(sample_id)
        return known[sample_id]

    found = [PairPoints(p, points(p.source), points(p.target)) for p in dataset.pairs(split)]
    return [p for p in found if p.shared.any()]


def copy_position(pair: PairPoints) -> Points:
    """The baseline without features: the same place in the target, relative to its sides."""
    return pair.source_shares


def evaluate(pairs: Sequence[PairPoints], predict: Callable[[PairPoints], Points]) -> PCK:
    """PCK of a predictor that gives (K', 2) shares of the target's sides."""
    return pck([pair.judge(predict(pair)) for pair in pairs])
