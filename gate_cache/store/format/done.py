"""The done mark of a block: how many rows it holds and the checksum of their bytes.

One uint64 a block, a file of its own, written after the block's shards: rows in the high 32 bits,
in the low 32 bits crc32c over the raw bytes of each map's rows, map after map in the group's order.
0, or no file: not done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import read_array
from gate_cache.store.format.checksums import Sums, joined, row_sums
from gate_cache.store.format.documents import Document, array_document
from gate_cache.store.format.layout import DONE
from gate_cache.store.places.folders import Folder, is_number

Marks = npt.NDArray[np.uint64]
BYTES = 8


def mark(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """The done mark of a block's maps, each (rows, C, h, w)."""
    return mark_of(row_sums(arrays), [a[:1].nbytes for a in arrays.values()])


def mark_of(sums: Sums, lengths: Sequence[int]) -> int:
    """The done mark of rows with these checksums and lengths."""
    return int(sums.shape[1]) << 32 | joined(sums, lengths)


def document(blocks: int) -> Document:
    """The metadata of the array of marks."""
    return {**_no_marks(), "shape": [blocks]}


@cache
def _no_marks() -> Document:
    return array_document(shape=(0,), chunks=(1,), dtype="uint64", compressors=None, fill_value=0)


def slots(folder: Folder, group: str) -> int:
    """How many blocks the array of marks has a place for."""
    meta = read_array(folder, f"{group}/{DONE}")
    return meta.shape[0] if meta else 0


def read_marks(folder: Folder, group: str, blocks: int) -> Marks:
    """The marks of a group's first blocks, up to the last one that has one.

    Raises
    ------
    StoreError
        One of them is damaged.
    """
    names = [n for n in folder.names(f"{group}/{DONE}/c") if is_number(n) and int(n) < blocks]
    marks = np.zeros(max(map(int, names), default=-1) + 1, np.uint64)
    keys = [f"{group}/{DONE}/c/{name}" for name in names]
    for name, key, raw in zip(names, keys, folder.read_many(keys), strict=True):
        if raw is not None:
            marks[int(name)] = _value(key, raw)
    return marks


def read_mark(folder: Folder, group: str, block: int) -> int:
    """One block's mark."""
    key = f"{group}/{DONE}/c/{block}"
    raw = folder.read(key)
    return 0 if raw is None else _value(key, raw)


def write_mark(folder: Folder, group: str, block: int, value: int) -> None:
    """Mark a block, to stay."""
    folder.write(f"{group}/{DONE}/c/{block}", [value.to_bytes(BYTES, "little")])


def _value(key: str, raw: bytes) -> int:
    if len(raw) != BYTES:
        raise StoreError(f"{key}: the mark of a finished block is damaged; run 'gate-cache verify"
                         " --repair', then 'gate-cache extract'")
    return int.from_bytes(raw, "little")


def rows_in(marks: Marks) -> npt.NDArray[np.int64]:
    """Valid rows of each block."""
    return (marks >> np.uint64(32)).astype(np.int64)


def valid(marks: Marks, block: int, rows: int) -> npt.NDArray[np.bool_]:
    """(rows,) bool: which rows a finished block holds."""
    index = np.arange(rows)
    counts = np.zeros(-(-rows // block), np.int64)
    known = rows_in(marks)[: len(counts)]
    counts[: len(known)] = known
    return np.asarray(index % block < counts[index // block])
