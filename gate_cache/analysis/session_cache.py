"""What a viewer computes once and keeps: descriptors that are matched, and the colours of maps."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.analysis.describe import Feature, one_thread, original_size
from gate_cache.core.errors import UserError, did_you_mean
from gate_cache.learn.features.feed import LRUCache
from gate_cache.learn.features.pca import ColourPCA
from gate_cache.learn.features.similarity import LevelDescriptors, best, descriptors, similarity

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement
    from gate_cache.store.reader import ComboView

CACHE_BYTES = 2 * 2**30
"""Descriptors kept at most."""


@dataclass(frozen=True)
class Match:
    """Where a point of one image is found in another.

    Attributes
    ----------
    x, y : shares of the other image's width and height
    similarity : cosine, of the best cell
    values : (R, R) similarity of every position of the model's square
    placement : where the other image lies in that square
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
        self._computed = 0
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


MAPS, POSITIONS = 24, 1024
"""Maps that the components of one level are computed from, and positions of all of them."""
_Key = tuple[str, int]


class Colours:
    """PCA as red, green and blue: one for all images and combos of a map.

    Its components are those of a few images of all combos in turn, so that a large store, or one
    behind a URL, need not be read.

    Parameters
    ----------
    views : convolutional combos
    """

    def __init__(self, views: Sequence[ComboView]) -> None:
        self._views = views
        self._components: dict[_Key, ColourPCA] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)

    def __call__(self, view: ComboView, name: str, row: int) -> npt.NDArray[np.uint8]:
        """(h, w, 3) of one image's map; `RowNotDone` where it is not extracted for this combo."""
        values = _read(view, name, row)
        key = name, values.shape[0]
        with self._locks[key]:
            if key not in self._components:
                self._components[key] = ColourPCA(self._some(key))
        return self._components[key](values)

    def _some(self, key: _Key) -> npt.NDArray[np.float32]:
        """(C, n, 1): positions of some images, of every combo that has this map."""
        name, channels = key
        views = [(v, np.flatnonzero(v.done())) for v in self._views
                 if name in v.maps and v[name].shape[1] == channels]
        views = [(v, rows) for v, rows in views if len(rows)]
        parts = []
        for i in range(MAPS):
            view, rows = views[i % len(views)]
            row = int(rows[i * len(rows) // MAPS])
            parts.append(_spread(_inside(view, row, _read(view, name, row))))
        return np.concatenate(parts, axis=1)[..., None]


def _read(view: ComboView, name: str, row: int) -> npt.NDArray[np.float32]:
    return np.nan_to_num(np.asarray(view[name][row], np.float32))


def _inside(view: ComboView, row: int,
            values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The cells that show some of the image: padding has no effect on the colours."""
    placement = view.square.place(*original_size(view.store, row))
    return np.asarray(placement.window(values.shape[-1]).cut(values))


def _spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(C, n): positions spread evenly over a map."""
    flat = values.reshape(len(values), -1)
    return flat[:, :: max(flat.shape[1] * MAPS // POSITIONS, 1)]
