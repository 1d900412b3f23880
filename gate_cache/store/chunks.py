"""Rows of uncompressed shards, read straight into the caller's memory.

A shard's file is opened and its index read once; a row is one ``preadv``, a run of rows too. Zarr's
own way costs a third of a millisecond a row and several copies.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from gate_cache.store.folders import File, Folder, LocalFile
from gate_cache.store.shards import CRC, EMPTY, Damaged, index_bytes, matches, read_index

Check = Literal["first", "always", "never"]
"""When a row's checksum is compared: when it is first read, at every reading, or not."""
OPEN_FILES = 400
"""Shards held open at most; many systems allow 1,024 files a process."""


@dataclass
class OpenShard:
    """A shard's file with its index.

    Attributes
    ----------
    offsets : of each slot's chunk, -1 where there is none
    checked : slots whose checksum was compared
    """

    file: File
    offsets: list[int]
    checked: set[int]


class OpenFiles:
    """The shards of one store that were read last, kept open. For any number of threads."""

    def __init__(self, folder: Folder, most: int = OPEN_FILES) -> None:
        self._folder = folder
        self._most = most
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._gates: dict[str, threading.Lock] = {}

    def get(self, key: str, slots: int, chunk: int) -> OpenShard:
        """A shard's file.

        Parameters
        ----------
        key : of the file
        slots, chunk : rows of a shard, bytes of a row

        Raises
        ------
        Damaged
            It is not there, or its index is damaged.
        """
        if os.getpid() != self._pid:
            self._reset()  # forked: another thread of the parent may have held the lock
        if found := self._held(key):
            return found
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:  # of several threads one opens it
            if found := self._held(key):
                return found
            opened = _open(self._folder, key, slots, chunk)
            with self._lock:
                self._open[key] = opened
                self._gates.pop(key, None)
                if len(self._open) > self._most:
                    self._open.popitem(last=False)  # closed when the last reader lets go of it
        return opened

    def _is_here(self, key: str) -> bool:
        found = self._open.get(key)
        return found is not None and isinstance(found.file, LocalFile)

    def _held(self, key: str) -> OpenShard | None:
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
            return found

    def each(self, work: Callable[[range], None], parts: Sequence[range],
             keys: Iterable[str]) -> None:
        """Do all parts, several at once where one may wait for a server.

        Parameters
        ----------
        keys : of the shard of each part
        """
        at_once = min(self._folder.at_a_time, len(parts))
        if at_once <= 1 or all(map(self._is_here, keys)):
            for part in parts:
                work(part)
            return
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(work, parts))

    def drop(self, key: str) -> None:
        """Open this shard anew when it is wanted next: it may have been written again."""
        with self._lock:
            self._open.pop(key, None)
        self._folder.forget(key)


class Chunks:
    """The rows of one array.

    Parameters
    ----------
    key : the array's folder
    block : rows of a shard
    chunk : bytes of a row
    ndim : of the array, which the names of its files depend on
    """

    def __init__(self, files: OpenFiles, key: str, block: int, chunk: int, ndim: int = 4) -> None:
        self._files = files
        self._key = key
        self._block = block
        self._chunk = chunk
        self._tail = "/0" * (ndim - 1)

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
        def key_of(run: range) -> str:
            return f"{self._key}/c/{rows[run.start] // self._block}{self._tail}"

        def fill(run: range) -> None:
            key, first = key_of(run), rows[run.start] % self._block
            into = buffers[run.start : run.stop]
            try:
                self._run(key, first, into, check)
            except Damaged:
                self._files.drop(key)  # written again since it was opened, perhaps
                self._run(key, first, into, check)

        parts = runs(rows, self._block)
        self._files.each(fill, parts, map(key_of, parts))

    def _run(self, key: str, first: int, buffers: Sequence[memoryview], check: Check) -> None:
        shard = self._files.get(key, self._block, self._chunk)
        slots = range(first, first + len(buffers))
        offset, step = shard.offsets[first], self._chunk + CRC
        if [shard.offsets[s] for s in slots] != [offset + i * step for i in range(len(slots))] \
                or offset < 0:
            self._scattered(shard, key, slots, buffers, check)
            return
        wanted = check == "always" or (check == "first" and not shard.checked.issuperset(slots))
        sums = [memoryview(bytearray(CRC)) for _ in slots] if wanted or len(slots) > 1 else []
        parts = [p for pair in zip(buffers, sums, strict=True) for p in pair] if sums else buffers
        if shard.file.read_into(offset, parts) != sum(map(len, parts)):
            raise Damaged(f"{key} is cut off")
        if wanted:
            for slot, buffer, checksum in zip(slots, buffers, sums, strict=True):
                if not matches(buffer, checksum):
                    raise Damaged(f"{key}: row {slot} of the shard has a wrong checksum")
            shard.checked.update(slots)

    def _scattered(self, shard: OpenShard, key: str, slots: range,
                   buffers: Sequence[memoryview], check: Check) -> None:
        """Rows in another order than ours, as another writer may leave them; or missing ones."""
        for slot, buffer in zip(slots, buffers, strict=True):
            if shard.offsets[slot] < 0:
                raise Damaged(f"{key} lacks row {slot} of the shard")
            if len(slots) > 1:
                self._run(key, slot, [buffer], check)


def runs(rows: Sequence[int], block: int) -> list[range]:
    """Positions in `rows` of rows that follow each other within one shard."""
    starts = [i for i, row in enumerate(rows)
              if not i or row != rows[i - 1] + 1 or row % block == 0]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]


def _open(folder: Folder, key: str, slots: int, chunk: int) -> OpenShard:
    length = index_bytes(slots)
    file = folder.open(key, length)
    if file is None:
        raise Damaged(f"{key} is missing")
    size = file.size
    raw = bytearray(length)
    if size < length or file.read_into(size - length, [memoryview(raw)]) != length:
        raise Damaged(f"{key} is cut off")
    try:
        index = read_index(raw, slots, size, chunk)
    except Damaged as error:
        raise Damaged(f"{key}: {error}") from None
    return OpenShard(file, [-1 if o == EMPTY else o for o in index[:, 0].tolist()], set())
