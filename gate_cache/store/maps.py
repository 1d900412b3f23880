"""One feature map of all samples: what `FeatureStore` hands out for reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.errors import StoreError
from gate_cache.store.attrs import ArrayMeta
from gate_cache.store.chunks import Chunks
from gate_cache.store.disk import disk_errors
from gate_cache.store.shards import Damaged

if TYPE_CHECKING:
    from gate_cache.store.reader import ComboView


class MapView:
    """One feature map of all samples, (N, C, h, w): index it to read.

    Raises
    ------
    RowNotDone
        On reading a row that no finished block holds.
    StoreError
        On reading a row that is missing or damaged.
    """

    def __init__(self, combo: ComboView, name: str, meta: ArrayMeta) -> None:
        self.combo = combo
        self.name = name
        self._meta = meta
        self._chunks = Chunks(combo.store.files, f"{combo.name}/{name}", meta.block, meta.chunk,
                              len(meta.shape))

    def __reduce__(self) -> Any:
        return _again, (self.combo, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, h, w), N being the number of samples in the store."""
        return (len(self.combo.store.samples), *self._meta.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return self._meta.dtype

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
        index = np.arange(len(self))[rows]
        wanted = np.atleast_1d(index)
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        self.read_into(wanted.tolist(), out)
        return np.asarray(out[0][rest] if np.ndim(index) == 0 else out[(slice(None), *rest)])

    def read_into(self, rows: Sequence[int], out: npt.NDArray[Any]) -> None:
        """Read rows into memory of the caller's, (len(rows), C, h, w) and contiguous."""
        self.combo.check(np.asarray(rows, np.int64))
        try:
            if self._meta.plain:
                flat = out.reshape(len(rows), -1).view(np.uint8)
                buffers = [row.data for row in flat]
                self._chunks.read(rows, buffers, self.combo.store.check)
            else:
                with disk_errors(self.combo.store.path):
                    out[:] = self._zarr.oindex[np.asarray(rows, np.int64)]
        except (Damaged, ValueError) as error:  # zarr's answer to a wrong crc32c is a ValueError
            raise self._damaged(error) from None

    def read_row(self, row: int, out: npt.NDArray[Any], buffer: memoryview) -> None:
        """Read a row that is known to be done.

        Parameters
        ----------
        out : (1, C, h, w) and contiguous
        buffer : its bytes
        """
        if not self._meta.plain:
            self.read_into([row], out)
            return
        try:
            self._chunks.read_row(row, buffer, self.combo.store.check)
        except Damaged as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.combo.store.path}: {self.combo.name}/{self.name}: the data of a"
                          f" finished block is missing or damaged ({error}); run 'gate-cache verify"
                          " --repair', then 'gate-cache extract'")

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        path = f"{self.combo.name}/{self.name}"
        return zarr.open_array(self.combo.store.folder.zarr(), path=path, mode="r")


def _again(combo: ComboView, name: str) -> MapView:
    return combo[name]
