"""One feature map of all samples: what a store hands out for reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import MEND, ArrayMeta
from gate_cache.store.format.codes import decode
from gate_cache.store.format.encodings import Encoding, Part
from gate_cache.store.format.shards import Damaged
from gate_cache.store.places.disk import disk_error

if TYPE_CHECKING:
    from gate_cache.core.size import Size
    from gate_cache.store.format.chunks import Check

_SCRATCH = 4 * 2**20
"""Bytes of stored rows that are decoded at once, about: they stay in a processor's cache."""


class MapView:
    """One feature map of all samples, (N, C, h, w): index it by row, or by id, to read.

    Parameters
    ----------
    combo : the `ComboView` that it is of, whose module imports this one
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

    def __init__(self, combo: Any, name: str, shape: tuple[int, ...],
                 metas: Mapping[str, ArrayMeta]) -> None:
        self.combo: Any = combo
        self.name = name
        self._shape = shape
        self.ndim = 4
        self._dtype: np.dtype[Any] = np.dtype(combo.encoding.read_dtype)
        self._arrays = {suffix: combo.chunks(name + suffix, meta)
                        for suffix, meta in metas.items()}

    def __reduce__(self) -> Any:
        return getitem, (self.combo, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w), N being the number of samples in the store.

        Where images have inputs of several shapes, h and w are those of the square one.
        """
        return (self.combo.count, *self._shape)

    def shape_at(self, size: Size) -> tuple[int, ...]:
        """(C, h, w) of images whose input has this size."""
        return self._shape

    def parts_of(self, row: int) -> Mapping[str, Part]:
        """As `parts`, of one row."""
        return self.parts

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: the stored dtype, or float32 where values must be decoded."""
        return self._dtype

    @property
    def encoding(self) -> Encoding:
        """How it is stored."""
        encoding: Encoding = self.combo.encoding
        return encoding

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The arrays it is stored in by suffix of their names, for `read_parts_into`."""
        return {part.suffix: part for part in self.encoding.parts(self._shape)}

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<map {self.name} of {self.combo.name}: {self.shape} {self.encoding}>"

    def _wanted(self, key: Any) -> tuple[list[int], bool, tuple[Any, ...]]:
        """The rows of an index, whether it is of one row alone, and the rest of it."""
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, str):
            rows = self.combo.store.samples.row(rows)
        if rows is None or rows is Ellipsis:
            raise IndexError("index the samples first, such as [row] or [:, 0]")
        simple = isinstance(rows, int | np.integer | slice)  # of a million rows none is counted
        index: Any = range(len(self))[rows] if simple else np.arange(len(self))[rows]
        one = np.ndim(index) == 0
        return [int(row) for row in ([index] if one else index)], one, rest

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        indices, one, rest = self._wanted(key)
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        self.read_into(indices, out)
        return np.asarray(out[0][rest] if one else out[(slice(None), *rest)])

    def each(self, rows: Sequence[int]) -> Iterable[npt.NDArray[Any]]:
        """Some rows, (C, h, w) each; read together where they have one shape."""
        return iter(self[rows])

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
