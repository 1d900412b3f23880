"""The done mark of a block: how many rows it holds and the checksum of their bytes.

One uint64 a block, written after the block's shards: rows in the high 32 bits, in the low 32 bits
crc32c over the raw bytes of each map's rows, map after map in the group's order. 0 = not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

Marks = npt.NDArray[np.uint64]


def mark(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """The done mark of a block's maps, each (rows, C, h, w)."""
    rows = {len(a) for a in arrays.values()}
    if len(rows) != 1:
        raise ValueError(f"maps of one block have different numbers of rows: {sorted(rows)}")
    return rows.pop() << 32 | checksum(arrays)


def checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """crc32c over the little-endian bytes of all maps, in order."""
    value = 0
    for array in arrays.values():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        value = google_crc32c.extend(value, little.tobytes())
    return int(value)


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
