"""Matching one point of an image with other images, by any feature of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.analysis.describe import Feature, one_thread
from gate_cache.core.errors import UserError, did_you_mean
from gate_cache.learn.features.feed import LRUCache
from gate_cache.learn.features.similarity import LevelDescriptors, best, descriptors, similarity

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement

CACHE_BYTES = 2 * 2**30
"""Descriptors kept at most."""


@dataclass(frozen=True)
class Match:
    """Where a point of one image is found in another.

    Attributes
    ----------
    x, y : shares of the other image's width and height
    similarity : cosine, of the best cell
    values : (H, W) similarity of every position of the model's input
    placement : where the other image lies in that input
    seconds : it took, reading included
    cached : whether the other image's descriptors were in memory already
    """

    x: float
    y: float
    similarity: float
    values: npt.NDArray[np.float32]
    placement: Placement
    seconds: float
    cached: bool


class Matcher:
    """Descriptors of a store's images, kept while they fit into memory. For one thread.

    Parameters
    ----------
    features : by what images can be compared
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = {f.name: f for f in features}
        self._computed = 0  # tells whether an image's descriptors were held
        self._recent: LRUCache[LevelDescriptors] = LRUCache(
            self._describe, lambda descriptors: descriptors.nbytes, CACHE_BYTES)

    @torch.inference_mode()
    def prepare(self, feature: str, row: int) -> LevelDescriptors:
        """An image's descriptors.

        Raises
        ------
        UserError
            There is no such feature.
        RowNotDone
            The image is not extracted for it.
        """
        if feature not in self.features:
            raise UserError(f"no feature '{feature}' here{did_you_mean(feature, self.features)}")
        return self._recent((feature, row))

    @torch.inference_mode()
    def match(self, feature: str, row: int, point: tuple[float, float], target: int) -> Match:
        """The place of `target` that is most like a point of `row`.

        Parameters
        ----------
        feature : name of what images are compared by
        row, target : of the two images
        point : x and y as shares of the first one's width and height

        Raises
        ------
        UserError
            As `prepare`.
        """
        began = time.perf_counter()
        here, before = self.prepare(feature, row), self._computed
        there = self.prepare(feature, target)
        with one_thread():
            values = similarity(descriptors(here, np.array([point])), there)
            ((x, y),), (value,) = best(values, there)
        return Match(float(x), float(y), float(value), values[0].cpu().numpy(),
                     there.window.placement, time.perf_counter() - began, before == self._computed)

    def _describe(self, key: tuple[str, int]) -> LevelDescriptors:
        self._computed += 1
        feature, row = key
        return self.features[feature].describe(row)
