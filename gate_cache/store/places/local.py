"""A store's files in a folder of this machine; each is fsynced before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gate_cache.core.errors import StoreError
from gate_cache.store.places.disk import bytes_below
from gate_cache.store.places.folders import MOST, PARTIAL, PATCHING, Buffer, patched, plain_key

WRITERS = 4
"""Files that one `write_many` writes at a time."""

_IOV_MAX = 512
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NOTHING = (errno.ENOENT, errno.ENOTDIR)


class NoFile(OSError):
    """What is in a file's place is none: a folder, a pipe, a device, links in a circle."""


class LocalFile:
    """A file of this machine; anything else in its place is not opened.

    Raises
    ------
    NoFile
        It is no file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise NoFile(errno.EINVAL, "is no file", str(path))
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NoFile(errno.ELOOP, "is no file", str(path)) from None
            raise

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill buffers one after the other from an offset; bytes read (fewer at the end)."""
        wanted = sum(map(len, buffers))
        total = os.preadv(self._fd, buffers[:_IOV_MAX], offset)
        while 0 < total < wanted:  # many buffers, a signal, or the file's end
            left = _rest(buffers, total)
            count = os.preadv(self._fd, left[:_IOV_MAX], offset + total)
            if not count:
                break
            total += count
        return total

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Directory:
    """A folder that is held open: its number on the disk is given to no other one meanwhile."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        self._number = found.st_dev, found.st_ino

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Directory) and self._number == other._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class LocalFolder:
    """A folder of this machine; its files are fsynced before they get their names."""

    at_a_time = 1

    def __init__(self, path: Path) -> None:
        self.path = path

    def identity(self) -> object:
        """The folder, held open for as long as it is compared."""
        try:
            return _Directory(self.path)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise

    def read(self, key: str) -> bytes | None:
        """A whole file, or None where there is none; empty where it can be no file of a store."""
        try:
            file = self.open(key)
        except NoFile:
            return b""
        if file is None or file.size > MOST:
            return b"" if file else None
        data = memoryview(bytearray(file.size))
        return bytes(data[: file.read_into(0, [data])])

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several whole files."""
        return [self.read(key) for key in keys]

    def open(self, key: str, tail: int = 0) -> LocalFile | None:
        """A file for reading ranges, or None where there is none.

        Raises
        ------
        NoFile
            It is something else.
        """
        try:
            return LocalFile(self.path / plain_key(key))
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise

    def _own(self, key: str) -> Path:
        """Where to write or remove: never through a link that leads out of the folder.

        Raises
        ------
        StoreError
            It would be somewhere else.
        """
        path = self.path / plain_key(key)
        home, parent = os.path.realpath(self.path), os.path.realpath(path.parent)
        if key and os.path.commonpath((home, parent)) != home:
            raise StoreError(f"{path}: a link leads out of the store; nothing is written or removed"
                             " there: put the folder itself in its place")
        return path

    def forget(self, key: str) -> None:
        """Nothing is known of a file but what the system says."""

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write a whole file: under another name, fsync, rename, fsync of the folder."""
        path = self._own(key)
        new = _make_folder(path.parent, self.path)
        with _draft(path, parts) as draft:
            os.replace(draft, path)
        for folder in (path.parent, *new):
            _sync(folder)

    def patch(self, key: str, offset: int, data: bytes, size: int) -> None:
        """Write some bytes of a file in their place, and fsync it.

        A file that has a second name, as copies by hard links have, is left to that one.
        """
        path = self._own(key)
        if not _patchable(path, size):
            with PATCHING:  # of several threads one makes it
                if not _patchable(path, size):
                    return self.write(key, [patched(self.read(key), offset, data, size)])
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.pwrite(fd, data, offset)
            os.fsync(fd)
        finally:
            os.close(fd)

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

    def write_many(self, files: Mapping[str, Callable[[], Sequence[Buffer]]]) -> None:
        """Write several files at a time: one is copied while another waits for the disk."""
        with ThreadPoolExecutor(WRITERS, "write") as pool:
            tasks = [pool.submit(self._write_later, *item) for item in files.items()]
        for task in tasks:
            task.result()

    def _write_later(self, key: str, parts: Callable[[], Sequence[Buffer]]) -> None:
        self.write(key, parts())

    def there(self) -> bool:
        """Whether anything is there."""
        return self.path.exists()

    def names(self, key: str = "") -> list[str]:
        """Names directly below that can be printed; empty where there is nothing."""
        try:
            return sorted(filter(str.isprintable, os.listdir(self.path / plain_key(key))))
        except OSError as error:
            if error.errno in (*_NOTHING, errno.ELOOP):
                return []
            raise

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that is in it; of a link the link."""
        path = self._own(key)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_partials(self, key: str = "") -> None:
        """Remove what killed writes left below."""
        for folder, _, names in os.walk(self._own(f"{key}/{PARTIAL}").parent):
            for name in names:
                if name.endswith(PARTIAL):
                    Path(folder, name).unlink(missing_ok=True)

    def bytes_below(self, key: str = "") -> int:
        """Bytes of all files below; links are not followed."""
        path = self.path / plain_key(key)
        return 0 if key and path.is_symlink() else bytes_below(path)


@contextlib.contextmanager
def _draft(path: Path, parts: Sequence[Buffer]) -> Iterator[Path]:
    """A whole file under another name, on the disk; gone again after an error."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _write_all(fd, parts)
            os.fsync(fd)
        finally:
            os.close(fd)
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
    """For file systems without links: made by one, filled a moment later."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(fd, [data])
    finally:
        os.close(fd)
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
    """Make a folder with all above it, up to a home that must be there; the folders that have a new
    entry now."""
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
