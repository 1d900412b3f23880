"""Rows of uncompressed shards, read straight into the caller's memory.

A shard's file is opened and its index read once; a row is one ``preadv``, a run of rows too. Zarr's
own way costs a third of a millisecond a row and several copies.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gate_cache.store.folders import File, Folder
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
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                return found
        opened = open_shard(self._folder, key, slots, chunk)
        with self._lock:
            self._open[key] = opened
            if len(self._open) > self._most:
                self._open.popitem(last=False)  # closed when the last reader lets go of it
        return opened

    def drop(self, key: str) -> None:
        """Open this shard anew when it is wanted next: it may have been written again."""
        with self._lock:
            self._open.pop(key, None)


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
        start = 0
        while start < len(rows):
            stop = start + 1
            shard = rows[start] // self._block
            while stop < len(rows) and rows[stop] == rows[stop - 1] + 1 \
                    and rows[stop] // self._block == shard:
                stop += 1
            key = f"{self._key}/c/{shard}{self._tail}"
            first = rows[start] - shard * self._block
            try:
                self._run(key, first, buffers[start:stop], check)
            except Damaged:
                self._files.drop(key)  # written again since it was opened, perhaps
                self._run(key, first, buffers[start:stop], check)
            start = stop

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


def open_shard(folder: Folder, key: str, slots: int, chunk: int) -> OpenShard:
    """A shard's file with its index.

    Raises
    ------
    Damaged
        It is not there, or its index is damaged.
    """
    file = folder.open(key)
    if file is None:
        raise Damaged(f"{key} is missing")
    size, length = file.size, index_bytes(slots)
    raw = bytearray(length)
    if size < length or file.read_into(size - length, [memoryview(raw)]) != length:
        raise Damaged(f"{key} is cut off")
    try:
        index = read_index(raw, slots, size, chunk)
    except Damaged as error:
        raise Damaged(f"{key}: {error}") from None
    return OpenShard(file, [-1 if o == EMPTY else o for o in index[:, 0].tolist()], set())
