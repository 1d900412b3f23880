"""A combo, and one feature map of all samples: what `FeatureStore` hands out for reading."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import getitem, methodcaller
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import RowNotDone, StoreError, did_you_mean
from gate_cache.core.geometry import Frame
from gate_cache.store.format import done
from gate_cache.store.format.attrs import MEND, META, ArrayMeta, read_array
from gate_cache.store.format.chunks import Chunks
from gate_cache.store.format.codes import decode
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.encodings import Encoding, Part, encoding_of
from gate_cache.store.format.layout import ABSENT
from gate_cache.store.format.shards import Damaged
from gate_cache.store.format.sums import RowSums
from gate_cache.store.places.disk import disk_error

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe
    from gate_cache.store.format.chunks import Check
    from gate_cache.store.format.opened import OpenStore

_SCRATCH = 4 * 2**20
"""Bytes of stored rows that are decoded at once, about: they stay in a processor's cache."""


class MapView:
    """One feature map of all samples, (N, C, h, w): index it by row, or by id, to read.

    Parameters
    ----------
    combo : the group it is of
    name : of the map
    shape : (C, h, w) of one image's map
    metas : of the arrays it is stored in, by suffix

    Raises
    ------
    RowNotDone
        On reading a row that no finished block holds.
    StoreError
        On reading a row that is missing or damaged.
    """

    def __init__(self, combo: ComboView, name: str, shape: tuple[int, ...],
                 metas: Mapping[str, ArrayMeta]) -> None:
        self.combo = combo
        self.name = name
        self._shape = shape
        self.ndim = 4
        self._dtype = np.dtype(combo.encoding.read_dtype)
        self._arrays = {suffix: combo.chunks(name + suffix, meta)
                        for suffix, meta in metas.items()}

    def __reduce__(self) -> Any:
        return getitem, (self.combo, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w), N being the number of samples in the store."""
        return (len(self.combo.store.samples), *self._shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: the stored dtype, or float32 where values must be decoded."""
        return self._dtype

    @property
    def encoding(self) -> Encoding:
        """How it is stored."""
        return self.combo.encoding

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The arrays it is stored in by suffix of their names, for `read_parts_into`."""
        return {part.suffix: part for part in self.encoding.parts(self._shape)}

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<map {self.name} of {self.combo.name}: {self.shape} {self.encoding}>"

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, str):
            rows = self.combo.store.samples.row(rows)
        if rows is None or rows is Ellipsis:
            raise IndexError("index the samples first, such as [row] or [:, 0]")
        simple = isinstance(rows, int | np.integer | slice)  # of a million rows none is counted
        index: Any = range(len(self))[rows] if simple else np.arange(len(self))[rows]
        indices = [int(row) for row in ([index] if np.ndim(index) == 0 else index)]
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        self.read_into(indices, out)
        return np.asarray(out[0][rest] if np.ndim(index) == 0 else out[(slice(None), *rest)])

    def read_into(self, rows: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read rows into memory of the caller's: (len(rows), C, h, w) of `dtype`, contiguous."""
        if self.encoding.direct:
            self.read_parts_into(rows, {"": out})
            return
        step = max(_SCRATCH // self.encoding.nbytes(self._shape), 1)
        scratch = {s: np.empty((min(step, len(rows)), *p.shape), p.dtype)
                   for s, p in self.parts.items()}
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            parts = {suffix: array[: len(some)] for suffix, array in scratch.items()}
            self.read_parts_into(some, parts)
            decode(self.encoding, parts, out[at : at + step])

    def read_row(self, row: int, buffers: Mapping[str, memoryview]) -> None:
        """Read a row that is known to be done, as it is stored, in the fewest steps.

        Parameters
        ----------
        buffers : suffix of each of `parts` to its bytes
        """
        for suffix, buffer in buffers.items():
            self._read(suffix, self._arrays[suffix].read_row, row, buffer)

    def read_parts_into(self, rows: Sequence[int],
                        outs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Read rows as they are stored, to be decoded elsewhere, such as on a GPU.

        Parameters
        ----------
        outs : suffix of each of `parts` to contiguous memory, (len(rows), …) of its dtype
        """
        self.combo.check(np.asarray(rows, np.int64))
        for suffix, out in outs.items():
            flat = out.reshape(len(rows), math.prod(out.shape[1:])).view(np.uint8)
            self._read(suffix, self._arrays[suffix].read, rows, [row.data for row in flat])

    def _read(self, suffix: str, read: Callable[[Any, Any, Check], None], rows: Any,
              into: Any) -> None:
        store = self.combo.store
        try:
            read(rows, into, store.check)
        except Damaged as error:
            raise StoreError(f"{store.path}: {self.combo.name}/{self.name}{suffix}: the data of a"
                             f" finished block is missing or damaged ({error}); {MEND}") from None
        except OSError as error:
            raise disk_error(store.path, error) from error


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
        rows, block = len(self.store.samples), self.store.block
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
                             f" ('{self.store.samples[row]}') {why}")

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
        return Frame(size, self.recipe.get("resize") or "squash")

    def __getitem__(self, name: str) -> MapView:
        if name not in self.maps:
            raise StoreError(f"{self.name} has no map '{name}'{did_you_mean(name, self.maps)};"
                             f" it has: {', '.join(self.maps)}")
        if name not in self._maps:
            shape = self.meta(name).shape[1:]
            parts = self.encoding.parts(shape)
            metas = {part.suffix: self.meta(name + part.suffix, part) for part in parts}
            self._maps[name] = MapView(self, name, shape, metas)
        return self._maps[name]

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {self[name].shape[1:]}" for name in self)
        return f"<combo {self.name}: {maps}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)
