"""The bytes of a Zarr v3 shard: chunks with their crc32c, then an index with its own.

Zarr's ``sharding_indexed`` with inner codecs ``bytes``, ``crc32c`` and between them a codec where
maps are compressed, and the index at the end: any Zarr reader reads what is written here. A chunk
is one row; the index holds offset and length of every slot, all ones where there is no row.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import get_codec, zstd

from gate_cache.core.codecs import Codec
from gate_cache.core.errors import UserError

CRC = 4
ENTRY = 16
EMPTY = 2**64 - 1

Packing = Codec | Literal["raw", "other"]
"""How chunks are laid out: compressed, as they are, or in a way that is not written here."""

Index = npt.NDArray[np.uint64]
"""(slots, 2): offset and length of each chunk, its checksum included."""


class Damaged(ValueError):
    """Bytes are not what was written."""


def shard_parts(rows: npt.NDArray[Any], slots: int, packing: Packing,
                sums: Sequence[int]) -> list[bytes | memoryview]:
    """A whole shard, as buffers to be written one after the other; raw rows are not copied.

    Parameters
    ----------
    rows : (n, …) little-endian and contiguous, n <= slots
    slots : rows of a full shard
    packing : a codec, or raw
    sums : crc32c of each row
    """
    if len(rows) > slots or not rows.flags.c_contiguous or not _little(rows.dtype):
        raise ValueError(f"not the rows of one shard: {rows.shape} {rows.dtype} for {slots} slots")
    parts: list[bytes | memoryview] = []
    index, at = np.full((slots, 2), EMPTY, "<u8"), 0
    for slot, row in enumerate(rows):
        chunk: bytes | memoryview = memoryview(row.reshape(-1).view(np.uint8))
        checksum = _bytes_of(sums[slot])
        if isinstance(packing, Codec):
            chunk = compress(packing, row)
            checksum = _bytes_of(crc32c.crc32c(chunk))
        parts += [chunk, checksum]
        index[slot] = at, len(chunk) + CRC
        at += len(chunk) + CRC
    raw = index.tobytes()
    return [*parts, raw, _bytes_of(crc32c.crc32c(raw))]


def index_bytes(slots: int) -> int:
    """Length of the index at a shard's end."""
    return slots * ENTRY + CRC


def range_of(packing: Packing, chunk: int) -> tuple[int, int]:
    """The least and the most that a row of so many bytes takes in a shard."""
    if not isinstance(packing, Codec):
        return chunk + CRC, chunk + CRC
    return 1 + CRC, packing.most(chunk) + CRC


def read_index(raw: bytes | bytearray | memoryview, slots: int, size: int,
               lengths: tuple[int, int]) -> Index:
    """The index of a shard.

    Parameters
    ----------
    raw : the shard's last `index_bytes`
    slots : rows of a full shard
    size : bytes of the whole shard
    lengths : of a chunk with its checksum, at least and at most

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
    offset, length = index[there].T
    room = np.uint64(max(size - index_bytes(slots), 0))
    wrong = (length < lengths[0]) | (length > lengths[1]) | (length > room) | \
        (offset > room - np.minimum(length, room))
    if size < index_bytes(slots) or wrong.any() or (index[~there, 1] != EMPTY).any():
        raise Damaged("its index does not fit its length")
    return index


def unpack(chunk: memoryview, buffer: memoryview, packing: Packing, dtype: Any) -> None:
    """Decompress a chunk, without its checksum, into memory of a row's length.

    Raises
    ------
    Damaged
        It is none, or has another length.
    """
    try:
        if not isinstance(packing, Codec):
            raise ValueError("in no way that is known here")
        decompress(packing, chunk, np.frombuffer(buffer, dtype))
    except (RuntimeError, ValueError, TypeError) as error:
        raise Damaged(f"a row cannot be decompressed ({error})") from None


def matches(chunk: Any, checksum: bytes | bytearray | memoryview) -> bool:
    """Whether a chunk is what its checksum was taken of."""
    return crc32c.crc32c(chunk) == int.from_bytes(checksum, "little")


def packing_of(codecs: Sequence[Any], row: Sequence[int]) -> Packing:
    """How an array's codecs, as its metadata has them, lay out chunks of one row of this shape."""
    inside = _settings(codecs[0]) if _chain(codecs) == ["sharding_indexed"] else {}
    if inside.get("chunk_shape") != [1, *row] or inside.get("index_location", "end") != "end" \
            or _chain(inside.get("index_codecs")) != ["bytes", "crc32c"]:
        return "other"
    *chain, last = inside.get("codecs") or [None]
    if _chain([last]) != ["crc32c"]:
        return "other"
    named = _chain(chain)
    if named == ["bytes"]:
        return "raw"
    try:
        codec = Codec.of_zarr(named[-1], _settings(chain[-1])) if named else None
    except ValueError:
        return "other"
    return codec if codec and named[:-1] == ([] if codec.typed else ["bytes"]) else "other"


def _chain(codecs: Any) -> list[str]:
    """Names of codecs one after the other; empty where there are none, or bytes in our order."""
    if not isinstance(codecs, list) or not codecs \
            or _settings(codecs[0]).get("endian", "little") != "little":
        return []
    return [str(c.get("name")) if isinstance(c, dict) else str(c) for c in codecs]


def _settings(codec: Any) -> dict[str, Any]:
    configuration = codec.get("configuration", {}) if isinstance(codec, dict) else {}
    return configuration if isinstance(configuration, dict) else {}


def _bytes_of(checksum: int) -> bytes:
    return checksum.to_bytes(CRC, "little")


def _little(dtype: np.dtype[Any]) -> bool:
    return bool(dtype == dtype.newbyteorder("<"))


def compress(codec: Codec, row: npt.NDArray[Any]) -> bytes:
    """The bytes of a row's contiguous array."""
    return bytes(numcodec(codec).encode(row))


def decompress(codec: Codec, chunk: memoryview, row: npt.NDArray[Any]) -> None:
    """Fill a row's contiguous array.

    Raises
    ------
    ValueError, RuntimeError
        The chunk is none, or of a row of another length.
    """
    length = _length(codec, chunk)
    if length is not None and length != row.nbytes:
        raise ValueError("a row has another length than the others")
    if codec.name == "gzip":
        _gunzip(chunk, row)
    elif codec.name == "zstd":
        zstd.decompress(chunk, row)
    elif codec.name == "pcodec":
        _unpco(codec, chunk, row)
    else:
        numcodec(codec).decode(chunk, row)


def _length(codec: Codec, chunk: memoryview) -> int | None:
    """Bytes that a chunk says it holds; None where it does not, or a codec is given no more room
    than a row has."""
    if codec.name == "zstd":
        return _content(chunk)
    start = {"blosc": 4, "lz4": 0}.get(codec.name)
    return None if start is None else int.from_bytes(chunk[start : start + 4], "little")


def _gunzip(chunk: memoryview, row: npt.NDArray[Any]) -> None:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        raw = unpacker.decompress(chunk, row.nbytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(raw) != row.nbytes or not unpacker.eof:
        raise ValueError("a row has another length than the others")
    row.reshape(-1).view("u1").data[:] = raw


def _unpco(codec: Codec, chunk: memoryview, row: npt.NDArray[Any]) -> None:
    """numcodecs' own `decode` does not say how many numbers there were."""
    numcodec(codec)  # which says what is to be installed
    from pcodec import standalone

    done = standalone.simple_decompress_into(bytes(chunk), row.reshape(-1))
    if done.n_processed != row.size or not done.finished:
        raise ValueError("a row has another length than the others")


@lru_cache
def numcodec(codec: Codec) -> Any:
    """numcodecs' object of a codec; a UserError where it is not installed here."""
    options = dict(codec.options)
    if codec.name == "blosc":
        options["shuffle"] = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[options["shuffle"]]
    try:
        return get_codec({"id": codec.name, **options})
    except (ImportError, ValueError) as error:
        raise UserError(f"codec {codec.name}: this machine cannot do it ({error}); install it with"
                        f" \"pip install 'numcodecs[{codec.name}]'\", or choose another one"
                        ) from None


def _content(frame: memoryview) -> int | None:
    """Bytes that a zstd frame says it holds (RFC 8878, section 3.1.1.1); None where it does not."""
    flags = frame[4] if len(frame) > 4 else 0
    one_segment = flags >> 5 & 1
    size = (one_segment, 2, 4, 8)[flags >> 6]
    start = 6 - one_segment + (0, 1, 2, 4)[flags & 3]
    value = int.from_bytes(frame[start : start + size], "little")
    return value + 256 * (size == 2) if size else None
