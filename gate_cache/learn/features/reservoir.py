"""Labelled pixels of the training images, sampled once and held in memory within a bound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.datasets.common.base import IGNORED, SegmentationDataset
from gate_cache.learn.features.pixel_grid import centres, tiles
from gate_cache.learn.mixing.vectors import Vectors

if TYPE_CHECKING:
    from gate_cache.learn.features.native import NativeMaps

Sampling = Literal["uniform", "balanced"]
TILE_BYTES = 2**23
"""Features of pixels, in float32, that are read at once."""


class Reservoir:
    """Features of P labelled pixels in float16, and their classes. `fill` makes one.

    Attributes
    ----------
    labels : (P,) classes
    """

    def __init__(self, maps: NativeMaps, count: int) -> None:
        widths = (maps.tokens, maps.extra_channels)
        half = torch.float16
        self.labels = torch.zeros(count, dtype=torch.int64)
        self._conv = torch.empty((count, len(maps.spec.combos), maps.channels), dtype=half)
        self._attention, self._extra = (
            torch.empty((count, width), dtype=half) if width else None for width in widths)
        self._device = maps.device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all features and labels."""
        held = (self.labels, self._conv, self._attention, self._extra)
        return sum(t.nbytes for t in held if t is not None)

    def put(self, start: int, found: Vectors, labels: torch.Tensor) -> None:
        """Write pixels from number `start` on; values beyond float16's range become its ends."""
        place = slice(start, start + len(labels))
        self.labels[place] = labels
        most = torch.finfo(torch.float16).max
        for to, values in ((self._conv, found.conv), (self._attention, found.attention),
                           (self._extra, found.extra)):
            if to is not None and values is not None:
                to[place] = values.clamp(-most, most).to("cpu", torch.float16)

    def __call__(self, numbers: Sequence[int]) -> Vectors:
        """Pixels by number, in float32, on the training device."""
        index = torch.as_tensor(list(numbers))
        return Vectors(*(None if t is None else t[index].to(self._device, non_blocking=True).float()  # type: ignore[arg-type]
                         for t in (self._conv, self._attention, self._extra)))


def pixel_bytes(maps: NativeMaps) -> int:
    """Bytes of one pixel in a reservoir."""
    features = len(maps.spec.combos) * maps.channels + maps.tokens + maps.extra_channels
    return 2 * features + 8


def tile_pixels(maps: NativeMaps) -> int:
    """Pixels whose features are read at once."""
    return max(64, TILE_BYTES // (2 * pixel_bytes(maps)))


@dataclass(frozen=True)
class Draw:
    """Which pixels of images are sampled.

    Attributes
    ----------
    bound : bytes of the reservoir at most
    sampling : ``uniform`` over an image's labelled pixels, or ``balanced``: as many of each of
        its classes, as far as there are
    min_pixels : a class with fewer pixels in an image is ignored there (20 in ddpm-segmentation)
    """

    bound: int
    sampling: Sampling = "uniform"
    min_pixels: int = 0


def fill(maps: NativeMaps, data: SegmentationDataset, ids: Sequence[str], draw: Draw,
         note: Callable[[], None] = lambda: None) -> Reservoir:
    """Sample pixels of images, as many of each image, until all are in or the bound is reached.

    An image's pixels are drawn by its own seed, a hash of its id: the same for every trial.

    Parameters
    ----------
    maps : what pixels are described by
    data : the labels
    ids : of the images
    draw : which of their pixels
    note : called after each image
    """
    masks = {i: without_specks(data.mask(i), draw.min_pixels) for i in ids}
    sizes = [int((m != IGNORED).sum()) for m in masks.values()]
    shares = share_out(sizes, draw.bound // pixel_bytes(maps))
    reservoir, start = Reservoir(maps, sum(shares)), 0
    for sample_id, count in zip(maps.read_ahead(masks), shares, strict=True):
        mask = masks[sample_id]
        chosen = sample_pixels(mask.ravel(), count, draw.sampling, _seed(sample_id))
        native = maps(sample_id)
        for part in tiles(len(chosen), tile_pixels(maps)):
            points = centres((mask.shape[0], mask.shape[1]), chosen[part])
            labels = torch.from_numpy(mask.ravel()[chosen[part]].astype(np.int64))
            reservoir.put(start, maps.at(native, sample_id, points), labels)
            start += len(labels)
        note()
    return reservoir


def without_specks(mask: npt.NDArray[np.uint8], least: int) -> npt.NDArray[np.uint8]:
    """A mask in which classes of fewer than `least` pixels are ignored."""
    return np.where(np.bincount(mask.ravel(), minlength=256)[mask] < least, IGNORED,
                    mask).astype(np.uint8)


def share_out(sizes: Sequence[int], total: int) -> list[int]:
    """As much of `total` for each as for the others, but never more than its size."""
    order, left, shares = sorted(range(len(sizes)), key=lambda i: sizes[i]), total, [0] * len(sizes)
    for position, i in enumerate(order):
        shares[i] = min(sizes[i], left // (len(order) - position))
        left -= shares[i]
    return shares


def sample_pixels(labels: npt.NDArray[Any], count: int, sampling: Sampling,
                  seed: int) -> npt.NDArray[np.int64]:
    """Sorted numbers of `count` pixels of (P,) labels, none of them ignored.

    Parameters
    ----------
    labels : (P,) classes, `IGNORED` where none counts
    count : pixels at most; fewer where fewer are labelled
    sampling : as of `Draw`
    seed : of the random numbers
    """
    generator = np.random.default_rng(seed)
    known = np.flatnonzero(labels != IGNORED)
    groups = [known] if sampling == "uniform" else \
        [np.flatnonzero(labels == c) for c in np.unique(labels[known])]
    shares = share_out([len(g) for g in groups], count)
    parts = [generator.choice(g, n, replace=False) for g, n in zip(groups, shares, strict=True)]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))


def _seed(sample_id: str) -> int:
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big")
