"""What the store needs of a place: whole files are written, byte ranges are read.

`Folder` is all that the store needs of a place, so that a place behind a URL can stand in for a
folder of this machine. Keys are relative paths with ``/``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from gate_cache.core.errors import StoreError

Buffer = bytes | memoryview
In = TypeVar("In")
Out = TypeVar("Out")
PARTIAL = ".partial"
"""End of the names of files that are not whole yet; zarr's own end so too."""
MOST = 64 * 2**20
"""Bytes of a file that is read whole, at most: a larger one is none of ours."""


PATCHING = threading.Lock()
"""Held while a file is made of what is patched, by the threads of a process."""


class File(Protocol):
    """An open file, of which ranges are read; closed when the last reference to it goes."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill buffers one after the other from an offset; bytes read (fewer at the end)."""


def in_parallel(work: Callable[[In], Out], parts: Sequence[In], at_once: int) -> list[Out]:
    """What work makes of each part, so many at once."""
    if min(len(parts), at_once) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(at_once, len(parts)), "files") as pool:
        return list(pool.map(work, parts))


def scattered(raw: Buffer, buffers: Sequence[memoryview]) -> int:
    """Fill buffers one after the other; bytes that they took."""
    at = 0
    for buffer in buffers:
        part = raw[at : at + len(buffer)]
        buffer[: len(part)] = part
        at += len(part)
    return at


class Folder(Protocol):
    """A place with files. Errors of the operating system are raised as they are.

    Attributes
    ----------
    at_a_time : reads of rows that are worth having under way at once
    reads, writes : of whole files, likewise
    """

    at_a_time: int = 1
    reads: int = 1
    writes: int = 1

    def identity(self) -> object:
        """What tells this folder from another one that takes its place; None where nothing is."""

    def version(self) -> str:
        """Of all that is read, where the place keeps several; empty where it does not."""
        return ""

    def read(self, key: str) -> bytes | None:
        """A whole file, or None where there is none.

        What no file of a store can be (a folder, a pipe, a device, more than `MOST` bytes) is
        not opened, and read as empty: nothing of a store is.
        """

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several whole files, each as by `read`."""
        return in_parallel(self.read, keys, self.reads)

    def open(self, key: str, tail: int = 0) -> File | None:
        """A file for reading ranges, or None; its last `tail` bytes will be read first."""

    def forget(self, key: str) -> None:
        """Drop what is remembered of a file: it was not what it should be."""
        return

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write a whole file, durably: readers see the old file until it is complete."""

    def patch(self, key: str, offset: int, data: bytes, size: int, late: bool = False) -> None:
        """Write some bytes of a file in their place; one that is not there, or has another size, is
        made of `size` zeros. On a disk other processes may patch other bytes of it meanwhile. What
        may be `late` is seen at once, and outlives the machine soon, or after `flush`."""
        with PATCHING:
            self._rewrite(key, offset, data, size)

    def _rewrite(self, key: str, offset: int, data: bytes, size: int) -> None:
        old = self.read(key)
        raw = old if old is not None and len(old) == size else bytes(size)
        self.write(key, [raw[:offset] + data + raw[offset + len(data):]])

    def create(self, key: str, data: bytes) -> bool:
        """Make a small file; False where there is one already. Of several processes that try at
        once exactly one succeeds; `data` tells them apart."""

    def write_many(self, files: Mapping[str, Callable[[], Sequence[Buffer]]]) -> None:
        """Write several files at a time, each as `write` does, calling what makes their parts as
        late as possible. After an error some may be written, but none is half-written."""
        in_parallel(lambda item: self.write(item[0], item[1]()), list(files.items()), self.writes)

    def flush(self) -> None:
        """Write what is held back; most places hold nothing back."""
        return

    def there(self) -> bool:
        """Whether anything is there."""

    def names(self, key: str = "") -> list[str]:
        """Sorted names of files and folders directly below; empty where there is nothing. Names
        that cannot be printed are left out: no file of a store has one."""

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that is in it."""

    def remove_partials(self, key: str = "") -> None:
        """Remove what killed writes left below; nothing where writes are atomic."""
        return

    def bytes_below(self, key: str = "") -> int:
        """Bytes of all files below."""


def plain_key(key: str) -> str:
    """The key; `StoreError` where it is absolute or climbs out of its folder."""
    if key.startswith("/") or "\0" in key or ".." in key.split("/"):
        raise StoreError(f"{key[:80]!r} leads out of the store; it is not followed")
    return key


def is_number(name: str) -> bool:
    """Whether a name is that of a chunk or a claim: a number as Zarr writes it."""
    return name.isascii() and name.isdecimal() and len(name) < 16 and str(int(name)) == name
