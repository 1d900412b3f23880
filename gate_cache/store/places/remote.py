"""A store behind a URL, through obstore: S3, Google Cloud Storage, Azure; `web` for web servers.

Whole objects are put, which is atomic, and ranges of them are read. Credentials, region and
endpoint come from the environment. What fails for a while is tried again; what fails for good
becomes one line (`gate_cache.store.places.refusals`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotModifiedError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from gate_cache.core.errors import RemoteError
from gate_cache.store.format.shards import Damaged
from gate_cache.store.places.folders import MOST, PATCHING, Buffer, patched, plain_key
from gate_cache.store.places.refusals import remote_errors, unreachable

if TYPE_CHECKING:
    from gate_cache.core.places import Url

AT_A_TIME = 16
"""Requests of one call under way at once."""
PART = 8 * 2**20
"""Larger objects are put in parts of so many bytes."""
CREATE_TRIES = 3

_ETAG, _TIME = "e:", "t:"
In = TypeVar("In")
Out = TypeVar("Out")


class RemoteFile:
    """An object, of which ranges are read, all of the same version."""

    def __init__(self, folder: RemoteFolder, key: str, meta: Any, tail: bytes) -> None:
        self.size: int = meta["size"]
        self._etag = _strong(meta)
        self._folder = folder
        self._key = key
        self._tail = tail

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill buffers one after the other from an offset, by one request; bytes read.

        Raises
        ------
        Damaged
            Another object has taken its place.
        """
        stop = min(offset + sum(map(len, buffers)), self.size)
        if stop <= offset:
            return 0
        start = self.size - len(self._tail)
        raw = memoryview(self._tail)[offset - start : stop - start] if offset >= start else \
            memoryview(self._folder.get_range(self._key, offset, stop, self._etag))
        at = 0
        for buffer in buffers:
            part = raw[at : at + len(buffer)]
            buffer[: len(part)] = part
            at += len(part)
        return at


class RemoteFolder:
    """A prefix of a bucket.

    Parameters
    ----------
    store : obstore's, of that prefix
    """

    at_a_time = AT_A_TIME

    def __init__(self, place: Url, store: Any) -> None:
        self.place = place
        self._store = store

    def identity(self) -> object:
        """The URL: a prefix is no thing that can be replaced."""
        return str(self.place)

    def read(self, key: str) -> bytes | None:
        """A whole object, or None where there is none."""
        with remote_errors(self.place):
            try:
                found = obstore.get(self._store, plain_key(key))
                return bytes(found.bytes()) if found.meta["size"] <= MOST else b""
            except FileNotFoundError:
                return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several whole objects."""
        return self._each(self.read, keys)

    def open(self, key: str, tail: int = 0) -> RemoteFile | None:
        """An object for reading ranges: one request for its size and its end."""
        with remote_errors(self.place):
            try:
                return self._open(plain_key(key), tail)
            except FileNotFoundError:
                return None

    def _open(self, key: str, tail: int) -> RemoteFile:
        if tail:
            try:
                found = obstore.get(self._store, key, options={"range": {"suffix": tail}})
                return RemoteFile(self, key, found.meta, bytes(found.bytes()))
            except BaseError as error:
                if not _no_range(error):
                    raise
        meta = obstore.head(self._store, key)
        raw = b""
        if tail and meta["size"]:
            start = max(meta["size"] - tail, 0)
            raw = bytes(self.get_range(key, start, meta["size"], _strong(meta)))
        return RemoteFile(self, key, meta, raw)

    def get_range(self, key: str, start: int, stop: int, etag: str | None) -> Any:
        """Bytes of an object's version."""
        with remote_errors(self.place):
            try:
                options: obstore.GetOptions = {"range": (start, stop)}
                if etag:
                    options["if_match"] = etag
                return obstore.get(self._store, key, options=options).bytes()
            except (PreconditionError, FileNotFoundError):
                raise Damaged(f"{key} has changed") from None

    def fetch(self, key: str, known: str, draft: Path) -> str | None:
        """Write an object to a file, unless it has the version that is known.

        Returns
        -------
        Its version; None where there is none.
        """
        options: obstore.GetOptions = {}
        if known.startswith(_ETAG):
            options["if_none_match"] = known.removeprefix(_ETAG)
        elif known.startswith(_TIME):
            options["if_modified_since"] = datetime.fromisoformat(known.removeprefix(_TIME))
        with remote_errors(self.place):
            try:
                found: Any = obstore.get(self._store, key, options=options)
            except FileNotFoundError:
                return None
            except NotModifiedError:
                return known
            with draft.open("wb") as file:
                for part in found.stream(min_chunk_size=PART):
                    file.write(part)
        if draft.stat().st_size != found.meta["size"]:
            raise RemoteError(unreachable(self.place, "an answer was cut off"))
        return version_of(found.meta)

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def create(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        for left in range(CREATE_TRIES)[::-1]:  # obstore does not try these again itself
            with remote_errors(self.place):
                try:
                    obstore.put(self._store, key, data, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError:
                    return self.read(key) == data  # ours, where the answer to it was lost
                except (PermissionDeniedError, UnauthenticatedError):
                    raise
                except BaseError:
                    if not left:
                        raise
        raise AssertionError

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put a whole object; before that it is the old one."""
        size = sum(memoryview(p).nbytes for p in parts)
        key = plain_key(key)
        with remote_errors(self.place):
            if size <= PART:
                obstore.put(self._store, key, b"".join(parts), use_multipart=False)
            else:
                obstore.put(self._store, key, iter(parts), chunk_size=PART)

    def patch(self, key: str, offset: int, data: bytes, size: int) -> None:
        """Put the object anew with other bytes; no other process may do so meanwhile."""
        with PATCHING:
            self.write(key, [patched(self.read(key), offset, data, size)])

    def write_many(self, files: Mapping[str, Callable[[], Sequence[Buffer]]]) -> None:
        """Put several objects at a time."""
        self._each(lambda item: self.write(item[0], item[1]()), list(files.items()))

    def there(self) -> bool:
        """Whether anything is there."""
        return bool(self.names())

    def names(self, key: str = "") -> list[str]:
        """Names directly below; empty where there is nothing."""
        with remote_errors(self.place):
            found = obstore.list_with_delimiter(self._store, plain_key(key) or None)
        paths = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted(filter(str.isprintable, names))

    def remove(self, key: str) -> None:
        """Remove an object, or all that is below a prefix."""
        with remote_errors(self.place):
            for batch in obstore.list(self._store, plain_key(key)):
                obstore.delete(self._store, [o["path"] for o in batch])
            with suppress(FileNotFoundError):  # S3 does not mind
                obstore.delete(self._store, key)

    def remove_partials(self, key: str = "") -> None:
        """Nothing is ever half written."""

    def bytes_below(self, key: str = "") -> int:
        """Bytes of all objects below."""
        with remote_errors(self.place):
            return sum(o["size"] for batch in obstore.list(self._store, key or None) for o in batch)

    def _each(self, work: Callable[[In], Out], parts: Sequence[In]) -> list[Out]:
        if len(parts) < 2:
            return [work(part) for part in parts]
        with ThreadPoolExecutor(min(self.at_a_time, len(parts))) as pool:
            return list(pool.map(work, parts))


def version_of(meta: Any) -> str:
    """What tells an object's versions apart; empty where nothing does."""
    if meta.get("e_tag"):
        return f"{_ETAG}{meta['e_tag']}"
    time = meta.get("last_modified")
    return f"{_TIME}{time.isoformat()}" if time and time.timestamp() > 0 else ""


def _strong(meta: Any) -> str | None:
    etag = meta.get("e_tag")
    return etag if etag and not etag.startswith("W/") else None


def _no_range(error: BaseError) -> bool:
    """Whether the end alone is not to be had: on Azure, and of empty objects."""
    return isinstance(error, NotSupportedError) or \
        re.search("non-partial|status code: 416", str(error)) is not None
