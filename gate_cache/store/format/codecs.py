"""Compressing rows, and decompressing them into memory of a row's length and no more."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy.typing as npt
from numcodecs import get_codec, zstd

from gate_cache.core.codecs import Codec
from gate_cache.core.errors import UserError

Array = npt.NDArray[Any]


def compress(codec: Codec, row: Array) -> bytes:
    """The bytes of a row's contiguous array."""
    return bytes(_numcodec(codec).encode(row))


def decompress(codec: Codec, chunk: memoryview, row: Array) -> None:
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
    else:
        _numcodec(codec).decode(chunk, row)


def _length(codec: Codec, chunk: memoryview) -> int | None:
    """Bytes that a chunk says it holds; None where it does not, or a codec is given no more room
    than a row has."""
    if codec.name == "zstd":
        return _content(chunk)
    start = {"blosc": 4, "lz4": 0}.get(codec.name)
    return None if start is None else int.from_bytes(chunk[start : start + 4], "little")


def _gunzip(chunk: memoryview, row: Array) -> None:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        raw = unpacker.decompress(chunk, row.nbytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(raw) != row.nbytes or not unpacker.eof:
        raise ValueError("a row has another length than the others")
    row.reshape(-1).view("u1").data[:] = raw


@lru_cache
def _numcodec(codec: Codec) -> Any:
    options = dict(codec.options)
    if codec.name == "blosc":
        options["shuffle"] = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[options["shuffle"]]
    try:
        return get_codec({"id": codec.name, **options})
    except (ImportError, ValueError) as error:
        raise UserError(f"codec {codec.name}: this machine cannot do it ({error}); install it with"
                        f" 'pip install {codec.name}', or choose another one") from None


def _content(frame: memoryview) -> int | None:
    """Bytes that a zstd frame says it holds (RFC 8878, section 3.1.1.1); None where it does not."""
    flags = frame[4] if len(frame) > 4 else 0
    one_segment = flags >> 5 & 1
    size = (one_segment, 2, 4, 8)[flags >> 6]
    start = 6 - one_segment + (0, 1, 2, 4)[flags & 3]
    value = int.from_bytes(frame[start : start + size], "little")
    return value + 256 * (size == 2) if size else None
