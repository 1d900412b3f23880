"""Matching one point of an image with other images, by any feature of a store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.core.errors import StoreError, UserError, did_you_mean
from gate_cache.core.geometry import Placement
from gate_cache.learn.features.bucket import BucketSpec, feature_maps, one_square
from gate_cache.learn.features.data import Recent
from gate_cache.learn.features.similarity import (
    LevelDescriptors,
    best,
    describe,
    descriptor,
    similarity,
)
from gate_cache.store.reader import ComboView, FeatureStore

HELD_BYTES = 2 * 2**30
"""Descriptors held at most."""
MEAN = "mean"


class Feature(Protocol):
    """What images can be compared by."""

    @property
    def name(self) -> str:
        """``combo NAME``, ``mean`` or ``run NAME``."""

    @property
    def about(self) -> str:
        """What it is, for a person."""

    def describe(self, row: int, size: tuple[int, int]) -> LevelDescriptors:
        """Descriptors of an image of this original (height, width)."""


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
    held : whether the other image's descriptors were in memory already
    """

    x: float
    y: float
    similarity: float
    values: npt.NDArray[np.float32]
    placement: Placement
    seconds: float
    held: bool


class Matcher:
    """Descriptors of a store's images, held while they fit into memory. For one thread.

    Parameters
    ----------
    features : by what images can be compared
    """

    def __init__(self, store: FeatureStore, features: Sequence[Feature]) -> None:
        self.features = {f.name: f for f in features}
        self._store = store
        self._made = 0
        self._recent: Recent[LevelDescriptors] = Recent(
            self._describe, lambda found: found.nbytes, HELD_BYTES)

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
        point : x and y as shares of the image's width and height

        Raises
        ------
        UserError
            As `prepare`.
        """
        began = time.perf_counter()
        here, made = self.prepare(feature, row), self._made
        there = self.prepare(feature, target)
        with _one_thread():
            found = similarity(descriptor(here, *point), there)
            x, y, value = best(found, there)
        return Match(x, y, value, found.cpu().numpy(), there.window.placement,
                     time.perf_counter() - began, made == self._made)

    def _describe(self, key: tuple[str, int]) -> LevelDescriptors:
        self._made += 1
        feature, row = key
        height, width = (int(v) for v in self._store.samples.sizes[row])
        return self.features[feature].describe(row, (height, width))


class PlainFeature:
    """Combos as they are, or the mean of several: nothing is trained.

    Parameters
    ----------
    views : with the same maps, of which `feature_maps` are read
    """

    def __init__(self, name: str, about: str, views: Sequence[ComboView],
                 device: torch.device) -> None:
        self.name, self.about = name, about
        self._views = views
        self._device = device
        self._maps = feature_maps(views[0])
        self._side = max(views[0][m].shape[-1] for m in self._maps)

    def describe(self, row: int, size: tuple[int, int]) -> LevelDescriptors:
        """Levels at their own resolutions, in the dtype they are read in."""
        with _one_thread():
            levels = [self._level(name, row) for name in self._maps]
            return describe(levels, self._views[0].square.place(*size).window(self._side))

    def _level(self, name: str, row: int) -> torch.Tensor:
        parts = [torch.from_numpy(view[name][row]).to(self._device) for view in self._views]
        if len(parts) == 1:
            return parts[0]
        mean = parts[0].float()
        for part in parts[1:]:
            mean = mean.add_(part)
        return mean.div_(len(parts))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Little work, soon done: threads that wait for a busy processor would only delay it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def plain_features(store: FeatureStore, device: torch.device) -> list[Feature]:
    """Every combo, and the mean of all convolutional ones where they can be amalgamated."""
    views = dict(zip(store.combos, store.views(), strict=True))
    conv = {n: v for n, v in views.items() if v.attrs["kind"] == "conv"}
    rest = {n: v for n, v in views.items() if n not in conv}
    found: list[Feature] = [PlainFeature(f"combo {n}", n, [v], device)
                            for n, v in [*conv.items(), *rest.items()]]
    if len(conv) > 1 and _amalgamable(store, list(conv.values())):
        found.append(PlainFeature(MEAN, f"uniform mean of {len(conv)} combos",
                                  list(conv.values()), device))
    return found


def _amalgamable(store: FeatureStore, views: Sequence[ComboView]) -> bool:
    """Whether these have the same maps of images made square in the same way."""
    try:
        one_square(store, BucketSpec(tuple(v.name for v in views)))
    except StoreError:
        return False
    return len({tuple((m, v[m].shape) for m in v.maps) for v in views}) == 1
