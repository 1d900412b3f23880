"""One image's maps at native resolution, for heads that read them level by level or by pixel."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from gate_cache.core.errors import UserError
from gate_cache.core.size import Size
from gate_cache.learn.features.bucket import FeatureSpec, attention_maps, nbytes, one_frame
from gate_cache.learn.features.bucket_maps import BucketMaps
from gate_cache.learn.features.feed import Feed
from gate_cache.learn.features.layout import Maps, views_of
from gate_cache.learn.features.pixel_grid import read_at
from gate_cache.learn.features.samples import HELD_BYTES, SampleReader
from gate_cache.learn.features.upsampling import Upsampler, upsampler
from gate_cache.learn.mixing.vectors import Vectors

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement, Points
    from gate_cache.store.reader import FeatureStore

NATIVE_BYTES = 2**30
POOLED_BYTES = 2**29
"""Maps, and means of them, held on the training device at most."""


Picture = Callable[[str], npt.NDArray[np.uint8]]


class Native(NamedTuple):
    """One image's maps, float32, on the training device.

    Attributes
    ----------
    levels : (b, C_l, h_l, w_l) each, b combos, coarse to fine
    attention : (T, h, w) each
    extra : maps of each extra combo, (E, h, w) each
    """

    levels: tuple[torch.Tensor, ...]
    attention: tuple[torch.Tensor, ...]
    extra: tuple[tuple[torch.Tensor, ...], ...]


@dataclass(frozen=True)
class NativeSpec(FeatureSpec):
    """Which maps; further attributes as of `FeatureSpec`.

    Attributes
    ----------
    extra : names of combos that are concatenated as they are
    levels : how many of the combos' maps, from the coarsest; all by default
    pool : side of the grid of parts of an image that `NativeMaps.pooled` averages over
    upsampler, upsampled : by name what makes maps sharper, and how many times as many cells a side
    """

    extra: tuple[str, ...] = ()
    levels: int | None = None
    pool: int = 1
    upsampler: str | None = None
    upsampled: int = 1


class NativeMaps:
    """Maps of a store's rows by sample.

    Parameters
    ----------
    store : an open store
    spec : which maps
    device : where they are used
    rows : row of each sample by id
    size : (height, width) of a sample's image
    held : bytes of stored rows that are held in this machine's memory at most
    picture : a sample's as the model takes it, (H, W, 3) uint8, for an up-sampler

    Raises
    ------
    StoreError
        The combos have different maps, or their images were not fitted in the same way.
    """

    def __init__(self, store: FeatureStore, spec: NativeSpec, device: torch.device,
                 rows: Mapping[str, int], size: Callable[[str], tuple[int, int]],
                 held: int = HELD_BYTES, picture: Picture | None = None) -> None:
        self.spec = spec
        self.device = device
        self._store, self._size = store, size
        self.frame = one_frame(store, spec)
        self.maps = BucketMaps(store, spec.combos, spec.joining, spec.levels)
        beside = store[spec.attention] if spec.attention else None
        self._attention = attention_maps(beside, spec.attention_maps) if beside else ()
        self.level_channels = tuple(level.channels for level in self.maps.levels)
        self._upsampler = upsampler(spec.upsampler, device) if spec.upsampler else None
        self._picture = picture
        self.level_sizes = tuple(self._read_as(level.size) for level in self.maps.levels)
        shapes = [beside[n].shape for n in self._attention] if beside else []
        self.attention_sizes = tuple(self._read_as(shape[-2:]) for shape in shapes)
        self.attention_tokens = tuple(int(shape[1]) for shape in shapes)
        self.extra_channels = sum(int(store[c][n].shape[1]) for c in spec.extra
                                  for n in store[c].maps)
        reader = SampleReader(views_of(store, self._maps_read()), held)
        self._native = Feed(reader, rows.__getitem__, self._build, _bytes, device,
                            min(held, NATIVE_BYTES))
        self._pooled = Feed(reader, rows.__getitem__, self._mean, nbytes, device,
                            POOLED_BYTES)

    @property
    def channels(self) -> int:
        """C of a combo's concatenated levels."""
        return sum(self.level_channels)

    @property
    def tokens(self) -> int:
        """T of the concatenated attention maps."""
        return sum(self.attention_tokens)

    @property
    def resolution(self) -> Size:
        """Of the finest level; where inputs have several shapes, of the square one."""
        return self.maps.resolution

    def resolution_of(self, sample_id: str) -> Size:
        """Of one sample's finest level, as it is stored."""
        return self.maps.resolution_at(self.place(sample_id).size)

    def place(self, sample_id: str) -> Placement:
        """Where an image lies in the model's input."""
        return self.frame.place(*self._size(sample_id))

    def __call__(self, sample_id: str) -> Native:
        """All maps of one sample."""
        return self._native(sample_id)

    def stream(self, ids: Iterable[str]) -> Generator[Native]:
        """All maps of each sample in this order, read ahead."""
        return self._native.stream(ids)

    def read_ahead(self, ids: Iterable[str]) -> Iterator[str]:
        """These samples in turn: when one comes its maps are held, and others' are being read."""
        ids, order = tee(ids)
        return (i for i, _ in zip(order, self.stream(ids), strict=True))

    def pooled(self, ids: Iterable[str]) -> Generator[Vectors]:
        """Means over the cells that show each image, as batches of one; read ahead."""
        return self._pooled.stream(ids)

    def at(self, maps: Native, sample_id: str, points: Points) -> Vectors:
        """Features at (P, 2) points of the image, shares of its sides: bilinear, level by level."""
        place = self.place(sample_id)
        conv = torch.cat([read_at(level, place, points) for level in maps.levels], -1)
        attention = [read_at(m[None], place, points)[:, 0] for m in maps.attention]
        extra = [read_at(m[None], there, points)[:, 0] for there, group
                 in zip(self.extra_places(sample_id), maps.extra, strict=True) for m in group]
        return Vectors(conv, _joined(attention), _joined(extra))

    def extra_places(self, sample_id: str) -> list[Placement]:
        """Where an image lies in the input of each extra combo."""
        size = self._size(sample_id)
        return [self._store[combo].frame.place(*size) for combo in self.spec.extra]

    def _maps_read(self) -> dict[str, tuple[str, ...]]:
        """Maps of each combo that is read."""
        names = dict(self.maps.read)
        if self.spec.attention:
            names[self.spec.attention] = self._attention
        return {**names, **{c: self._store[c].maps for c in self.spec.extra}}

    def _build(self, sample_id: str, maps: Maps) -> Native:
        levels = [level.float() for level in self.maps.stacked(maps)]
        attention = [_own(maps[self.spec.attention or ""][n]) for n in self._attention]
        if self._upsampler and self._picture:
            square = torch.from_numpy(self._picture(sample_id)).to(self.device)
            guide = square.permute(2, 0, 1).float() / 255
            levels = [self._sharper(level, guide) for level in levels]
            attention = [self._sharper(m[None], guide)[0] for m in attention]
        return Native(tuple(levels), tuple(attention), tuple(tuple(
            _own(maps[c][n]) for n in self._store[c].maps) for c in self.spec.extra))

    def _read_as(self, stored: Sequence[int]) -> Size:
        """The size in which a map of this one is read."""
        times = self.spec.upsampled if self._upsampler else 1
        return Size(*(int(side) * times for side in stored))

    def _sharper(self, maps: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) maps with more cells, by a guide of as many."""
        size = self._read_as(maps.shape[-2:])
        sharper = cast(Upsampler, self._upsampler)(maps, F.adaptive_avg_pool2d(guide, size))
        if sharper.shape != (*maps.shape[:2], *size):
            raise UserError(f"train.head.upsampler: '{self.spec.upsampler}' made maps of shape"
                            f" {tuple(sharper.shape)} of {tuple(maps.shape)}, not of {size} cells")
        return sharper

    def _mean(self, sample_id: str, stored: Maps) -> Vectors:
        maps, place = self._build(sample_id, stored), self.place(sample_id)

        def mean(values: torch.Tensor) -> torch.Tensor:
            cut: torch.Tensor = place.window(values.shape[-2:]).cut(values)
            return F.adaptive_avg_pool2d(cut, self.spec.pool).flatten(-3)

        conv = torch.cat([mean(level) for level in maps.levels], -1)
        return Vectors(conv[None], _joined([mean(m)[None] for m in maps.attention]), None)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor | None:
    return torch.cat(parts, -1) if parts else None


def _own(stored: torch.Tensor) -> torch.Tensor:
    """In float32, in memory of its own."""
    return stored.to(torch.float32, copy=True)


def _bytes(native: Native) -> int:
    return sum(t.nbytes for part in (native.levels, native.attention, *native.extra) for t in part)
