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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import filelock

from gate_cache.core.errors import RemoteError, UserError
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.places.folders import PARTIAL, plain_key
from gate_cache.store.places.local import LocalFile

if TYPE_CHECKING:
    from gate_cache.core.places import Url

FOLDER, BYTES = "GATE_CACHE_CACHE", "GATE_CACHE_CACHE_BYTES"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LOCK = ".lock"
_LONGEST = 200
"""Of file names; most file systems allow 255 bytes."""


def cache_here() -> Cache | None:
    """The cache that the environment names, if any (`UserError` where its size is not a number)."""
    home = os.environ.get(FOLDER)
    if not home:
        return None
    text = os.environ.get(BYTES, "")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if text and not match:
        raise UserError(f"{BYTES}: '{text}' is not a number of bytes, such as 200GB")
    bound = int(float(match[1]) * _UNITS[match[2]]) if match else None
    return Cache(Path(home).expanduser(), bound)


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
        """Remove the files not used for longest, until the rest is within the bound."""
        if self.bound is None:
            return
        files = []
        for folder, _, names in os.walk(self.home):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    if name != _LOCK and not name.endswith(PARTIAL):
                        info = os.stat(os.path.join(folder, name))
                        files.append((info.st_mtime_ns, info.st_size, Path(folder, name)))
        over = sum(size for _, size, _ in files) - self.bound
        for _, size, path in sorted(files):
            if over <= 0:
                return
            path.unlink(missing_ok=True)
            over -= size


class KeptFiles:
    """The kept files of one store; `fetch` is as `RemoteFolder.fetch`."""

    at_a_time = 4  # downloads of whole shards: several at once fill a line

    def __init__(self, cache: Cache, place: Url,
                 fetch: Callable[[str, str, Path], str | None]) -> None:
        self._cache = cache
        self._fetch = fetch
        self._home = cache.home.resolve() / hashlib.sha256(str(place).encode()).hexdigest()[:16]
        self._checked: dict[str, Path] = {}
        """Kept files that the server has confirmed to this process, by key."""

    def open(self, key: str) -> LocalFile | None:
        """A file of the store, downloaded if need be; None where there is none."""
        with disk_errors(self._cache.home, option=FOLDER):
            while key in self._checked:
                with contextlib.suppress(FileNotFoundError):
                    return _used(self._checked[key])
                self._checked.pop(key, None)  # removed to make room
            return self._take(key)

    def _take(self, key: str) -> LocalFile | None:
        """Confirm a kept file with the server, or download it."""
        home = self._home / plain_key(key)
        home.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home / _LOCK):  # of several processes, one downloads
            path, file = self._kept(home)
            draft = home / f"{uuid.uuid4().hex[:8]}{PARTIAL}"
            try:
                version = self._fetch(key, unquote(path.name) if path else "", draft)
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
        if path is None or file is None:  # "not modified" of what was never asked for
            raise RemoteError(f"{key}: the server says that it has not changed, but no copy of it"
                              " is kept here; read it again, or tell whoever runs the server")
        self._checked[key] = path
        self._cache.make_room()
        return file

    def _kept(self, home: Path) -> tuple[Path | None, LocalFile | None]:
        """The kept file, and it opened, so that it stays readable if another makes room."""
        for path in list(home.iterdir()):
            if path.name.endswith(PARTIAL):  # of a process that was killed
                path.unlink()
            elif path.name != _LOCK:
                with contextlib.suppress(FileNotFoundError):
                    return path, _used(path)
        return None, None

    def forget(self, key: str) -> None:
        """Download this file anew when it is read next."""
        self._checked.pop(key, None)
        home = self._home / key
        for path in home.iterdir() if home.is_dir() else ():
            if path.name != _LOCK and not path.name.endswith(PARTIAL):
                path.unlink(missing_ok=True)

    def check_below(self, key: str) -> None:
        """Ask the server again for a file, or for all files below a folder."""
        self._checked = {k: path for k, path in self._checked.items()
                         if k != key and not k.startswith(f"{key}/")}


def _used(path: Path) -> LocalFile:
    """Open a kept file, and date its last use, by which room is made."""
    file = LocalFile(path)
    with contextlib.suppress(OSError):
        os.utime(path)
    return file
