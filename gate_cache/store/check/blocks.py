"""Checking the data of a block: index, every row's checksum, the done mark, whose rows they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.store.check.findings import Finding, note
from gate_cache.store.format import done, sums
from gate_cache.store.format.openshard import OpenShard, open_shard, row_sum, shard_file, wrong
from gate_cache.store.format.shards import CRC, Damaged, index_bytes, matches

if TYPE_CHECKING:
    from gate_cache.store.format.attrs import ArrayMeta
    from gate_cache.store.format.checksums import Sums
    from gate_cache.store.places.folders import Folder

READ_BYTES = 2**24
"""Read at a time, at most, where a row is not larger."""


@dataclass(frozen=True)
class BlockCheck:
    """A finished block, of `slots` rows at most; an array with damaged metadata has None."""

    folder: Folder
    group: str
    fingerprint: str
    maps: dict[str, ArrayMeta | None]
    index: int
    slots: int
    marks: done.BlockMarks

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.group}: block {self.index}"

    def check(self) -> list[Finding]:
        """What is wrong with it; a block that is written meanwhile is checked again."""
        while True:
            mark = self.marks.read(self.index)
            wrong = list(self._wrong(mark)) if mark else []
            if not wrong or self.marks.read(self.index) == mark:
                break
        first = self.index * self.slots
        rows = f"rows {first}–{first + (mark >> 32) - 1}"
        undone = f"{rows} of {self.group} are marked undone"
        return [Finding(f"{self.group}: {rows}", what, undone, self.undo) for what in wrong] + \
            [note(self.place, what) for what in self._strays()]

    def undo(self) -> None:
        """Mark it undone."""
        self.marks.write(self.index, 0)

    def _wrong(self, mark: int) -> Iterator[str]:
        by_map: dict[str, list[int]] = {}
        for name, meta in self.maps.items():
            try:
                if meta is not None:
                    by_map[name] = self._rows(name, meta, mark >> 32)
            except Damaged as error:
                yield str(error)
        if len(by_map) < len(self.maps):
            return
        checksums = np.array(list(by_map.values()), np.uint32)
        if done.mark_of(checksums, [m.chunk for m in self.maps.values() if m]) != mark:
            yield "its data are not what was marked done"
        elif not self._bound(checksums):
            yield "its data are those of another block or combo, or its table of checksums is" \
                " damaged"

    def _bound(self, rows: Sums) -> bool:
        """Whether the table of row checksums, where there is one, says that these rows belong
        here."""
        raw = self.folder.read(sums.key(self.group, self.index))
        salts = sums.salts(self.fingerprint, self.maps, self.index)
        table = sums.decode(raw or b"", self.slots, salts)
        return raw is None or (table is not None
                               and bool((table[:, : rows.shape[1]] == rows).all()))

    def _rows(self, name: str, meta: ArrayMeta, rows: int) -> list[int]:
        """The checksums of a map's rows, each compared with its bytes."""
        shard = open_shard(self.folder, f"{self.group}/{name}", self.index, meta)
        there = [slot for slot, offset in enumerate(shard.offsets) if offset >= 0]
        if there[:rows] != list(range(min(rows, self.slots + 1))):
            raise Damaged(f"{shard.key} lacks rows")
        if shard.file.size != sum(shard.lengths[s] for s in there) + index_bytes(self.slots):
            raise Damaged(f"{shard.key} has not the length that its index says")
        if meta.packing != "raw":
            return [row_sum(shard, slot, meta) for slot in there][:rows]
        return [checksum for slots in _runs(shard, there, meta.chunk + CRC)
                for checksum in _read(shard, slots, meta.chunk)][:rows]

    def _strays(self) -> Iterator[str]:
        for name, meta in self.maps.items():
            if meta is None or meta.separator == ".":  # the array's folder was looked at
                continue
            parent, _, own = shard_file(f"{self.group}/{name}", self.index, meta).rpartition("/")
            yield from (f"{parent}/{n} is not part of the store"
                        for n in self.folder.names(parent) if n != own)


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


def _read(shard: OpenShard, slots: list[int], chunk: int) -> Iterator[int]:
    """The checksums of raw rows that follow each other."""
    step = chunk + CRC
    data = memoryview(bytearray(len(slots) * step))
    if shard.file.read_into(shard.offsets[slots[0]], [data]) != len(data):
        raise Damaged(f"{shard.key} is cut off")
    for i, slot in enumerate(slots):
        checksum = data[i * step + chunk : (i + 1) * step]
        if not matches(data[i * step : i * step + chunk], checksum):
            raise wrong(shard.key, slot)
        yield int.from_bytes(checksum, "little")
