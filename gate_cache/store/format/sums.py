"""The table of row checksums of a group: what binds each row to its group, its map and its block.

A shard's own checksums say that a row is whole, not whose it is: a shard copied to another block's
or combo's place reads well. So a file a block, ``sums/c/<block>``, holds the checksum of every row
of every map, XORed with one of the group's fingerprint, the map's name and the block's number; it
ends with a checksum of itself. Anybody's Zarr reads it: an array of uint32 with the codecs
``bytes`` and ``crc32c``. A block of a store that was written before there were such tables is held
against its done mark, which is the checksum of all its rows together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import crc32c
import numpy as np

from gate_cache.store.format import done
from gate_cache.store.format.attrs import ArrayMeta, read_array
from gate_cache.store.format.checksums import Sums, joined
from gate_cache.store.format.documents import Document, array_document
from gate_cache.store.format.layout import SUMS
from gate_cache.store.format.openshard import open_shard, row_sum
from gate_cache.store.format.shards import CRC, Damaged, matches
from gate_cache.store.places.local import LocalFolder

if TYPE_CHECKING:
    from gate_cache.store.places.folders import Folder

_KEPT = 64
"""Tables of blocks held at most."""


def document(blocks: int, arrays: int, block: int) -> Document:
    """The metadata of the tables of a group."""
    return {**_empty(arrays * block), "shape": [blocks * arrays * block]}


@lru_cache
def _empty(width: int) -> Document:
    from zarr.codecs import Crc32cCodec

    return array_document(shape=(0,), chunks=(width,), dtype="uint32",
                          compressors=[Crc32cCodec()], fill_value=0,
                          dimension_names=["checksum"])


def key(group: str, block: int) -> str:
    """A block's file."""
    return f"{group}/{SUMS}/c/{block}"


def encode(sums: Sums, slots: int, salts: Sums) -> bytes:
    """A block's file: what its rows are, bound to their place; 0 where there is no row."""
    table = np.zeros((len(sums), slots), "<u4")
    table[:, : sums.shape[1]] = sums ^ salts
    raw = table.tobytes()
    return raw + int(crc32c.crc32c(raw)).to_bytes(CRC, "little")


def decode(raw: bytes, slots: int, salts: Sums) -> Sums | None:
    """(arrays, slots): the checksums that rows must have; None where the file is damaged."""
    if len(raw) != len(salts) * slots * CRC + CRC or not matches(raw[:-CRC], raw[-CRC:]):
        return None
    return np.asarray(np.frombuffer(raw[:-CRC], "<u4").reshape(len(salts), slots) ^ salts)


def salts(fingerprint: str, arrays: Mapping[str, Any], block: int) -> Sums:
    """(arrays, 1): what binds checksums to a group, a map and a block."""
    return np.array([[crc32c.crc32c(f"{fingerprint}/{name}/{block}".encode())] for name in arrays],
                    np.uint32)


def of_shards(folder: Folder, group: str, metas: Mapping[str, ArrayMeta], block: int,
              rows: int) -> Sums:
    """What the shards of a block say of its rows, in the order of the arrays' metadata; no raw row
    is read, compressed ones are.

    Raises
    ------
    Damaged
        A shard is missing or damaged.
    """
    table = np.zeros((len(metas), rows), np.uint32)
    for sums, (name, meta) in zip(table, metas.items(), strict=True):
        shard = open_shard(folder, f"{group}/{name}", block, meta)
        for slot in range(rows):
            sums[slot] = row_sum(shard, slot, meta)
    return table


class RowSums:
    """What the rows of one group must be, block by block; `slots` are the rows of a block."""

    def __init__(self, folder: Folder, group: str, fingerprint: str, arrays: tuple[str, ...],
                 slots: int) -> None:
        self._folder, self._group, self._slots = folder, group, slots
        self._fingerprint = fingerprint
        self._arrays = {name: i for i, name in enumerate(arrays)}
        self._known: dict[int, Sums | None] = {}

    def of(self, array: str, block: int) -> list[int] | None:
        """The checksum of each row of an array's block; None where nothing is known of it.

        Raises
        ------
        Damaged
            The block's shards are not those that were marked done.
        """
        known = self._known
        if block not in known:
            if len(known) >= _KEPT:
                self._known = known = {}  # a new one: other threads may read the old one
            known[block] = self._read(block)
        table = known[block]
        return None if table is None else table[self._arrays[array]].tolist()

    def forget(self, block: int) -> None:
        """Look again: the block may have been written again."""
        self._known = {b: sums for b, sums in list(self._known.items()) if b != block}

    def _read(self, block: int) -> Sums | None:
        raw = self._folder.read(key(self._group, block))
        table = decode(raw, self._slots, salts(self._fingerprint, self._arrays, block)) \
            if raw else None
        return self._by_mark(block) if table is None else table

    def _by_mark(self, block: int) -> Sums | None:
        """Without a table, and only where looking costs no requests to a server."""
        if not isinstance(self._folder, LocalFolder):
            return None
        metas = {name: read_array(self._folder, f"{self._group}/{name}") for name in self._arrays}
        mark = done.BlockMarks(self._folder, self._group).read(block)
        known = {n: m for n, m in metas.items() if m is not None and m.packing == "raw"}
        if len(known) < len(metas) or not 0 < mark >> 32 <= self._slots:
            return None
        table = of_shards(self._folder, self._group, known, block, mark >> 32)
        if joined(table, [m.chunk for m in known.values()]) != mark & 0xFFFFFFFF:
            raise Damaged(f"block {block} has shards of another block or combo, or older ones")
        return np.pad(table, ((0, 0), (0, self._slots - table.shape[1])))
