"""A combo of a store: what it says of itself, which rows it has, and its maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import RowNotDone, StoreError, did_you_mean
from gate_cache.core.geometry import Frame
from gate_cache.core.size import SHAPES, Size
from gate_cache.store.format import done
from gate_cache.store.format.attrs import MEND, META, ArrayMeta, read_array
from gate_cache.store.format.chunks import Chunks
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.encodings import Encoding, Part, encoding_of
from gate_cache.store.format.layout import ABSENT
from gate_cache.store.format.maps import MapView
from gate_cache.store.format.sums import RowSums

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe
    from gate_cache.store.format.opened import OpenStore


class ComboView:
    """One combo's maps. ``view["up2"][row]`` reads.

    Attributes
    ----------
    store : the `FeatureStore` that it is of, whose module imports this one
    attrs : everything the store says about the combo: recipe, fingerprint, tokens, versions
    """

    store: Any

    def __init__(self, store: OpenStore, name: str, attrs: dict[str, Any]) -> None:
        self.store = store
        self.name = name
        self.attrs = attrs
        self._valid: npt.NDArray[np.bool_] | None = None
        self._maps: dict[str, MapView] = {}

    def __reduce__(self) -> Any:
        return methodcaller("group", self.name), (self.store,)

    @property
    def count(self) -> int:
        """N: the rows of its maps."""
        return len(self.store.samples)

    @property
    def own(self) -> npt.NDArray[np.int64]:
        """(N,): the store's row of each of its rows."""
        return np.arange(self.count)

    @property
    def groups(self) -> Sequence[ComboView]:
        """The groups it is stored in: one of each shape of input, which is by itself."""
        return [self]

    def places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n,): which of its rows these of the store are, of those that it has, in their order."""
        return rows

    @property
    def shaped(self) -> bool:
        """Whether its images have inputs of several shapes."""
        return bool(self.recipe.get(SHAPES))

    @property
    def label(self) -> str:
        """The combo's name in the manifest that extracted it."""
        return str(self.attrs["combo"])

    @property
    def fingerprint(self) -> str:
        """sha256 of the recipe."""
        return str(self.attrs["fingerprint"])

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, coarse to fine."""
        return tuple(self.attrs["maps"])

    @cached_property
    def encoding(self) -> Encoding:
        """How the maps are stored.

        Raises
        ------
        StoreError
            In a way that is not known here.
        """
        return encoding_of(f"{self.store.path}: {self.name}", self.attrs,
                           str(self.meta(self.maps[0]).dtype))

    def meta(self, array: str, part: Part | None = None) -> ArrayMeta:
        """Of a stored array; it must fit the part that it is, where that is given.

        Raises
        ------
        StoreError
            It is missing or damaged.
        """
        meta = read_array(self.store.folder, f"{self.name}/{array}")
        if meta is None or meta.packing == "other" or meta.block != self.store.block or (
                (meta.shape[1:], str(meta.dtype)) != (part.shape, part.dtype) if part
                else len(meta.shape) != 4):
            raise StoreError(f"{self.store.path}: {self.name}/{array}: its {META} is missing or"
                             f" damaged; {MEND}")
        return meta

    @cached_property
    def sums(self) -> RowSums:
        """What the rows of its stored arrays must be."""
        arrays = tuple(name + part.suffix for name in self.maps
                       for part in self.encoding.parts((1, 1, 1)))
        return RowSums(self.store.folder, self.name, self.fingerprint, arrays, self.store.block)

    def chunks(self, array: str, meta: ArrayMeta) -> Chunks:
        """The rows of a stored array."""
        known, key = self.sums, f"{self.name}/{array}"
        if self.store.check == "never":
            return Chunks(self.store.files, key, meta)
        return Chunks(self.store.files, key, meta, lambda block: known.of(array, block),
                      known.forget)

    def done(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which rows are extracted. Read afresh at each call."""
        self.attrs = self.store.attrs_of(self.name) or self.attrs
        rows, block = self.count, self.store.block
        marks = done.BlockMarks(self.store.folder, self.name).read_all(-(-rows // block))
        mask = done.valid(marks, block, rows)
        mask[[row for row in self.attrs.get(ABSENT, ()) if row < rows]] = False
        return mask

    def made(self) -> list[tuple[Provenance | None, int]]:
        """What finished blocks were computed with, and how many; None where it is not noted."""
        numbers = Counter(done.BlockMarks(self.store.folder, self.name).numbers().values())
        known = done.provenances(self.attrs)
        return [(known.get(number), count) for number, count in sorted(numbers.items())]

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
                             f" ('{self.store.samples[int(self.own[row])]}') {why}")

    @property
    def recipe(self) -> Recipe:
        """What decides the values."""
        return dict(self.attrs["recipe"])

    @property
    def frame(self) -> Frame:
        """The model's input, and how images were brought into it.

        Raises
        ------
        StoreError
            The recipe has no size.
        """
        size = self.recipe.get("size")
        if size is None:
            raise StoreError(f"{self.store.path}: {self.name}/{META} says no size of images")
        shapes = tuple(map(Size.of, self.recipe.get(SHAPES) or ()))
        return Frame(size, self.recipe.get("resize") or "squash", shapes)

    def __getitem__(self, name: str) -> MapView:
        if name not in self.maps:
            raise StoreError(f"{self.name} has no map '{name}'{did_you_mean(name, self.maps)};"
                             f" it has: {', '.join(self.maps)}")
        if name not in self._maps:
            self._maps[name] = self._map(name)
        return self._maps[name]

    def _map(self, name: str) -> MapView:
        shape = self.meta(name).shape[1:]
        parts = self.encoding.parts(shape)
        metas = {part.suffix: self.meta(name + part.suffix, part) for part in parts}
        return MapView(self, name, shape, metas)

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {self[name].shape[1:]}" for name in self)
        return f"<combo {self.name}: {maps}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)
