"""Shards from behind a URL, kept whole in a folder of this machine.

Training reads every row in every epoch: a shard is downloaded once and then read like any file. A
kept shard bears its version in its name (``<cache>/<store>/<key>/<version>``), so it appears whole
or not at all, and any number of processes may share the folder. A process asks the server once
whether a shard is still the same, which costs no download; again only when a row is not what it
should be. Metadata and marks are always read from the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import filelock

from gate_cache.core.errors import UserError
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.places.folders import PARTIAL, Buffer, Folder, plain_key
from gate_cache.store.places.local import LocalFile

if TYPE_CHECKING:
    from gate_cache.store.places.remote import RemoteFolder

FOLDER, BYTES = "GATE_CACHE_CACHE", "GATE_CACHE_CACHE_BYTES"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LOCK = ".lock"
_LONGEST = 200
"""Of file names; most file systems allow 255 bytes."""


def cached(folder: RemoteFolder) -> Folder:
    """The folder with the cache that the environment names, if any.

    Raises
    ------
    UserError
        The bound is no number of bytes.
    """
    home = os.environ.get(FOLDER)
    if not home:
        return folder
    text = os.environ.get(BYTES, "")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if text and not match:
        raise UserError(f"{BYTES}: '{text}' is no number of bytes, such as 200GB")
    bound = int(float(match[1]) * _UNITS[match[2]]) if match else None
    return CachedFolder(folder, Cache(Path(home).expanduser(), bound))


@dataclass(frozen=True)
class Cache:
    """A folder of kept shards.

    Attributes
    ----------
    bound : bytes kept at most; those not opened for longest go first
    """

    home: Path
    bound: int | None = None

    def make_room(self) -> None:
        """Remove what is beyond the bound."""
        if self.bound is None:
            return
        files = []
        for folder, _, names in os.walk(self.home):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    if name != _LOCK and not name.endswith(PARTIAL):
                        found = os.stat(os.path.join(folder, name))
                        files.append((found.st_mtime_ns, found.st_size, Path(folder, name)))
        over = sum(size for _, size, _ in files) - self.bound
        for _, size, path in sorted(files):
            if over <= 0:
                return
            path.unlink(missing_ok=True)
            over -= size


class CachedFolder:
    """A folder behind a URL whose opened files are kept in a cache."""

    at_a_time = 4  # downloads of whole shards: several at once fill a line

    def __init__(self, inner: RemoteFolder, cache: Cache) -> None:
        self._inner = inner
        self._cache = cache
        name = hashlib.sha256(str(inner.place).encode()).hexdigest()[:16]
        self._home = cache.home.resolve() / name
        self._known: dict[str, Path] = {}

    def open(self, key: str, tail: int = 0) -> LocalFile | None:
        """A file for reading ranges, or None where there is none; downloaded where need be."""
        with disk_errors(self._cache.home, option=FOLDER):
            while key in self._known:  # asked for already by this process
                with contextlib.suppress(FileNotFoundError):
                    return _used(self._known[key])
                self._known.pop(key, None)  # removed to make room
            return self._take(key)

    def _take(self, key: str) -> LocalFile | None:
        home = self._home / plain_key(key)
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / _LOCK):
            path, file = self._kept(home)
            draft = home / f"{uuid.uuid4().hex[:8]}{PARTIAL}"
            try:
                version = self._inner.fetch(key, unquote(path.name) if path else "", draft)
                if version is None:
                    self.forget(key)
                    return None
                if draft.exists():
                    self.forget(key)
                    path = home / quote(version or "unknown", safe="")[:_LONGEST]
                    file = _used(draft)
                    draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        assert path is not None and file is not None
        self._known[key] = path
        self._cache.make_room()
        return file

    def _kept(self, home: Path) -> tuple[Path | None, LocalFile | None]:
        """The kept file and what holds it open, so that nobody's making room takes it away."""
        for path in list(home.iterdir()):
            if path.name.endswith(PARTIAL):  # of a process that was killed
                path.unlink()
            elif path.name != _LOCK:
                with contextlib.suppress(FileNotFoundError):
                    return path, _used(path)
        return None, None

    def forget(self, key: str) -> None:
        """Download this file anew when it is wanted next."""
        self._known.pop(key, None)
        home = self._home / key
        for path in home.iterdir() if home.is_dir() else ():
            if path.name != _LOCK and not path.name.endswith(PARTIAL):
                path.unlink(missing_ok=True)

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put a whole file."""
        self._inner.write(key, parts)
        self.forget(key)

    def patch(self, key: str, offset: int, data: bytes, size: int) -> None:
        """Put a file anew with other bytes."""
        self._inner.patch(key, offset, data, size)
        self.forget(key)

    def write_many(self, files: Mapping[str, Callable[[], Sequence[Buffer]]]) -> None:
        """Put several files at a time."""
        self._inner.write_many(files)
        for key in files:
            self.forget(key)

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing of it is known any more."""
        self._inner.remove(key)
        self._known = {k: p for k, p in self._known.items() if k != key and
                       not k.startswith(f"{key}/")}

    def identity(self) -> object:
        """The URL."""
        return self._inner.identity()

    def read(self, key: str) -> bytes | None:
        """A whole file, from the server."""
        return self._inner.read(key)

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several whole files, from the server."""
        return self._inner.read_many(keys)

    def create(self, key: str, data: bytes) -> bool:
        """Put a small file unless there is one; whether it was put."""
        return self._inner.create(key, data)

    def there(self) -> bool:
        """Whether anything is there."""
        return self._inner.there()

    def names(self, key: str = "") -> list[str]:
        """Names directly below."""
        return self._inner.names(key)

    def remove_partials(self, key: str = "") -> None:
        """Nothing is ever half written."""

    def bytes_below(self, key: str = "") -> int:
        """Bytes of all files below."""
        return self._inner.bytes_below(key)


def _used(path: Path) -> LocalFile:
    """Open a kept file, and note that it was."""
    file = LocalFile(path)
    with contextlib.suppress(OSError):
        os.utime(path)
    return file
