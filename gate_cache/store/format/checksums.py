"""crc32c of rows, and of what they are together: joined from those of the parts, no byte is read.

A shard keeps the checksum of each row, a done mark that of all rows of a block after each other.
The checksum of A followed by B follows from those of A and B and the length of B alone (multiply
by x^(8·length) modulo the polynomial), so a mark can be compared with the shards' own checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.uint32]
"""(arrays, rows): crc32c of the little-endian bytes of each row."""

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
_ONE = 1 << 31


def row_sums(arrays: Mapping[str, npt.NDArray[Any]]) -> Sums:
    """The checksums of the rows of a block's arrays, each (rows, …)."""
    rows = {len(a) for a in arrays.values()}
    if len(rows) != 1:
        raise ValueError(f"maps of one block have different numbers of rows: {sorted(rows)}")
    table = np.zeros((len(arrays), rows.pop()), np.uint32)
    for sums, array in zip(table, arrays.values(), strict=True):
        sums[:] = array_sums(array)
    return table


def array_sums(array: npt.NDArray[Any]) -> list[int]:
    """The checksum of each row of one array, (rows, …)."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return [crc32c.crc32c(row.reshape(-1).view(np.uint8).data) for row in little]


def joined(sums: Sums, lengths: Iterable[int]) -> int:
    """The checksum of all rows after each other, array after array.

    Parameters
    ----------
    lengths : bytes of a row of each array
    """
    value = 0
    for row, length in zip(sums.tolist(), lengths, strict=True):
        a, b, c, d = _shift(length)
        for checksum in row:
            value = (a[value & 255] ^ b[value >> 8 & 255] ^ c[value >> 16 & 255] ^ d[value >> 24]
                     ^ checksum)
    return int(value)


@lru_cache(maxsize=64)
def _shift(length: int) -> tuple[list[int], ...]:
    """What each value of a checksum's four bytes becomes when `length` bytes follow."""
    factor = _power(8 * length)
    bits = [_times(1 << i, factor) for i in range(32)]
    return tuple([_sum_of(bits[at : at + 8], byte) for byte in range(256)]
                 for at in (0, 8, 16, 24))


def _sum_of(bits: list[int], byte: int) -> int:
    value = 0
    for i, bit in enumerate(bits):
        value ^= bit if byte >> i & 1 else 0
    return value


def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial."""
    value, square = _ONE, _ONE >> 1
    while exponent:
        value = _times(value, square) if exponent & 1 else value
        square, exponent = _times(square, square), exponent >> 1
    return value


def _times(a: int, b: int) -> int:
    """a·b modulo the polynomial; the lowest bit stands for x^31."""
    value = 0
    for i in range(31, -1, -1):
        value ^= b if a >> i & 1 else 0
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return value


class Digests(Sequence[str]):
    """Each image's sha256 as hex; held as bytes, which take a quarter of the memory."""

    def __init__(self, raw: npt.NDArray[np.uint8]) -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, row: Any) -> Any:
        return self.raw[row].tobytes().hex()


def raw_digests(digests: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(n, 32): from hex."""
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, 32)
