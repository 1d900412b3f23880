"""From one image's maps to a bucket: resized to one resolution, on the training device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from gate_cache.errors import StoreError
from gate_cache.learn.data import FeatureDataset, Maps, Recent, maps_bytes
from gate_cache.store.reader import FeatureStore

CACHE_BYTES = 2 * 2**30


class Bucket(NamedTuple):
    """The features of one image, or of a batch with one more axis in front.

    Attributes
    ----------
    conv : (b, C, h, w) float32, one map a combo, its levels concatenated
    attention : (T, h, w) float32, or None
    """

    conv: torch.Tensor
    attention: torch.Tensor | None


@dataclass(frozen=True)
class BucketSpec:
    """What makes up a bucket.

    Attributes
    ----------
    combos : names of the convolutional combos that are amalgamated
    attention : name of the attention combo that is concatenated, or None
    attention_maps : its maps; by default the two finest (METHOD 1)
    resolution : side of all maps; by default the finest convolutional map's
    """

    combos: tuple[str, ...]
    attention: str | None = None
    attention_maps: tuple[str, ...] | None = None
    resolution: int | None = None


class Buckets:
    """Buckets of a store's rows, read once while they fit into memory.

    Parameters
    ----------
    store : an open store
    spec : what makes up a bucket
    device : where maps are resized
    """

    def __init__(self, store: FeatureStore, spec: BucketSpec, device: torch.device) -> None:
        wanted: dict[str, tuple[str, ...] | None] = dict.fromkeys(spec.combos)
        if spec.attention:
            wanted[spec.attention] = spec.attention_maps or store[spec.attention].maps[-2:]
        self.spec = spec
        self.device = device
        self.shapes = [self._shapes(store, c) for c in spec.combos]
        self.resolution = spec.resolution or max(s[-1] for s in self.shapes[0])
        data = FeatureDataset(store, wanted)
        self._rows: Recent[Maps] = Recent(data.__getitem__, maps_bytes, CACHE_BYTES)

    @staticmethod
    def _shapes(store: FeatureStore, combo: str) -> list[tuple[int, ...]]:
        return [store[combo][name].shape[1:] for name in store[combo].maps]

    @property
    def channels(self) -> int:
        """C of a bucket.

        Raises
        ------
        StoreError
            The combos have different channels, so they cannot be amalgamated.
        """
        sums = {name: sum(s[0] for s in shapes)
                for name, shapes in zip(self.spec.combos, self.shapes, strict=True)}
        if len(set(sums.values())) > 1:
            raise StoreError(f"combos of one bucket need the same maps; channels: {sums}")
        return next(iter(sums.values()))

    def __call__(self, row: int) -> Bucket:
        """The bucket of one row."""
        maps = self._rows(row)
        conv = torch.stack([self._joined(maps[name]) for name in self.spec.combos])
        attention = self._joined(maps[self.spec.attention]) if self.spec.attention else None
        return Bucket(conv, attention)

    def _joined(self, maps: dict[str, torch.Tensor]) -> torch.Tensor:
        """Levels resized (bilinear) and concatenated along the channels."""
        size = (self.resolution, self.resolution)
        parts = [F.interpolate(m.to(self.device).float()[None], size, mode="bilinear",
                               align_corners=False, antialias=False)[0] for m in maps.values()]
        return torch.cat(parts)


def stack(buckets: list[Bucket]) -> Bucket:
    """Batch buckets: (B, b, C, h, w) and (B, T, h, w)."""
    attentions = [b.attention for b in buckets if b.attention is not None]
    return Bucket(torch.stack([b.conv for b in buckets]),
                  torch.stack(attentions) if attentions else None)
