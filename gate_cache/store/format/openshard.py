"""A shard's file with its index, open for reading."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import crc32c

from gate_cache.store.format.shards import (
    CRC,
    EMPTY,
    Damaged,
    index_bytes,
    matches,
    range_of,
    read_index,
    unpack,
)
from gate_cache.store.places.local import NoFile

if TYPE_CHECKING:
    from gate_cache.store.format.attrs import ArrayMeta
    from gate_cache.store.places.folders import File, Folder

_scratch = threading.local()
"""Of each thread, for the chunks that it decompresses: `memory`."""


@dataclass
class OpenShard:
    """A shard's file with its index.

    Attributes
    ----------
    offsets : of each slot's chunk, -1 where there is none
    lengths : of them, their checksums included
    checked : slots whose checksum was compared
    sums : the checksum that each slot's row must have; None where that is not known
    """

    file: File
    key: str
    offsets: list[int]
    lengths: list[int]
    checked: set[int]
    sums: list[int] | None = None

    def chunk(self, slot: int) -> memoryview:
        """A whole chunk, as it is stored, with its checksum; valid until this thread's next one.

        Raises
        ------
        Damaged
            It is not there, or cut off.
        """
        if self.offsets[slot] < 0:
            raise Damaged(f"{self.key} lacks row {slot} of the shard")
        return self.bytes(self.offsets[slot], self.lengths[slot])

    def bytes(self, offset: int, length: int) -> memoryview:
        """So many bytes, as of `chunk`; `Damaged` where there are fewer."""
        if len(getattr(_scratch, "memory", b"")) < length:
            _scratch.memory = bytearray(length)  # a new one each time has new pages, which cost
        data = memoryview(_scratch.memory)[:length]
        if self.file.read_into(offset, [data]) != length:
            raise Damaged(f"{self.key} is cut off")
        return data

    def check(self, slot: int, chunk: memoryview) -> None:
        """Raise `Damaged` where a chunk is not what its checksum was taken of."""
        if not matches(chunk[:-CRC], chunk[-CRC:]):
            raise wrong(self.key, slot)

    def is_row(self, slot: int, checksum: int) -> None:
        """Raise `Damaged` where a row with this checksum belongs to another place."""
        if self.sums is not None and self.sums[slot] != checksum:
            raise Damaged(f"{self.key}: row {slot} is not the one that was written there; the shard"
                          " is another block's or combo's, or an older one")


def wrong(key: str, slot: int) -> Damaged:
    """A row whose bytes are not what was written."""
    return Damaged(f"{key}: row {slot} of the shard has a wrong checksum")


def shard_file(key: str, shard: int, meta: ArrayMeta) -> str:
    """The key of a shard's file."""
    parts = ["c", str(shard), *["0"] * (len(meta.shape) - 1)]
    return f"{key}/{meta.separator.join(parts)}"


def open_shard(folder: Folder, array: str, shard: int, meta: ArrayMeta) -> OpenShard:
    """Open a shard, which has the number of its block.

    Raises
    ------
    Damaged
        It is not there, or its index is damaged.
    """
    key, slots, length = shard_file(array, shard, meta), meta.block, index_bytes(meta.block)
    try:
        file = folder.open(key, length)
    except NoFile:
        raise Damaged(f"{key} is not a file") from None
    if file is None:
        raise Damaged(f"{key} is missing")
    size = file.size
    raw = bytearray(min(length, size))
    if size < length or file.read_into(size - length, [memoryview(raw)]) != length:
        raise Damaged(f"{key} is cut off")
    try:
        index = read_index(raw, slots, size, range_of(meta.packing, meta.chunk))
    except Damaged as error:
        raise Damaged(f"{key}: {error}") from None
    offsets = [-1 if o == EMPTY else o for o in index[:, 0].tolist()]
    return OpenShard(file, key, offsets, index[:, 1].tolist(), set())


def row_sum(shard: OpenShard, slot: int, meta: ArrayMeta) -> int:
    """The checksum of a row's bytes; of a raw row the one beside it, and the row is not read.

    Raises
    ------
    Damaged
        The row is missing or damaged.
    """
    if meta.packing == "raw":
        checksum = bytearray(CRC)
        offset = shard.offsets[slot]
        if offset < 0 or shard.file.read_into(
                offset + meta.chunk, [memoryview(checksum)]) != CRC:
            raise Damaged(f"{shard.key} lacks row {slot} of the shard")
        return int.from_bytes(checksum, "little")
    row = memoryview(bytearray(meta.chunk))
    chunk = shard.chunk(slot)
    shard.check(slot, chunk)
    unpack(chunk[:-CRC], row, meta.packing, meta.dtype)
    return int(crc32c.crc32c(row))
