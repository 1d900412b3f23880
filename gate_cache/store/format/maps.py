"""One feature map of all samples: what `FeatureStore` hands out for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import ArrayMeta
from gate_cache.store.format.chunks import Chunks
from gate_cache.store.format.codes import decode
from gate_cache.store.format.encodings import Encoding, Part
from gate_cache.store.format.shards import Damaged
from gate_cache.store.places.disk import disk_errors

if TYPE_CHECKING:
    from gate_cache.store.reader import ComboView

_SCRATCH = 4 * 2**20
"""Bytes of stored rows that are decoded at once, about: they stay in a processor's cache."""


class MapView:
    """One feature map of all samples, (N, C, h, w): index it to read.

    Parameters
    ----------
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
        self._dtype = np.dtype(combo.encoding.read_dtype)
        self._arrays = {suffix: _Array(combo, name + suffix, meta)
                        for suffix, meta in metas.items()}
        self._direct = self._arrays[""] if combo.encoding.direct else None

    def __reduce__(self) -> Any:
        return _again, (self.combo, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w), N being the number of samples in the store."""
        return (len(self.combo.store.samples), *self._shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: the stored dtype, or float32 where values must be decoded."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """4."""
        return 4

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

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if rows is None or rows is Ellipsis:
            raise IndexError("index the samples first, such as [row] or [:, 0]")
        index = np.arange(len(self))[rows]
        wanted = np.atleast_1d(index)
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        self.read_into(wanted.tolist(), out)
        return np.asarray(out[0][rest] if np.ndim(index) == 0 else out[(slice(None), *rest)])

    def read_into(self, rows: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read rows into memory of the caller's: (len(rows), C, h, w) of `dtype`, contiguous."""
        if self._direct:
            self.combo.check(np.asarray(rows, np.int64))
            self._direct.read_into(rows, out)
            return
        step = max(_SCRATCH // self.encoding.nbytes(self._shape), 1)
        scratch = {s: np.empty((min(step, len(rows)), *p.shape), p.dtype)
                   for s, p in self.parts.items()}
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            parts = {suffix: array[: len(some)] for suffix, array in scratch.items()}
            self.read_parts_into(some, parts)
            decode(self.encoding, parts, out[at : at + step])

    def read_row(self, row: int, out: npt.NDArray[Any], buffer: memoryview) -> None:
        """Read a row that is known to be done, in the fewest steps.

        Parameters
        ----------
        out : (1, C, h, w) of `dtype`, contiguous
        buffer : its bytes
        """
        if self._direct:
            self._direct.read_row(row, out, buffer)
        else:
            self.read_into([row], out)

    def read_parts_into(self, rows: Sequence[int],
                        outs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Read rows as they are stored, to be decoded elsewhere, such as on a GPU.

        Parameters
        ----------
        outs : suffix of each of `parts` to contiguous memory, (len(rows), …) of its dtype
        """
        self.combo.check(np.asarray(rows, np.int64))
        for suffix, out in outs.items():
            self._arrays[suffix].read_into(rows, out)


class _Array:
    """One stored array; its rows are not checked to be done."""

    def __init__(self, combo: ComboView, name: str, meta: ArrayMeta) -> None:
        self._combo = combo
        self._name = name
        self._chunks = Chunks(combo.store.files, f"{combo.name}/{name}", meta.block, meta.chunk,
                              len(meta.shape)) if meta.plain else None

    def read_into(self, rows: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read rows into contiguous memory."""
        store = self._combo.store
        try:
            if self._chunks and len(rows):
                flat = out.reshape(len(rows), -1).view(np.uint8)
                self._chunks.read(rows, [row.data for row in flat], store.check)
            else:
                with disk_errors(store.path):
                    for i, row in enumerate(rows):  # a list of rows at once takes ten times as long
                        out[i] = self._zarr[int(row)]
        except (Damaged, ValueError) as error:  # zarr's answer to a wrong crc32c is a ValueError
            raise self._damaged(error) from None

    def read_row(self, row: int, out: npt.NDArray[Any], buffer: memoryview) -> None:
        """Read a row that is known to be done.

        Parameters
        ----------
        out : (1, …) and contiguous
        buffer : its bytes
        """
        if not self._chunks:
            self.read_into([row], out)
            return
        try:
            self._chunks.read_row(row, buffer, self._combo.store.check)
        except Damaged as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self._combo.store.path}: {self._combo.name}/{self._name}: the data of"
                          f" a finished block is missing or damaged ({error}); run 'gate-cache"
                          " verify --repair', then 'gate-cache extract'")

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        path = f"{self._combo.name}/{self._name}"
        return zarr.open_array(self._combo.store.folder.zarr(), path=path, mode="r")


def _again(combo: ComboView, name: str) -> MapView:
    return combo[name]
