"""Checking the data of a block: index, every row's checksum, and the done mark over all maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import crc32c
import numpy as np

from gate_cache.store.check.findings import Finding, Mend, note
from gate_cache.store.format import done
from gate_cache.store.format.attrs import ArrayMeta
from gate_cache.store.format.chunks import OpenShard, open_shard
from gate_cache.store.format.shards import CRC, Damaged, index_bytes, matches
from gate_cache.store.places.folders import Folder

READ_BYTES = 2**24
"""Read at a time, at most, where a row is not larger."""


@dataclass(frozen=True)
class Block:
    """A finished block.

    Attributes
    ----------
    maps : of its group, in order; None where an array's metadata is damaged
    index : which block of the group
    slots : rows of a full block
    """

    folder: Folder
    group: str
    maps: dict[str, ArrayMeta | None]
    index: int
    slots: int

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.group}: block {self.index}"

    def check(self) -> list[Finding]:
        """What is wrong with it; a block that is written meanwhile is looked at again."""
        while True:
            mark = done.read_mark(self.folder, self.group, self.index)
            wrong = list(self._wrong(mark)) if mark else []
            if not wrong or done.read_mark(self.folder, self.group, self.index) == mark:
                break
        first = self.index * self.slots
        rows = f"rows {first}–{first + (mark >> 32) - 1}"
        mend = Mend(f"{rows} of {self.group} are marked undone", self.undo)
        return [Finding(f"{self.group}: {rows}", what, mend) for what in wrong] + \
            [note(self.place, what) for what in self._strays()]

    def undo(self) -> None:
        """Mark it undone."""
        done.write_mark(self.folder, self.group, self.index, 0)

    def _wrong(self, mark: int) -> Iterator[str]:
        value, whole = 0, True
        for name, meta in self.maps.items():
            try:
                value = self._shard(name, meta, mark >> 32, value) if meta else value
                whole = whole and meta is not None
            except Damaged as error:
                yield str(error)
                whole = False
        if whole and value != mark & 0xFFFFFFFF:
            yield "its data are not what was marked done"

    def _shard(self, name: str, meta: ArrayMeta, rows: int, value: int) -> int:
        """The checksum of a map's rows, going on from that of the maps before it."""
        if not meta.plain:
            return self._decoded(name, meta, rows, value)
        key = self._key(name, meta)
        shard = open_shard(self.folder, key, self.slots, meta.chunk)
        there = [slot for slot, offset in enumerate(shard.offsets) if offset >= 0]
        if there[:rows] != list(range(min(rows, self.slots + 1))):
            raise Damaged(f"{key} lacks rows")
        if shard.file.size != len(there) * (meta.chunk + CRC) + index_bytes(self.slots):
            raise Damaged(f"{key} has not the length that its index says")
        for slots in _runs(shard, there, meta.chunk + CRC):
            value = _read(key, shard, slots, meta.chunk, rows, value)
        return value

    def _decoded(self, name: str, meta: ArrayMeta, rows: int, value: int) -> int:
        """As `_shard`, through Zarr."""
        import zarr

        array = zarr.open_array(self.folder.zarr(), path=f"{self.group}/{name}", mode="r")
        start = self.index * self.slots
        try:
            if self.folder.open(self._key(name, meta)) is None:
                raise Damaged("it is missing")
            found = np.asarray(array[start : start + rows])
        except Exception as error:  # whatever a codec says of bytes that are not its own
            raise Damaged(f"{self._key(name, meta)}: {error}") from None
        return done.checksum({name: found}, value)

    def _key(self, name: str, meta: ArrayMeta) -> str:
        return f"{self.group}/{name}/c/{self.index}{'/0' * (len(meta.shape) - 1)}"

    def _strays(self) -> Iterator[str]:
        for name, meta in self.maps.items():
            parent, _, own = self._key(name, meta).rpartition("/") if meta else ("", "", "")
            yield from (f"{parent}/{n} is no part of the store"
                        for n in (self.folder.names(parent) if meta else ()) if n != own)


def _runs(shard: OpenShard, slots: list[int], step: int) -> Iterator[list[int]]:
    """Slots whose bytes follow each other, to be read at once."""
    run: list[int] = []
    for slot in slots:
        follows = run and shard.offsets[slot] == shard.offsets[run[-1]] + step
        if run and not (follows and (len(run) + 1) * step <= READ_BYTES):
            yield run
            run = []
        run.append(slot)
    if run:
        yield run


def _read(key: str, shard: OpenShard, slots: list[int], chunk: int, rows: int, value: int) -> int:
    step = chunk + CRC
    data = memoryview(bytearray(len(slots) * step))
    if shard.file.read_into(shard.offsets[slots[0]], [data]) != len(data):
        raise Damaged(f"{key} is cut off")
    for i, slot in enumerate(slots):
        row = data[i * step : i * step + chunk]
        if not matches(row, data[i * step + chunk : (i + 1) * step]):
            raise Damaged(f"{key}: row {slot} of the shard has a wrong checksum")
        value = crc32c.crc32c(row, value) if slot < rows else value
    return int(value)
