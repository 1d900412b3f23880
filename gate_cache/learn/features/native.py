"""One image's maps at native resolution, for heads that read them level by level or by pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from gate_cache.core.errors import StoreError
from gate_cache.learn.features.bucket import BucketSpec, attention_maps, one_square
from gate_cache.learn.features.pixel_grid import read_at
from gate_cache.learn.mixing.vectors import Vectors

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement, Points
    from gate_cache.learn.features.data import MapCache
    from gate_cache.manifest.specs import AttentionMaps
    from gate_cache.store.reader import FeatureStore


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
class NativeSpec:
    """Which maps.

    Attributes
    ----------
    combos : names of the combos that are amalgamated
    attention : name of the attention combo, or None
    attention_maps : its maps; by default all
    extra : names of combos that are concatenated as they are
    levels : how many of the combos' maps, from the coarsest; all by default
    pool : side of the grid of parts of an image that `NativeMaps.pooled` averages over
    """

    combos: tuple[str, ...]
    attention: str | None = None
    attention_maps: AttentionMaps = None
    extra: tuple[str, ...] = ()
    levels: int | None = None
    pool: int = 1


class NativeMaps:
    """Maps of a store's rows by sample.

    Parameters
    ----------
    store : an open store
    spec : which maps
    device : where they are used
    cache : reads them
    rows : row of each sample by id
    size : (height, width) of a sample's image

    Raises
    ------
    StoreError
        The combos have different maps, or their images were not made square in the same way.
    """

    def __init__(self, store: FeatureStore, spec: NativeSpec, device: torch.device,
                 cache: MapCache, rows: Mapping[str, int],
                 size: Callable[[str], tuple[int, int]]) -> None:
        self.spec = spec
        self.device = device
        self._store, self._cache, self._rows, self._size = store, cache, rows, size
        self.square = one_square(store, BucketSpec(spec.combos, spec.attention))
        found = {name: store[name].maps for name in spec.combos}
        if len(set(found.values())) > 1:
            raise StoreError(f"combos of one bucket need the same maps, these have: {found}")
        self._levels = found[spec.combos[0]][:spec.levels]
        self._attention: tuple[str, ...] = ()
        if spec.attention:
            self._attention = attention_maps(store[spec.attention], spec.attention_maps)
        first = store[spec.combos[0]]
        self.level_channels = tuple(int(first[n].shape[1]) for n in self._levels)
        self.level_sides = tuple(int(first[n].shape[-1]) for n in self._levels)
        self.attention_sides = tuple(self._shape(spec.attention, n)[-1] for n in self._attention)
        self.attention_tokens = tuple(self._shape(spec.attention, n)[1] for n in self._attention)
        self.extra_channels = sum(int(store[c][n].shape[1]) for c in spec.extra
                                  for n in store[c].maps)

    @property
    def channels(self) -> int:
        """C of a combo's concatenated levels."""
        return sum(self.level_channels)

    @property
    def tokens(self) -> int:
        """T of the concatenated attention maps."""
        return sum(self.attention_tokens)

    @property
    def resolution(self) -> int:
        """Side of the finest level."""
        return max(self.level_sides)

    def place(self, sample_id: str) -> Placement:
        """Where an image lies in the square."""
        return self.square.place(*self._size(sample_id))

    def __call__(self, sample_id: str) -> Native:
        """All maps of one sample."""
        combos = [self._read(name, self._levels, sample_id) for name in self.spec.combos]
        attention = self._read(self.spec.attention, self._attention, sample_id) \
            if self.spec.attention else ()
        return Native(tuple(torch.stack(level) for level in zip(*combos, strict=True)), attention,
                      tuple(self._read(c, self._store[c].maps, sample_id)
                            for c in self.spec.extra))

    def at(self, maps: Native, sample_id: str, points: Points) -> Vectors:
        """Features at (P, 2) points of the image, shares of its sides: bilinear, level by level."""
        place = self.place(sample_id)
        conv = torch.cat([read_at(level, place, points) for level in maps.levels], -1)
        attention = [read_at(m[None], place, points)[:, 0] for m in maps.attention]
        extra = [read_at(m[None], there, points)[:, 0] for there, found
                 in zip(self.extra_places(sample_id), maps.extra, strict=True) for m in found]
        return Vectors(conv, _joined(attention), _joined(extra))

    def pooled(self, sample_id: str) -> Vectors:
        """Means over the cells that show the image, as a batch of one."""
        maps, place = self(sample_id), self.place(sample_id)

        def mean(found: torch.Tensor) -> torch.Tensor:
            cut: torch.Tensor = place.window(found.shape[-1]).cut(found)
            return F.adaptive_avg_pool2d(cut, self.spec.pool).flatten(-3)

        conv = torch.cat([mean(level) for level in maps.levels], -1)
        return Vectors(conv[None], _joined([mean(m)[None] for m in maps.attention]), None)

    def extra_places(self, sample_id: str) -> list[Placement]:
        """Where an image lies in the square of each extra combo."""
        size = self._size(sample_id)
        return [self._store[combo].square.place(*size) for combo in self.spec.extra]

    def _read(self, combo: str, names: tuple[str, ...], sample_id: str) -> tuple[torch.Tensor, ...]:
        found = self._cache(combo, names, self._rows[sample_id])
        return tuple(found[n].to(self.device).float() for n in names)

    def _shape(self, combo: str | None, name: str) -> tuple[int, ...]:
        assert combo is not None
        return tuple(int(n) for n in self._store[combo][name].shape)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor | None:
    return torch.cat(parts, -1) if parts else None
