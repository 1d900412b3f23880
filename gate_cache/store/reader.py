"""Reading a store: samples, combos, maps as numpy or dask. Rows not done raise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from gate_cache.errors import RowNotDone, StoreError, did_you_mean, listed
from gate_cache.fingerprint import Recipe
from gate_cache.geometry import Square
from gate_cache.store import done
from gate_cache.store.attrs import array_in, attrs_of, open_group, store_attrs
from gate_cache.store.layout import ABSENT, DONE, LATENTS, SAMPLES
from gate_cache.store.samples import Samples, read_samples

if TYPE_CHECKING:
    import dask.array as da


class MapView:
    """One feature map of all samples, (N, C, h, w): index it to read.

    Raises
    ------
    RowNotDone
        On reading a row that no finished block holds.
    """

    def __init__(self, combo: ComboView, name: str, array: zarr.Array[Any]) -> None:
        self.combo = combo
        self.name = name
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w), N being the number of samples in the store."""
        return (len(self.combo.store.samples), *self._array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return np.dtype(self._array.dtype)

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if rows is None or rows is Ellipsis:
            raise IndexError("index the samples first, such as [row] or [:, 0]")
        index = np.atleast_1d(np.arange(len(self))[rows])
        self.combo.check(index)
        single = isinstance(rows, int | np.integer)
        forward = isinstance(rows, slice) and (rows.step or 1) > 0
        basic = self._positive(rows) if single or forward else None
        try:
            found = np.asarray(self._array.oindex[index] if basic is None else self._array[basic])
        except ValueError:  # zarr's answer to a wrong crc32c
            raise self._damaged() from None
        if len(index) and np.isnan(found.reshape(len(index), -1)[:, 0]).any():
            raise self._damaged()  # the fill value: done, but its shard is gone
        return np.asarray(found[rest if single else (slice(None), *rest)])

    def _positive(self, rows: Any) -> Any:
        """Resolve negative rows here: the array may be longer than the table of samples."""
        if isinstance(rows, slice):
            return slice(*rows.indices(len(self)))
        return int(rows) + len(self) if rows < 0 else int(rows)

    def _damaged(self) -> StoreError:
        return StoreError(f"{self.combo.store.path}: {self.combo.name}/{self.name}: the data of a"
                          f" finished block is missing or damaged; remove {self.combo.name} and"
                          " extract again")


class ComboView:
    """One combo's maps. ``view["up2"][row]`` reads."""

    def __init__(self, store: FeatureStore, name: str, group: zarr.Group) -> None:
        self.store = store
        self.name = name
        self._group = group
        self._valid: npt.NDArray[np.bool_] | None = None
        self._maps: dict[str, MapView] = {}

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Everything the store says about the combo: recipe, fingerprint, tokens, versions."""
        return attrs_of(self._group)

    @property
    def label(self) -> str:
        """The combo's name in the manifest that extracted it."""
        return str(self.attrs["combo"])

    @property
    def recipe(self) -> Recipe:
        """What decides the values."""
        return dict(self.attrs["recipe"])

    @property
    def fingerprint(self) -> str:
        """sha256 of the recipe."""
        return str(self.attrs["fingerprint"])

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, coarse to fine."""
        return tuple(self.attrs["maps"])

    @property
    def square(self) -> Square:
        """The model's input, and how images were brought into it."""
        return Square(int(self.recipe["size"]), self.recipe.get("resize", "squash"))

    def __getitem__(self, name: str) -> MapView:
        if name not in self.maps:
            raise StoreError(f"{self.name} has no map '{name}'{did_you_mean(name, self.maps)};"
                             f" it has: {', '.join(self.maps)}")
        if name not in self._maps:
            self._maps[name] = MapView(self, name, array_in(self._group, name))
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def done(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which rows are extracted. Read afresh at each call."""
        marks = np.asarray(array_in(self._group, DONE)[:], np.uint64)
        found = done.valid(marks, self.store.block, len(self.store.samples))
        found[list(self.attrs.get(ABSENT, ()))] = False
        return found

    def check(self, rows: npt.NDArray[Any]) -> None:
        """Raise `RowNotDone` unless all these rows are extracted."""
        if self._valid is None or not self._valid[rows].all():
            self._valid = self.done()
        missing = rows[~self._valid[rows]]
        if len(missing):
            row = int(missing[0])
            why = "has no maps: its image was gone or changed when this combo was extracted" \
                if row in self.attrs.get(ABSENT, ()) else \
                "is not extracted yet; run 'gate-cache extract' on its manifest"
            raise RowNotDone(f"{self.store.path}: {self.label}: row {row}"
                             f" ('{self.store.samples[row]}') {why}")


class FeatureStore:
    """A store of feature maps, opened for reading.

    Examples
    --------
    >>> store = FeatureStore.open("stores/toyworld.zarr")  # doctest: +SKIP
    >>> store["prompt-0"]["up2"][0].shape                   # doctest: +SKIP
    (64, 16, 16)
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store.

        Raises
        ------
        StoreError
            Nothing there, not a gate-cache store, or of a newer format.
        """
        return cls(Path(path), open_group(Path(path), "r"))

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """The store's own settings: format, dataset, block, batch, versions."""
        return store_attrs(self.path, self._group)

    @property
    def block(self) -> int:
        """Rows of a block."""
        return int(self.attrs["block"])

    @cached_property
    def samples(self) -> Samples:
        """The table of samples. Opened once: open the store again to see later ones."""
        return read_samples(self._group)

    @property
    def combos(self) -> tuple[str, ...]:
        """Names of all combos, as `store[name]` takes them."""
        views = self.views()
        labels = [v.label for v in views]
        return tuple(v.label if labels.count(v.label) == 1 else v.name for v in views)

    @cached_property
    def _views(self) -> list[ComboView]:
        """All groups of maps that are whole (`done` is made last)."""
        return [ComboView(self, name, group) for name, group in sorted(self._group.groups())
                if name != SAMPLES and DONE in group and attrs_of(group)]

    def views(self) -> list[ComboView]:
        """All combos, by group name; latents are not among them. Listed once, as `samples`."""
        return [v for v in self._views if v.attrs["kind"] != LATENTS]

    def latents(self) -> list[ComboView]:
        """All groups of latents."""
        return [v for v in self._views if v.attrs["kind"] == LATENTS]

    def __getitem__(self, name: str) -> ComboView:
        views = self.views()
        found = [v for v in views if v.name == name] or [v for v in views if v.label == name]
        if len(found) > 1:
            raise StoreError(f"{self.path}: '{name}' was extracted with {len(found)} settings; say"
                             f" which: {', '.join(v.name for v in found)}")
        if not found:
            raise StoreError(f"{self.path}: no combo '{name}'{did_you_mean(name, self.combos)};"
                             f" it has: {listed(self.combos, 12) or 'none'}")
        return found[0]

    def dask(self, combo: str, name: str) -> da.Array:
        """One map of all samples as a lazy dask array, one chunk a block.

        Returns
        -------
        dask.array.Array of shape (N, C, h, w); computing a row that is not done raises.
        """
        import dask.array as da
        from dask.base import tokenize

        view = self[combo][name]
        place = tokenize(str(self.path.resolve()), view.combo.fingerprint, len(view))
        label = f"{view.combo.name}-{name}-{place}"
        lazy: da.Array = cast(Any, da).from_array(
            view, chunks=(self.block, *view.shape[1:]), name=label,
            meta=np.empty((0, 0, 0, 0), view.dtype))
        return lazy
