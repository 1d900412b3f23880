"""From one image's maps to a bucket: resized to one resolution, on the training device."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F

from gate_cache.core.errors import StoreError
from gate_cache.core.size import Sides, Size
from gate_cache.learn.features.bucket_maps import BucketMaps, Joining
from gate_cache.learn.features.feed import Feed
from gate_cache.learn.features.layout import Maps, views_of
from gate_cache.learn.features.samples import HELD_BYTES, SampleReader
from gate_cache.manifest.train_spec import TWO_FINEST

if TYPE_CHECKING:
    from gate_cache.core.geometry import Frame, Placement, Window
    from gate_cache.manifest.train_spec import AttentionMaps
    from gate_cache.store.reader import ComboView, FeatureStore

Standardise = Literal["none", "image"]
BUCKET_BYTES = 2**30
"""Resized buckets held at most, on the training device."""


class Bucket(NamedTuple):
    """The features of one image, or of a batch with one more axis in front.

    Attributes
    ----------
    conv : (b, C, h, w) float32, one map a combo, its levels concatenated
    attention : (T, h, w) float32, or None
    """

    conv: torch.Tensor
    attention: torch.Tensor | None

    @property
    def parts(self) -> list[Bucket]:
        """As `Stacks`: of a batch, itself."""
        return [self]

    @property
    def places(self) -> list[int]:
        """As `Stacks`."""
        return [*range(len(self.conv))]


@dataclass(frozen=True)
class FeatureSpec:
    """Which features are read.

    Attributes
    ----------
    combos : names of the combos that are amalgamated, each with all its maps
    attention : name of the attention combo that is concatenated, or None
    attention_maps : its maps; by default all
    joining : of maps of several models; None: all combos have the same maps
    """

    combos: tuple[str, ...]
    attention: str | None = None
    attention_maps: AttentionMaps = None
    joining: Joining | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class BucketSpec(FeatureSpec):
    """What makes up a bucket; further attributes as of `FeatureSpec`.

    Attributes
    ----------
    resolution : of all maps, side or (height, width); by default the finest convolutional map's,
        of each image's own where these have inputs of several shapes
    standardise : ``image``: see `standardised`, for convolutional maps
    """

    resolution: Sides | None = None
    standardise: Standardise = "none"


class Buckets:
    """Buckets of a store's rows.

    Parameters
    ----------
    store : an open store
    spec : what makes up a bucket
    device : where maps are decoded and resized
    rows : row of each sample by id
    held : bytes of stored rows that are held in this machine's memory at most

    Raises
    ------
    StoreError
        The combos have different maps, or their images were not fitted in the same way, so they
        cannot be amalgamated.
    """

    def __init__(self, store: FeatureStore, spec: BucketSpec, device: torch.device,
                 rows: Mapping[str, int], held: int = HELD_BYTES) -> None:
        self.spec = spec
        self.device = device
        self._store, self._rows, self._held = store, rows, held
        self.maps = BucketMaps(store, spec.combos, spec.joining)
        self.channels = self.maps.channels
        self.resolution = Size.of(spec.resolution or self.maps.resolution)
        maps = dict(self.maps.read)
        self._frame = one_frame(store, spec)
        self.tokens = 0
        """T of the attention feature."""
        if spec.attention:
            view = store[spec.attention]
            maps[spec.attention] = attention_maps(view, spec.attention_maps)
            self.tokens = sum(int(view[n].shape[1]) for n in maps[spec.attention])
        self._feed: Feed[int, Bucket] = Feed(SampleReader(views_of(store, maps), held), int,
                                             self._build, nbytes, device, BUCKET_BYTES)

    @property
    def levels(self) -> dict[str, int]:
        """Channels of each map, in their order."""
        return {level.name: level.channels for level in self.maps.levels}

    def of(self, combos: tuple[str, ...], attention: str | None = None) -> Buckets:
        """The same rows with other features."""
        spec = replace(self.spec, combos=combos, attention=attention)
        return Buckets(self._store, spec, self.device, self._rows, self._held)

    def window(self, size: tuple[int, int]) -> Window:
        """The cells of its bucket that show an image of this (height, width)."""
        place = self._frame.place(*size)
        own = self._frame.shapes and not self.spec.resolution
        return place.window(self.maps.resolution_at(place.size) if own else self.resolution)

    def named(self, sample_id: str) -> Bucket:
        """The bucket of one sample."""
        return self._feed(self._rows[sample_id])

    def stream(self, ids: Iterable[str]) -> Generator[Bucket]:
        """Buckets in this order, read ahead."""
        return self._feed.stream(self._rows[i] for i in ids)

    def __call__(self, row: int) -> Bucket:
        """The bucket of one row."""
        return self._feed(row)

    def _build(self, row: int, maps: Maps) -> Bucket:
        spec, place = self.spec, self._frame.place(*map(int, self._store.samples.sizes[row]))
        prepare = partial(standardised, place=place) if spec.standardise == "image" else None
        own = self._frame.shapes and not spec.resolution
        size = self.maps.resolution_at(place.size) if own else self.resolution
        conv = self._joined(self.maps.stacked(maps, prepare), size)
        attention = [m[None] for m in maps[spec.attention].values()] if spec.attention else []
        return Bucket(conv, self._joined(attention, size)[0] if attention else None)

    def _joined(self, levels: Sequence[torch.Tensor], size: Size) -> torch.Tensor:
        """(b, C, h, w): levels resized (bilinear) and concatenated along the channels."""
        at = 0
        joined = torch.empty(len(levels[0]), sum(m.shape[1] for m in levels), *size,
                             device=self.device)
        for level in levels:
            part = joined[:, at : (at := at + level.shape[1])]
            part.copy_(level if tuple(level.shape[2:]) == size else F.interpolate(
                level.float(), size, mode="bilinear", align_corners=False))
        return joined


def standardised(level: torch.Tensor, place: Placement) -> torch.Tensor:
    """Each channel of (C, h, w) less its mean, over its standard deviation, in float32.

    Both are taken over the cells that show the image. A channel that is the same everywhere
    becomes 0.

    Parameters
    ----------
    place : of the image in the model's input
    """
    seen = place.window(level.shape[-2:]).cut(level.float())
    spread, mean = torch.std_mean(seen, (-2, -1), correction=0, keepdim=True)
    moved = (level.float() - mean) / spread.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(spread > 1e-6 * mean.abs(), moved, torch.zeros_like(moved))


def attention_maps(view: ComboView, asked: AttentionMaps) -> tuple[str, ...]:
    """Maps of an attention combo: by default all, or as asked."""
    if asked == TWO_FINEST:
        return view.maps[-2:]
    return tuple(view[name].name for name in asked or view.maps)


def one_frame(store: FeatureStore, spec: FeatureSpec) -> Frame:
    """How the images of all combos became the input; its size matters only where they are padded.

    Raises
    ------
    StoreError
        They became it in different ways.
    """
    names = [*spec.combos, *([spec.attention] if spec.attention else [])]
    frames = {name: store[name].frame for name in names}
    distinct = set(frames.values())
    if len(distinct) > 1 and any(frame.fit != "squash" for frame in distinct):
        listing = ", ".join(f"{name} has {s.fit} at {s.size} px" for name, s in frames.items())
        raise StoreError(f"combos of one bucket need images fitted in the same way: {listing}")
    return frames[names[0]]


def nbytes(parts: Iterable[torch.Tensor | None]) -> int:
    """Of all tensors that are there."""
    return sum(t.nbytes for t in parts if t is not None)


def stack(buckets: Sequence[Bucket]) -> Bucket:
    """Batch buckets: (B, b, C, h, w) and (B, T, h, w)."""
    attentions = [b.attention for b in buckets if b.attention is not None]
    return Bucket(torch.stack([b.conv for b in buckets]),
                  torch.stack(attentions) if attentions else None)


class Stacks(NamedTuple):
    """A batch of buckets in batches of one shape.

    Attributes
    ----------
    parts : the batches
    places : (B,) of each bucket among those of all parts, one part after the other
    """

    parts: list[Bucket]
    places: list[int]


def stacks(buckets: Sequence[Bucket]) -> Bucket | Stacks:
    """Batch buckets, by their shapes where these differ."""
    numbers: dict[torch.Size, list[int]] = {}
    for number, bucket in enumerate(buckets):
        numbers.setdefault(bucket.conv.shape, []).append(number)
    if len(numbers) == 1:
        return stack(buckets)
    order = [number for some in numbers.values() for number in some]
    return Stacks([stack([buckets[i] for i in some]) for some in numbers.values()],
                  sorted(range(len(order)), key=order.__getitem__))
