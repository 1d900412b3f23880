"""The bytes of an uncompressed Zarr v3 shard: chunks with their crc32c, then an index with its own.

Zarr's ``sharding_indexed`` with inner codecs ``bytes`` and ``crc32c`` and the index at the end: any
Zarr reader reads what is written here. A chunk is one row; the index holds offset and length of
every slot, all ones where there is no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt

CRC = 4
ENTRY = 16
EMPTY = 2**64 - 1

Index = npt.NDArray[np.uint64]
"""(slots, 2): offset and length of each chunk, its checksum included."""


class Damaged(ValueError):
    """Bytes are not what was written."""


def shard_parts(rows: npt.NDArray[Any], slots: int) -> list[bytes | memoryview]:
    """A whole shard, as buffers to be written one after the other; rows are not copied.

    Parameters
    ----------
    rows : (n, …) little-endian and contiguous, n <= slots
    slots : rows of a full shard
    """
    if len(rows) > slots or not rows.flags.c_contiguous or not _little(rows.dtype):
        raise ValueError(f"not the rows of one shard: {rows.shape} {rows.dtype} for {slots} slots")
    size = (rows[0].nbytes if len(rows) else 0) + CRC
    parts: list[bytes | memoryview] = []
    for row in rows:
        chunk = memoryview(row.reshape(-1).view(np.uint8))
        parts += [chunk, _sum(chunk)]
    index = np.full((slots, 2), EMPTY, "<u8")
    index[: len(rows), 0] = np.arange(len(rows), dtype=np.uint64) * np.uint64(size)
    index[: len(rows), 1] = size
    raw = index.tobytes()
    return [*parts, raw, _sum(raw)]


def index_bytes(slots: int) -> int:
    """Length of the index at a shard's end."""
    return slots * ENTRY + CRC


def read_index(raw: bytes | bytearray | memoryview, slots: int, size: int, chunk: int) -> Index:
    """The index of a shard.

    Parameters
    ----------
    raw : the shard's last `index_bytes`
    size : bytes of the whole shard
    chunk : bytes of one row

    Raises
    ------
    Damaged
        Wrong checksum, or chunks that cannot be.
    """
    body = memoryview(raw)[: slots * ENTRY]
    if len(raw) != index_bytes(slots) or not matches(body, memoryview(raw)[slots * ENTRY:]):
        raise Damaged("its index is damaged")
    index = np.frombuffer(bytes(body), "<u8").reshape(slots, 2).astype(np.uint64)
    there = index[:, 0] != EMPTY
    wrong = (index[there, 1] != chunk + CRC) | \
        (index[there, 0] > np.uint64(max(size - index_bytes(slots) - chunk - CRC, 0)))
    if size < index_bytes(slots) or wrong.any() or (index[~there, 1] != EMPTY).any():
        raise Damaged("its index does not fit its length")
    return index


def matches(chunk: Any, checksum: bytes | bytearray | memoryview) -> bool:
    """Whether a chunk is what its checksum was taken of."""
    return crc32c.crc32c(chunk) == int.from_bytes(checksum, "little")


def is_plain(codecs: Sequence[Any]) -> bool:
    """Whether an array's codecs, as its metadata has them, write what this module reads."""
    if len(codecs) != 1 or codecs[0].get("name") != "sharding_indexed":
        return False
    inside = codecs[0].get("configuration", {})
    return (inside.get("index_location", "end") == "end"
            and _bytes_crc(inside.get("codecs")) and _bytes_crc(inside.get("index_codecs")))


def _bytes_crc(codecs: Any) -> bool:
    return [_name(c) for c in codecs or ()] == ["bytes", "crc32c"] and \
        codecs[0].get("configuration", {}).get("endian", "little") == "little"


def _name(codec: Any) -> str:
    return str(codec.get("name")) if isinstance(codec, dict) else str(codec)


def _sum(data: bytes | memoryview) -> bytes:
    return int(crc32c.crc32c(data)).to_bytes(CRC, "little")


def _little(dtype: np.dtype[Any]) -> bool:
    return bool(dtype == dtype.newbyteorder("<"))
