"""Which maps a bucket has: those of its combos, be they of one model or of several.

The combos of one model have the same maps, and are mixed map by map. Those of several models come
together as a direct sum: the bucket has the maps of all, and a combo is 0 where it has none. What
assigners weigh is then a concatenation in which each model's share is theirs to learn, and a linear
layer on it has weights of its own for each model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from gate_cache.core.errors import StoreError
from gate_cache.core.size import Size

if TYPE_CHECKING:
    from gate_cache.learn.features.layout import Maps
    from gate_cache.store.reader import ComboView, FeatureStore

Prepare = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Joining:
    """How models are joined.

    Attributes
    ----------
    unit : whether a combo's L maps have length 1/√L at every position, so that no model outweighs
        another by the size of its values, nor a map by its channels; else they are as stored
    shares : by combo, what its maps are multiplied with; 1 where it is not named
    models : by combo, which model it is of: one source at two sizes is two models
    """

    unit: bool = True
    shares: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """One map of a bucket.

    Attributes
    ----------
    channels, size : of it
    combos : that have it
    """

    name: str
    channels: int
    size: Size
    combos: frozenset[str] = frozenset()


class BucketMaps:
    """The maps of a bucket's combos.

    Parameters
    ----------
    store : where they are
    combos : names of their groups
    joining : of several models; None: all have the same maps
    most : how many maps of a combo, from the coarsest; the bucket's are then ordered by their sizes

    Attributes
    ----------
    levels : of the bucket, those of one model in a row
    read : maps of each combo that are read

    Raises
    ------
    StoreError
        The combos have different maps, and are not to be joined.
    """

    def __init__(self, store: FeatureStore, combos: Sequence[str], joining: Joining | None = None,
                 most: int | None = None) -> None:
        self._views = views = {name: store[name] for name in combos}
        self._joining = joining
        self.read = {name: view.maps[:most] for name, view in views.items()}
        if joining is None:
            _need_alike(views, self.read)
        owners: dict[tuple[str, Level], list[str]] = {}
        for combo, names in self.read.items():
            model = joining.models.get(combo, "") if joining else ""
            for name in names:  # one model's maps of a name differ where some are made smaller
                owners.setdefault((model, _level(views[combo], name)), []).append(combo)
        self.levels = [replace(level, combos=frozenset(combos)) for (_, level), combos in
                       owners.items()]
        if most and joining:
            self.levels.sort(key=lambda level: level.size)

    @property
    def channels(self) -> int:
        """C of all maps."""
        return sum(level.channels for level in self.levels)

    @property
    def resolution(self) -> Size:
        """Of the finest map."""
        return max((level.size for level in self.levels), key=lambda size: size.area)

    def size_at(self, level: Level, size: Size) -> Size:
        """Of a map, of images whose input has this size."""
        return Size.of(self._views[next(iter(level.combos))][level.name].shape_at(size)[1:])

    def resolution_at(self, size: Size) -> Size:
        """`resolution`, of images whose input has this size."""
        return max((self.size_at(level, size) for level in self.levels), key=lambda s: s.area)

    def slices(self, combo: str) -> dict[str, slice]:
        """Which channels of a bucket each map of a combo has."""
        start, found = 0, dict[str, slice]()
        for level in self.levels:
            if combo in level.combos:
                found[level.name] = slice(start, start + level.channels)
            start += level.channels
        return found

    def stacked(self, maps: Maps, prepare: Prepare | None = None) -> list[torch.Tensor]:
        """(b, C_l, h_l, w_l) of each map of the bucket.

        Parameters
        ----------
        maps : of one image
        prepare : applied to each map, (C_l, h_l, w_l), before it is made of unit length
        """
        return [torch.stack([self._map(level, combo, maps, prepare) for combo in self.read])
                for level in self.levels]

    def _map(self, level: Level, combo: str, every: Maps,
             prepare: Prepare | None) -> torch.Tensor:
        maps = every[combo]
        if combo not in level.combos:
            like = every[next(iter(level.combos))][level.name]
            return torch.zeros_like(like, dtype=torch.float32)
        values = prepare(maps[level.name]) if prepare else maps[level.name]
        if self._joining is None:
            return values
        values = values.float()
        if self._joining.unit:
            values = F.normalize(values, dim=0) / math.sqrt(len(self.read[combo]))
        return values * self._joining.shares.get(combo, 1.0)


def _level(view: ComboView, name: str) -> Level:
    _, channels, *size = map(int, view[name].shape)
    return Level(name, channels, Size.of(size))


def _need_alike(views: Mapping[str, ComboView], read: Mapping[str, Sequence[str]]) -> None:
    shapes = {view.label: ", ".join(f"{n} {'×'.join(map(str, view[n].shape[1:]))}"
                                    for n in read[name]) for name, view in views.items()}
    if len(set(shapes.values())) > 1:
        raise StoreError("combos of one bucket need the same maps, these have:"
                         f" {'; '.join(f'{c}: {s}' for c, s in shapes.items())}; 'mix: concat'"
                         " below 'train' joins those of several models")
