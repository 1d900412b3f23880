"""Reading a store: samples, combos, maps as numpy or dask. Rows not done raise."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gate_cache.core.errors import StoreError, did_you_mean, listed
from gate_cache.core.places import Place, parse_place
from gate_cache.store.format.attrs import META, is_whole, read_attrs
from gate_cache.store.format.combos import ComboView
from gate_cache.store.format.layout import DONE, LATENTS, SAMPLES
from gate_cache.store.format.opened import OpenStore
from gate_cache.store.handing import MapDataset, to_xarray
from gate_cache.store.opening import open_store
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.shaped import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da
    import xarray

    from gate_cache.store.format.chunks import Check

__all__ = ["ComboView", "FeatureStore"]


class FeatureStore(OpenStore):
    """A store of feature maps, opened for reading.

    Examples
    --------
    >>> store = FeatureStore.open("stores/toyworld.zarr")  # doctest: +SKIP
    >>> store["prompt-0"]["up2"][0].shape                   # doctest: +SKIP
    (64, 16, 16)
    """

    def __reduce__(self) -> Any:
        return FeatureStore.open, (self.path, self.check)

    def __repr__(self) -> str:
        return f"<store {self.path}: {len(self.samples)} images, combos {listed(self.combos, 12)}>"

    @classmethod
    def open(cls, path: str | Place, check: Check = "first") -> FeatureStore:
        """Open a store.

        Parameters
        ----------
        path : its folder, or a URL such as ``s3://bucket/spair.zarr``
        check : when a row's checksum is compared: ``first`` (when it is first read), ``always``
            or ``never``

        Raises
        ------
        StoreError
            Nothing there, not a gate-cache store, or of a newer format.
        RemoteError
            The server does not answer, or refuses.
        """
        place = parse_place(path)
        with disk_errors(place) if isinstance(place, Path) else nullcontext():
            return cls(place, *open_store(place), check)

    @property
    def combos(self) -> tuple[str, ...]:
        """Names of all combos, as `store[name]` takes them."""
        views = self.views()
        labels = [v.label for v in views]
        return tuple(v.label if labels.count(v.label) == 1 else v.name for v in views)

    @cached_property
    def _groups(self) -> tuple[list[ComboView], list[str]]:
        """All groups of maps that are whole (`done` is made last), and those that are damaged."""
        names = [n for n in self.folder.names() if n not in (SAMPLES, META)]
        keys = [f"{n}/{DONE}/{META}" for n in names]
        whole = [n for n, raw in zip(names, self.folder.read_many(keys), strict=True) if raw]
        attrs = {name: read_attrs(self.folder, name) for name in whole}
        damaged = [n for n, a in attrs.items() if not is_whole(a, self.attrs["format"])]
        return joined(self, {n: a for n, a in attrs.items() if n not in damaged}), damaged

    @property
    def damaged(self) -> list[str]:
        """Groups whose attributes are damaged; they are listed nowhere else."""
        return self._groups[1]

    def refuse_damaged(self, name: str) -> None:
        """Raise `StoreError` where a damaged group is called so."""
        for group in self.damaged:
            if name in (group, group.rpartition("-")[0]):
                raise StoreError(self._damage(group))

    def group(self, name: str) -> ComboView:
        """Any group, latents too, by its own name."""
        views = self._groups[0]
        return next(v for v in (*views, *(g for v in views for g in v.groups)) if v.name == name)

    def views(self) -> list[ComboView]:
        """All combos, by group name; latents are not among them. Listed once, as `samples`."""
        return [v for v in self._groups[0] if v.attrs["kind"] != LATENTS]

    def latents(self) -> list[ComboView]:
        """All groups of latents."""
        return [v for v in self._groups[0] if v.attrs["kind"] == LATENTS]

    def __getitem__(self, name: str) -> ComboView:
        views = self.views()
        matches = [v for v in views if v.name == name] or [v for v in views if v.label == name]
        if len(matches) > 1:
            raise StoreError(f"{self.path}: '{name}' was extracted with {len(matches)} settings;"
                             f" say which: {', '.join(v.name for v in matches)}")
        if not matches:
            self.refuse_damaged(name)
            raise StoreError(f"{self.path}: no combo '{name}'{did_you_mean(name, self.combos)};"
                             f" it has: {listed(self.combos, 12) or 'none'}")
        return matches[0]

    def torch_dataset(self, combos: Sequence[str] = (), maps: Sequence[str] | None = None,
                      rows: Sequence[int | str] | None = None) -> MapDataset:
        """Maps as a map-style dataset, for ``torch.utils.data.DataLoader``.

        Parameters
        ----------
        combos : by name; all of them by default
        maps : of each of these combos; all of them by default
        rows : by number or id, in this order; all of them by default

        Returns
        -------
        Item i is ``{"id": …, combo: {map: (C, h, w) array}}``, which torch's own collating stacks.
        It is pickled as the store's place and the names alone, so that workers open it themselves.

        Raises
        ------
        StoreError
            There is no such combo, map or image; `RowNotDone` where one is not extracted.

        Examples
        --------
        >>> data = store.torch_dataset(["plain"], ["up2"])            # doctest: +SKIP
        >>> loader = DataLoader(data, batch_size=8, num_workers=2)    # doctest: +SKIP
        """
        return MapDataset(self, {n: self[n] for n in combos or self.combos}, maps, rows)

    def to_xarray(self) -> xarray.DataTree:
        """All combos as an xarray tree: a node a combo, a lazy variable a map.

        Returns
        -------
        A tree whose dimension ``sample`` has the images' ids as its index. Nothing is read before
        it is computed, a block at a time; computing a row that is not done raises `RowNotDone`.

        Raises
        ------
        UserError
            xarray is not installed.
        """
        return to_xarray(self, {name: self[name] for name in self.combos}, self.dask)

    def dask(self, combo: str, name: str) -> da.Array:
        """One map of all samples as a lazy dask array, one chunk a block.

        Returns
        -------
        dask.array.Array of shape (N, C, h, w); computing a row that is not done raises.
        """
        import dask.array as da
        from dask.base import tokenize

        view = self[combo][name]
        if view.combo.shaped:
            raise StoreError(f"{self.path}: {combo}: its images have inputs of several shapes, and"
                             " an array has one; read them by row, or through torch_dataset")
        place = tokenize(str(self.path.resolve()), view.combo.fingerprint, len(view))
        label = f"{view.combo.name}-{name}-{place}"
        lazy: da.Array = cast(Any, da).from_array(
            view, chunks=(self.block, *view.shape[1:]), name=label,
            meta=np.empty((0, 0, 0, 0), view.dtype))
        return lazy
