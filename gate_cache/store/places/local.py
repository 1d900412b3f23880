"""A store's files in a folder of this machine; each is fsynced before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import monotonic

from gate_cache.core.errors import StoreError
from gate_cache.store.places.disk import bytes_below
from gate_cache.store.places.folders import (
    MOST,
    PARTIAL,
    PATCHING,
    Buffer,
    Folder,
    in_parallel,
    plain_key,
)

LATE = 1.0
"""Seconds in which patches that may be late share an fsync."""
_FLUSHING = Lock()  # of all folders: one that is copied, or goes to a worker, has none
_IOV_MAX = 512
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOTHING = (FileNotFoundError, NotADirectoryError)


class NoFile(OSError):
    """What is in a file's place is none: a folder, a pipe, a device, links in a circle."""


class LocalFile:
    """A file of this machine; `NoFile` where something else is in its place, and is not opened."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise NoFile(errno.EINVAL, "is not a file", str(path))
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NoFile(errno.ELOOP, "is not a file", str(path)) from None
            raise

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        total, left = 0, list(buffers)
        while left:  # again after many buffers or a signal, until the file's end
            count = os.preadv(self._fd, left[:_IOV_MAX], offset + total)
            if not count:
                break
            total += count
            left = _rest(left, count)
        return total

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)  # when Python ends, `os` may be gone already


class _Directory:
    """A folder held open, so that the file system gives its inode number to no other meanwhile."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        info = os.fstat(self._fd)
        self._number = info.st_dev, info.st_ino

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Directory) and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)  # when Python ends, `os` may be gone already


class LocalFolder(Folder):
    """A folder of this machine; its files are fsynced before they get their names."""

    writes = 4  # one is copied while another is fsynced

    def __init__(self, path: Path) -> None:
        self.path = path
        self._late: set[Path] = set()  # patched, and not fsynced yet
        self._flushed = -LATE

    def identity(self) -> object:
        try:
            return _Directory(self.path)
        except _NOTHING:
            return None

    def read(self, key: str) -> bytes | None:
        try:
            file = self.open(key)
        except NoFile:
            return b""
        if file is None or file.size > MOST:
            return b"" if file else None
        data = memoryview(bytearray(file.size))
        return bytes(data[: file.read_into(0, [data])])

    def open(self, key: str, tail: int = 0) -> LocalFile | None:
        """As of `Folder`; `NoFile` where something else is in the file's place."""
        try:
            return LocalFile(self.path / plain_key(key))
        except _NOTHING:
            return None

    def _own(self, key: str) -> Path:
        """Where to write or remove; `StoreError` where a link leads out of the folder."""
        path = self.path / plain_key(key)
        home, parent = os.path.realpath(self.path), os.path.realpath(path.parent)
        if key and os.path.commonpath((home, parent)) != home:
            raise StoreError(f"{path}: a link leads out of the store; nothing is written or removed"
                             " there: put the folder itself in its place")
        return path

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        self.write_many({key: lambda: parts})

    def write_many(self, files: Mapping[str, Callable[[], Sequence[Buffer]]]) -> None:
        """As of `Folder`. A rename is durable once its folder is: all are synced together, since
        the first of them has the file system write down the other renames, too."""
        named = in_parallel(lambda item: self._name(item[0], item[1]()), list(files.items()),
                            self.writes)
        in_parallel(_sync, sorted({folder for folders in named for folder in folders}), self.writes)

    def _name(self, key: str, parts: Sequence[Buffer]) -> list[Path]:
        """Give a file its name, once all of it is on the disk; the folders that changed."""
        path = self._own(key)
        new = _make_folder(path.parent, self.path)
        with _draft(path, parts) as draft:
            os.replace(draft, path)
        return [path.parent, *new]

    def patch(self, key: str, offset: int, data: bytes, size: int, late: bool = False) -> None:
        """Write some bytes of a file in their place, and fsync it; if `late`, once in `LATE`
        seconds with all that waits.

        A file that has a second name, as copies by hard links have, is left to that one.
        """
        path = self._own(key)
        if not _patchable(path, size):
            with PATCHING:  # of several threads one makes it
                if not _patchable(path, size):
                    return self._rewrite(key, offset, data, size)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.pwrite(fd, data, offset)
            if not late:
                os.fsync(fd)
        finally:
            os.close(fd)
        if late:
            with _FLUSHING:
                self._late.add(path)
            if monotonic() - self._flushed > LATE:
                self.flush()

    def flush(self) -> None:
        with _FLUSHING:
            while self._late:
                with contextlib.suppress(FileNotFoundError):
                    _sync(self._late.pop())
            self._flushed = monotonic()

    def create(self, key: str, data: bytes) -> bool:
        """Make a file that is not there yet: a link to another name, which only one can make."""
        path = self._own(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _draft(path, [data]) as draft:
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _create_empty(path, data)
            finally:
                draft.unlink(missing_ok=True)
        return True

    def there(self) -> bool:
        return self.path.exists()

    def names(self, key: str = "") -> list[str]:
        try:
            return sorted(filter(str.isprintable, os.listdir(self.path / plain_key(key))))
        except _NOTHING:
            return []
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return []

    def remove(self, key: str) -> None:
        path = self._own(key)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_partials(self, key: str = "") -> None:
        for folder, _, names in os.walk(self._own(f"{key}/{PARTIAL}").parent):
            for name in names:
                if name.endswith(PARTIAL):
                    Path(folder, name).unlink(missing_ok=True)

    def bytes_below(self, key: str = "") -> int:
        path = self.path / plain_key(key)
        return 0 if key and path.is_symlink() else bytes_below(path)


@contextlib.contextmanager
def _draft(path: Path, parts: Sequence[Buffer]) -> Iterator[Path]:
    """A whole file under another name, on the disk; gone again after an error."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        with open(draft, "xb", buffering=0) as file:
            _write_all(file.fileno(), parts)
            os.fsync(file.fileno())
        yield draft
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _patchable(path: Path, size: int) -> bool:
    """Whether bytes of a file may be written in their place: it is there, whole, and nobody
    else's."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size and found.st_nlink == 1


def _create_empty(path: Path, data: bytes) -> bool:
    """For file systems without links: one process makes the file, and fills it a moment later."""
    try:
        with open(path, "xb", buffering=0) as file:
            _write_all(file.fileno(), [data])
    except FileExistsError:
        return False
    return True


def _write_all(fd: int, parts: Sequence[Buffer]) -> None:
    left = [memoryview(p).cast("B") for p in parts if len(memoryview(p))]
    while left:
        left = _rest(left, os.writev(fd, left[:_IOV_MAX]))


def _rest(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of buffers after `count` bytes went through."""
    for i, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[i + 1:]]
        count -= len(buffer)
    return []


def _make_folder(path: Path, home: Path) -> list[Path]:
    """Make a folder and its parents up to `home`, which exists; the folders with a new entry."""
    missing = []
    while path != home and not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
    return [folder.parent for folder in missing]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
