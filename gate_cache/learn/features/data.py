"""Feature maps of a store as a torch data set, at native resolution."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from gate_cache.store.reader import FeatureStore

Value = TypeVar("Value")
Maps = dict[str, dict[str, torch.Tensor]]
"""Combo name to map name to one image's map, (C, h, w)."""


class FeatureDataset(Dataset[Maps]):
    """Item i is row i's maps of the chosen combos, read lazily, in the dtype of `MapView`.

    Parameters
    ----------
    store : an open store
    combos : combo names, or combo name to the maps wanted of it
    rows : rows of the store that make up the data set, in this order; all by default

    Examples
    --------
    >>> data = FeatureDataset(store, ["prompt-0", "prompt-1"])   # doctest: +SKIP
    >>> data[0]["prompt-0"]["up2"].shape                          # doctest: +SKIP
    torch.Size([64, 16, 16])
    """

    def __init__(self, store: FeatureStore,
                 combos: Sequence[str] | Mapping[str, Sequence[str] | None],
                 rows: Sequence[int] | None = None) -> None:
        wanted = combos if isinstance(combos, Mapping) else dict.fromkeys(combos)
        self.rows = range(len(store.samples)) if rows is None else rows
        self._views = {
            name: [store[name][m] for m in maps or store[name].maps]
            for name, maps in wanted.items()
        }

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Maps:
        row = self.rows[index]
        return {name: {v.name: torch.from_numpy(v[row]) for v in views}
                for name, views in self._views.items()}


class LRUCache(Generic[Value]):
    """The most recently used values, up to a bound in bytes.

    Parameters
    ----------
    make : key to value, called where the value is not held
    size : value to bytes
    bound : bytes held at most (one value is always held)
    """

    def __init__(self, make: Callable[[Any], Value], size: Callable[[Value], int],
                 bound: int) -> None:
        self._make = make
        self._size = size
        self._bound = bound
        self._held: OrderedDict[Any, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, key: Any) -> Value:
        """The value of a key, held or made; by one thread at a time."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            value = self._held[key] = self._make(key)
            self._bytes += self._size(value)
            while self._bytes > self._bound and len(self._held) > 1:
                self._bytes -= self._size(self._held.popitem(last=False)[1])
            return value


class MapCache:
    """Rows of a store's combos, read once while they fit into memory.

    Parameters
    ----------
    store : an open store
    bound : bytes held at most
    """

    def __init__(self, store: FeatureStore, bound: int) -> None:
        self._store = store
        self._data: dict[tuple[str, tuple[str, ...]], FeatureDataset] = {}
        self._rows = LRUCache(self._read, _bytes, bound)

    def __call__(self, combo: str, maps: tuple[str, ...], row: int) -> dict[str, torch.Tensor]:
        """Map name to (C, h, w) of one row."""
        return self._rows((combo, maps, row))

    def _read(self, key: tuple[str, tuple[str, ...], int]) -> dict[str, torch.Tensor]:
        combo, maps, row = key
        if (combo, maps) not in self._data:
            self._data[combo, maps] = FeatureDataset(self._store, {combo: maps})
        return self._data[combo, maps][row][combo]


def _bytes(maps: dict[str, torch.Tensor]) -> int:
    return sum(t.nbytes for t in maps.values())
