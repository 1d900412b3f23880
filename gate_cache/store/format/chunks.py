"""Rows of shards, read straight into the caller's memory.

A shard's file is opened and its index read once; a row is one ``preadv``, a run of rows too. Zarr's
own way costs a third of a millisecond a row and several copies.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import crc32c

from gate_cache.store.format.openshard import OpenShard, open_shard, shard_file, wrong
from gate_cache.store.format.shards import CRC, Damaged, matches, unpack
from gate_cache.store.places.local import LocalFile

if TYPE_CHECKING:
    from gate_cache.store.format.attrs import ArrayMeta
    from gate_cache.store.places.folders import Folder

Check = Literal["first", "always", "never"]
"""When a row's checksum is compared: when it is first read, at every reading, or not."""
OPEN_FILES = 400
"""Shards held open at most; many systems allow 1,024 files a process."""

_Key = tuple[str, int]


class OpenFiles:
    """The shards of one store that were read last, kept open. For any number of threads."""

    def __init__(self, folder: Folder, most: int = OPEN_FILES) -> None:
        self._folder = folder
        self._most = most
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[_Key, OpenShard] = OrderedDict()
        self._gates: dict[_Key, threading.Lock] = {}

    def get(self, array: Chunks, shard: int) -> OpenShard:
        """A shard's file.

        Raises
        ------
        Damaged
            It is not there, or its index is damaged.
        """
        if os.getpid() != self._pid:
            self._reset()  # forked: another thread of the parent may have held the lock
        key = array.key, shard
        if cached := self._held(key):
            return cached
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:  # of several threads one opens it
            if cached := self._held(key):
                return cached
            opened = self._opened(array, shard)
            with self._lock:
                self._open[key] = opened
                self._gates.pop(key, None)
                if len(self._open) > self._most:
                    self._open.popitem(last=False)  # closed when the last reader lets go of it
        return opened

    def _opened(self, array: Chunks, shard: int) -> OpenShard:
        try:
            opened = open_shard(self._folder, array.key, shard, array.meta)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            with self._lock:  # somebody else needs many files: hold fewer
                self._open.clear()
            opened = open_shard(self._folder, array.key, shard, array.meta)
        opened.sums = array.sums(shard)
        return opened

    def _held(self, key: _Key) -> OpenShard | None:
        with self._lock:
            cached = self._open.get(key)
            if cached is not None:
                self._open.move_to_end(key)
            return cached

    def in_parallel(self, work: Callable[[range], None], parts: Sequence[range], array: Chunks,
             shards: Iterable[int]) -> None:
        """Do all parts, several at once where one may wait for a server; `shards` are theirs."""
        at_once = min(self._folder.at_a_time, len(parts))
        if at_once <= 1 or all(self._is_here((array.key, shard)) for shard in shards):
            for part in parts:
                work(part)
            return
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(work, parts))

    def _is_here(self, key: _Key) -> bool:
        cached = self._open.get(key)
        return cached is not None and isinstance(cached.file, LocalFile)

    def drop(self, array: Chunks, shard: int) -> None:
        """Open this shard anew when it is wanted next: it may have been written again."""
        with self._lock:
            self._open.pop((array.key, shard), None)
        self._folder.forget(shard_file(array.key, shard, array.meta))


class Chunks:
    """The rows of one array.

    Parameters
    ----------
    files : open shards, shared by all arrays of a store
    key : the array's folder
    meta : the array's shape, dtype, block and packing
    sums : what the rows of a shard must be, see `gate_cache.store.format.sums`
    forget : is told of a shard that was not what it should be
    """

    def __init__(self, files: OpenFiles, key: str, meta: ArrayMeta,
                 sums: Callable[[int], list[int] | None] = lambda _: None,
                 forget: Callable[[int], None] = lambda _: None) -> None:
        self.key, self.meta, self.sums = key, meta, sums
        self.block, self.chunk = meta.block, meta.chunk
        self._files, self._forget = files, forget
        self._one = self._raw if meta.packing == "raw" else self._packed

    def read(self, rows: Sequence[int], buffers: Sequence[memoryview], check: Check) -> None:
        """Fill one buffer for each row; rows that follow each other are one system call.

        Parameters
        ----------
        buffers : of bytes, each as long as a row

        Raises
        ------
        Damaged
            A row is missing, cut off or not what was written.
        """
        def fill(run: range) -> None:
            shard, slot = divmod(rows[run.start], self.block)
            self._again(self._run, shard, slot, buffers[run.start : run.stop], check)

        parts = runs(rows, self.block) if rows else []
        self._files.in_parallel(fill, parts, self, (rows[run.start] // self.block for run in parts))

    def read_row(self, row: int, buffer: memoryview, check: Check) -> None:
        """Fill a buffer with one row: `read`, for the fewest steps."""
        shard, slot = divmod(row, self.block)
        self._again(self._one, shard, slot, buffer, check)

    def _again(self, read: Callable[[int, int, Any, Check], None], shard: int, slot: int,
               into: Any, check: Check) -> None:
        """Read, and once more where the shard was written again since it was opened."""
        try:
            read(shard, slot, into, check)
        except Damaged:
            self._forget(shard)
            self._files.drop(self, shard)
            read(shard, slot, into, check)

    def _raw(self, shard: int, slot: int, buffer: memoryview, check: Check) -> None:
        opened = self._files.get(self, shard)
        offset = opened.offsets[slot]
        if offset < 0:
            raise Damaged(f"{opened.key} lacks row {slot} of the shard")
        if check == "never" or (check == "first" and slot in opened.checked):
            if opened.file.read_into(offset, (buffer,)) != self.chunk:
                raise Damaged(f"{opened.key} is cut off")
            return
        checksum = bytearray(CRC)
        if opened.file.read_into(offset, (buffer, memoryview(checksum))) != self.chunk + CRC:
            raise Damaged(f"{opened.key} is cut off")
        _check(opened, slot, buffer, checksum)

    def _packed(self, shard: int, slot: int, buffer: memoryview, check: Check) -> None:
        opened = self._files.get(self, shard)
        self._unpack(opened, slot, opened.chunk(slot), buffer, check)

    def _unpack(self, opened: OpenShard, slot: int, chunk: memoryview, buffer: memoryview,
                check: Check) -> None:
        checks = check == "always" or (check == "first" and slot not in opened.checked)
        if checks:
            opened.check(slot, chunk)
        unpack(chunk[:-CRC], buffer, self.meta.packing, self.meta.dtype)
        if checks:
            if opened.sums:
                opened.is_row(slot, crc32c.crc32c(buffer))
            opened.checked.add(slot)

    def _run(self, shard: int, first: int, buffers: Sequence[memoryview], check: Check) -> None:
        """Rows that follow each other, in one call where they lie so in the file."""
        opened = self._files.get(self, shard)
        slots = range(first, first + len(buffers))
        offsets, lengths = (some[first : slots.stop] for some in (opened.offsets, opened.lengths))
        if len(slots) == 1 or offsets != list(accumulate(lengths[:-1], initial=offsets[0])):
            for slot, buffer in zip(slots, buffers, strict=True):
                self._one(shard, slot, buffer, check)
            return
        if self.meta.packing != "raw":  # all of them by one read: behind a URL, by one request
            data = opened.bytes(offsets[0], sum(lengths))
            for slot, offset, buffer in zip(slots, offsets, buffers, strict=True):
                chunk = data[offset - offsets[0] :][: opened.lengths[slot]]
                self._unpack(opened, slot, chunk, buffer, check)
            return
        sums = [bytearray(CRC) for _ in slots]
        parts = [p for b, s in zip(buffers, sums, strict=True) for p in (b, memoryview(s))]
        if opened.file.read_into(offsets[0], parts) != sum(lengths):
            raise Damaged(f"{opened.key} is cut off")
        if check == "always" or (check == "first" and not opened.checked.issuperset(slots)):
            for slot, buffer, checksum in zip(slots, buffers, sums, strict=True):
                _check(opened, slot, buffer, checksum)


def _check(shard: OpenShard, slot: int, row: memoryview, checksum: bytearray) -> None:
    """Compare a raw row with its checksum, and that with the row's place."""
    if not matches(row, checksum):
        raise wrong(shard.key, slot)
    shard.is_row(slot, int.from_bytes(checksum, "little"))
    shard.checked.add(slot)


def runs(rows: Sequence[int], block: int) -> list[range]:
    """Positions in `rows` of rows that follow each other within one shard."""
    starts = [i for i, row in enumerate(rows)
              if not i or row != rows[i - 1] + 1 or row % block == 0]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]
