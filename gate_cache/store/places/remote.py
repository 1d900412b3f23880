"""A store behind a URL, through obstore: S3, Google Cloud Storage, Azure; `web` for web servers.

Whole objects are put, which is atomic, and ranges of them are read. Credentials, region and
endpoint come from the environment. What fails for a while is tried again; what fails for good
becomes one line (`gate_cache.store.places.refusals`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions

from gate_cache.core.errors import RemoteError
from gate_cache.store.format.shards import Damaged
from gate_cache.store.places.cache import KeptFiles
from gate_cache.store.places.folders import MOST, Buffer, File, Folder, plain_key, scattered
from gate_cache.store.places.refusals import remote_errors, unreachable

if TYPE_CHECKING:
    from gate_cache.core.places import Url
    from gate_cache.store.places.cache import Cache

AT_A_TIME = 16
"""Requests of one call under way at once."""
PART = 8 * 2**20
"""Larger objects are put in parts of so many bytes."""
CREATE_TRIES = 3

_ETAG, _TIME = "e:", "t:"


class RemoteFile:
    """An object, of which ranges are read, all of the same version.

    Parameters
    ----------
    meta : obstore's, with size and ETag
    tail : the object's last bytes, where they are read already
    """

    def __init__(self, folder: RemoteFolder, key: str, meta: Any, tail: bytes) -> None:
        self.size: int = meta["size"]
        self._etag = _strong(meta)
        self._folder = folder
        self._key = key
        self._tail = tail

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """As of `File`, by one request; `Damaged` where another object has taken its place."""
        stop = min(offset + sum(map(len, buffers)), self.size)
        if stop <= offset:
            return 0
        start = self.size - len(self._tail)
        raw = memoryview(self._tail)[offset - start : stop - start] if offset >= start else \
            memoryview(self._folder.get_range(self._key, offset, stop, self._etag))
        return scattered(raw, buffers)


class RemoteFolder(Folder):
    """A prefix of a bucket, which obstore's store is of; files that are opened are kept in a cache.
    """

    reads = writes = AT_A_TIME

    def __init__(self, place: Url, store: Any, cache: Cache | None = None) -> None:
        self.place = place
        self._store = store
        self._kept = KeptFiles(cache, place, self.fetch) if cache else None
        self.at_a_time = self._kept.at_a_time if self._kept else AT_A_TIME

    def identity(self) -> object:
        """The URL: a prefix is no thing that can be replaced."""
        return str(self.place)

    def read(self, key: str) -> bytes | None:
        with remote_errors(self.place):
            try:
                answer = obstore.get(self._store, plain_key(key))
                return bytes(answer.bytes()) if answer.meta["size"] <= MOST else b""
            except FileNotFoundError:
                return None

    def open(self, key: str, tail: int = 0) -> File | None:
        return self._kept.open(key) if self._kept else self.open_object(key, tail)

    def forget(self, key: str) -> None:
        if self._kept:
            self._kept.forget(key)

    def open_object(self, key: str, tail: int = 0) -> RemoteFile | None:
        """As `open`, past the cache."""
        with remote_errors(self.place):
            try:
                return self._open(plain_key(key), tail)
            except FileNotFoundError:
                return None

    def _open(self, key: str, tail: int) -> RemoteFile:
        if tail:
            try:
                answer = obstore.get(self._store, key, options={"range": {"suffix": tail}})
                return RemoteFile(self, key, answer.meta, bytes(answer.bytes()))
            except exceptions.BaseError as error:
                if not _no_range(error):
                    raise
        meta = obstore.head(self._store, key)
        raw = b""
        if tail and meta["size"]:
            start = max(meta["size"] - tail, 0)
            raw = bytes(self.get_range(key, start, meta["size"], _strong(meta)))
        return RemoteFile(self, key, meta, raw)

    def get_range(self, key: str, start: int, stop: int, etag: str | None) -> Any:
        """Bytes of one version of an object; `Damaged` where it has another one now, or is gone."""
        with remote_errors(self.place):
            try:
                options: obstore.GetOptions = {"range": (start, stop)}
                if etag:
                    options["if_match"] = etag
                return obstore.get(self._store, key, options=options).bytes()
            except (exceptions.PreconditionError, FileNotFoundError):
                raise Damaged(f"{key} has changed") from None

    def fetch(self, key: str, kept: str, draft: Path) -> str | None:
        """Write an object to a file, unless its version is the one that is kept.

        Parameters
        ----------
        kept : as returned before; empty where nothing is kept
        draft : the file to write

        Returns
        -------
        The object's version; None where there is no object
        """
        options: obstore.GetOptions = {}
        if kept.startswith(_ETAG):
            options["if_none_match"] = kept.removeprefix(_ETAG)
        elif kept.startswith(_TIME):
            options["if_modified_since"] = datetime.fromisoformat(kept.removeprefix(_TIME))
        with remote_errors(self.place):
            try:
                answer: Any = obstore.get(self._store, key, options=options)
            except FileNotFoundError:
                return None
            except exceptions.NotModifiedError:
                return kept
            with draft.open("wb") as file:
                for part in answer.stream(min_chunk_size=PART):
                    file.write(part)
        if draft.stat().st_size != answer.meta["size"]:  # a stream may end early without an error
            raise RemoteError(unreachable(self.place, "an answer was cut off"))
        return version_of(answer.meta)

    def create(self, key: str, data: bytes) -> bool:
        for left in range(CREATE_TRIES)[::-1]:  # obstore does not try these again itself
            with remote_errors(self.place):
                try:
                    obstore.put(self._store, key, data, mode="create", use_multipart=False)
                    return True
                except exceptions.AlreadyExistsError:
                    return self.read(key) == data  # ours, where the answer to it was lost
                except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
                    raise
                except exceptions.BaseError:
                    if not left:
                        raise
        raise AssertionError

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        size = sum(memoryview(p).nbytes for p in parts)
        key = plain_key(key)
        with remote_errors(self.place):
            if size <= PART:
                obstore.put(self._store, key, b"".join(parts), use_multipart=False)
            else:
                obstore.put(self._store, key, iter(parts), chunk_size=PART)
        self.forget(key)

    def there(self) -> bool:
        return bool(self.names())

    def names(self, key: str = "") -> list[str]:
        with remote_errors(self.place):
            listing = obstore.list_with_delimiter(self._store, plain_key(key) or None)
        paths = [*listing["common_prefixes"], *(o["path"] for o in listing["objects"])]
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted(filter(str.isprintable, names))

    def remove(self, key: str) -> None:
        with remote_errors(self.place):
            for batch in obstore.list(self._store, plain_key(key)):
                obstore.delete(self._store, [o["path"] for o in batch])
            with suppress(FileNotFoundError):  # S3 does not mind
                obstore.delete(self._store, key)
        if self._kept:
            self._kept.check_below(key)

    def bytes_below(self, key: str = "") -> int:
        with remote_errors(self.place):
            return sum(o["size"] for batch in obstore.list(self._store, key or None) for o in batch)


def version_of(meta: Any) -> str:
    """What tells an object's versions apart: its ETag, else its time; empty without either."""
    if meta.get("e_tag"):
        return f"{_ETAG}{meta['e_tag']}"
    time = meta.get("last_modified")
    return f"{_TIME}{time.isoformat()}" if time and time.timestamp() > 0 else ""


def _strong(meta: Any) -> str | None:
    etag = meta.get("e_tag")
    return etag if etag and not etag.startswith("W/") else None


def _no_range(error: exceptions.BaseError) -> bool:
    """Whether the server cannot give the end alone: Azure, and any for an empty object."""
    return isinstance(error, exceptions.NotSupportedError) or \
        re.search("non-partial|status code: 416", str(error)) is not None
