"""Reading a store: samples, combos, maps as numpy or dask. Rows not done raise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import RowNotDone, StoreError, did_you_mean, listed
from gate_cache.core.fingerprint import Recipe
from gate_cache.core.geometry import Square
from gate_cache.core.places import Place, parse_place
from gate_cache.store.format import done
from gate_cache.store.format.attrs import (
    MEND,
    META,
    ArrayMeta,
    is_whole,
    open_store,
    read_array,
    read_attrs,
)
from gate_cache.store.format.chunks import Check, OpenFiles
from gate_cache.store.format.encodings import Encoding, Part, encoding_of
from gate_cache.store.format.layout import ABSENT, DONE, LATENTS, SAMPLES
from gate_cache.store.format.maps import MapView
from gate_cache.store.format.samples import Samples, read_samples
from gate_cache.store.places.folders import Folder

if TYPE_CHECKING:
    import dask.array as da


class ComboView:
    """One combo's maps. ``view["up2"][row]`` reads."""

    def __init__(self, store: FeatureStore, name: str, attrs: dict[str, Any]) -> None:
        self.store = store
        self.name = name
        self.attrs = attrs
        """Everything the store says about the combo: recipe, fingerprint, tokens, versions."""
        self._valid: npt.NDArray[np.bool_] | None = None
        self._maps: dict[str, MapView] = {}

    def __reduce__(self) -> Any:
        return _group, (self.store, self.name)

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

    @cached_property
    def encoding(self) -> Encoding:
        """How the maps are stored.

        Raises
        ------
        StoreError
            In a way that is not known here.
        """
        return encoding_of(f"{self.store.path}: {self.name}", self.attrs,
                           str(self._meta(self.maps[0]).dtype))

    def __getitem__(self, name: str) -> MapView:
        if name not in self.maps:
            raise StoreError(f"{self.name} has no map '{name}'{did_you_mean(name, self.maps)};"
                             f" it has: {', '.join(self.maps)}")
        if name not in self._maps:
            shape = self._meta(name).shape[1:]
            parts = self.encoding.parts(shape)
            metas = {part.suffix: self._meta(name + part.suffix, part) for part in parts}
            self._maps[name] = MapView(self, name, shape, metas)
        return self._maps[name]

    def _meta(self, array: str, part: Part | None = None) -> ArrayMeta:
        """Of a stored array; it must fit the part that it is, where that is given."""
        meta = read_array(self.store.folder, f"{self.name}/{array}")
        if meta is None or (part and (meta.shape[1:], str(meta.dtype)) != (part.shape, part.dtype)):
            raise StoreError(f"{self.store.path}: {self.name}/{array}: its {META} is missing or"
                             f" damaged; {MEND}")
        return meta

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def done(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which rows are extracted. Read afresh at each call."""
        self.attrs = self.store.attrs_of(self.name) or self.attrs
        marks = done.read_marks(self.store.folder, self.name)
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

    def __init__(self, path: Place, folder: Folder, attrs: dict[str, Any],
                 check: Check = "first") -> None:
        self.path = path
        self.folder = folder
        self.attrs = attrs
        """The store's own settings: format, dataset, block, batch, versions."""
        self.check: Check = check
        self.files = OpenFiles(folder)

    def __reduce__(self) -> Any:
        return FeatureStore.open, (self.path, self.check)

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
        return cls(place, *open_store(place), check)

    @property
    def block(self) -> int:
        """Rows of a block."""
        return int(self.attrs["block"])

    @cached_property
    def samples(self) -> Samples:
        """The table of samples. Opened once: open the store again to see later ones."""
        try:
            return read_samples(self.folder, checked=self.attrs["format"] > 1)
        except StoreError as error:
            raise StoreError(f"{self.path}: {error}") from None

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
        found = {name: read_attrs(self.folder, name) for name in whole}
        damaged = [n for n, a in found.items() if not is_whole(a, self.attrs["format"])]
        return [ComboView(self, n, a) for n, a in found.items() if n not in damaged], damaged

    @property
    def damaged(self) -> list[str]:
        """Groups whose attributes are damaged; they are listed nowhere else."""
        return self._groups[1]

    def attrs_of(self, name: str) -> dict[str, Any]:
        """What is written on a group.

        Raises
        ------
        StoreError
            It is damaged.
        """
        attrs = read_attrs(self.folder, name)
        if attrs and not is_whole(attrs, self.attrs["format"]):
            raise StoreError(self._damage(name))
        return attrs

    def _damage(self, name: str) -> str:
        return f"{self.path}: {name}/{META} is damaged; {MEND}"

    def refuse_damaged(self, name: str) -> None:
        """Raise `StoreError` where a damaged group is called so."""
        for group in self.damaged:
            if name in (group, group.rpartition("-")[0]):
                raise StoreError(self._damage(group))

    def views(self) -> list[ComboView]:
        """All combos, by group name; latents are not among them. Listed once, as `samples`."""
        return [v for v in self._groups[0] if v.attrs["kind"] != LATENTS]

    def latents(self) -> list[ComboView]:
        """All groups of latents."""
        return [v for v in self._groups[0] if v.attrs["kind"] == LATENTS]

    def __getitem__(self, name: str) -> ComboView:
        views = self.views()
        found = [v for v in views if v.name == name] or [v for v in views if v.label == name]
        if len(found) > 1:
            raise StoreError(f"{self.path}: '{name}' was extracted with {len(found)} settings; say"
                             f" which: {', '.join(v.name for v in found)}")
        if not found:
            self.refuse_damaged(name)
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


def _group(store: FeatureStore, name: str) -> ComboView:
    """Any group, latents too, by its own name."""
    return next(v for v in (*store.views(), *store.latents()) if v.name == name)
