"""Pairs of a correspondence data set with the points they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import Pair
from gate_cache.datasets.common.listed_pairs import PairsWithin
from gate_cache.learn.metrics.pck import Points, Prediction

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import CorrespondenceDataset, Keypoints, Split


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


class SharedPairs(Sequence[PairPoints]):
    """Ordered pairs inside groups that share at least one point, made when they are asked for.

    Parameters
    ----------
    groups : category with the samples of one group
    points : of every sample
    """

    def __init__(self, groups: Sequence[tuple[str, list[str]]],
                 points: Mapping[str, Keypoints]) -> None:
        self._points = points
        self._groups = [_Group(name, ids, np.stack([points[i].visible for i in ids]))
                        for name, ids in groups]
        counts = [group.partners for group in self._groups]
        self._ends = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
        self._first = np.cumsum([0, *map(len, counts)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def images(self) -> int:
        """Images that are in any pair."""
        return int(sum((group.partners > 0).sum() for group in self._groups))

    @overload
    def __getitem__(self, index: int) -> PairPoints: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairPoints]: ...
    def __getitem__(self, index: int | slice) -> PairPoints | list[PairPoints]:
        position = range(len(self))[index]
        if isinstance(position, range):
            return [self[i] for i in position]
        source = int(np.searchsorted(self._ends, position, "right")) - 1
        number = int(np.searchsorted(self._first, source, "right")) - 1
        group, place = self._groups[number], source - int(self._first[number])
        a, b = group.ids[place], group.partner(place, position - int(self._ends[source]))
        return PairPoints(Pair(a, b, group.name), self._points[a], self._points[b])


class _Group:
    """Images of one category, by which of its points they show."""

    def __init__(self, name: str, ids: Sequence[str], visible: npt.NDArray[np.bool_]) -> None:
        self.name, self.ids = name, ids
        self._kinds, self._kind, counts = np.unique(visible, axis=0, return_inverse=True,
                                                    return_counts=True)
        self._kind = self._kind.ravel()
        some = np.array([counts[self._meets(kind)].sum() for kind in range(len(counts))])
        self.partners = some[self._kind] - visible.any(1)

    def partner(self, source: int, number: int) -> str:
        """The `number`-th image that shares a point with one, which is none of its own."""
        candidates = np.flatnonzero(self._meets(int(self._kind[source]))[self._kind])
        return self.ids[int(candidates[candidates != source][number])]

    def _meets(self, kind: int) -> npt.NDArray[np.bool_]:
        overlap: npt.NDArray[np.bool_] = (self._kinds & self._kinds[kind]).any(1)
        return overlap


def load_pairs(dataset: CorrespondenceDataset, split: Split | None) -> Sequence[PairPoints]:
    """All pairs of a split (None: the published protocol) that share at least one point."""
    pairs = dataset.pairs(split)
    known: dict[str, Keypoints] = {}
    if isinstance(pairs, PairsWithin):
        known = {i: dataset.keypoints(i) for _, ids in pairs.groups for i in ids}
        return SharedPairs(pairs.groups, known)

    def points(sample_id: str) -> Keypoints:
        if sample_id not in known:
            known[sample_id] = dataset.keypoints(sample_id)
        return known[sample_id]

    with_points = [PairPoints(p, points(p.source), points(p.target)) for p in pairs]
    return [p for p in with_points if p.shared.any()]


def images_of(pairs: Sequence[PairPoints]) -> int:
    """How many images are in any of these pairs."""
    if isinstance(pairs, SharedPairs):
        return pairs.images
    return len({i for p in pairs for i in (p.pair.source, p.pair.target)})
