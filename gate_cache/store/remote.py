"""A store behind a URL, through obstore: S3, Google Cloud Storage, Azure; `web` for web servers.

Whole objects are put, which is atomic, and ranges of them are read. Credentials, region and endpoint
come from the environment, and are never said again. What fails for a while is tried again; what
fails for good becomes one line.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

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

from gate_cache.errors import RemoteError, UserError
from gate_cache.places import Url
from gate_cache.store.folders import Buffer, Folder
from gate_cache.store.shards import Damaged

AT_A_TIME = 16
"""Requests of one call under way at once."""
PART = 8 * 2**20
"""Larger objects are put in parts of so many bytes."""
CLIENT: dict[str, Any] = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "15m"}
RETRY: dict[str, Any] = {
    "max_retries": 8, "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5)}}

_ETAG, _TIME = "e:", "t:"
_started: int | None = None
"""The process whose threads make the requests; they do not follow a fork."""
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

    def zarr(self) -> Any:
        """The same place as zarr wants it."""
        from zarr.storage import ObjectStore

        _same_process(self.place)
        return ObjectStore(self._store)

    def read(self, key: str) -> bytes | None:
        """A whole object, or None where there is none."""
        with remote_errors(self.place):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Several whole objects."""
        return self._each(self.read, keys)

    def open(self, key: str, tail: int = 0) -> RemoteFile | None:
        """An object for reading ranges: one request for its size and its end."""
        with remote_errors(self.place):
            try:
                return self._open(key, tail)
            except FileNotFoundError:
                return None

    def _open(self, key: str, tail: int) -> RemoteFile:
        if tail:
            try:
                found = obstore.get(self._store, key, options={"range": {"suffix": tail}})
                return RemoteFile(self, key, found.meta, bytes(found.bytes()))
            except (NotSupportedError, BaseError) as error:  # Azure's answer, and to empty objects
                if not isinstance(error, NotSupportedError) and not _no_range(error):
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
                return obstore.get(self._store, key, options={
                    "range": (start, stop), "if_match": etag}).bytes()
            except (PreconditionError, FileNotFoundError):
                raise Damaged(f"{key} has changed") from None

    def fetch(self, key: str, known: str, draft: Path) -> str | None:
        """Write an object to a file, unless it has the version that is known.

        Returns
        -------
        Its version; None where there is none.
        """
        options: dict[str, Any] = {}
        if known.startswith(_ETAG):
            options["if_none_match"] = known.removeprefix(_ETAG)
        elif known:
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
            raise RemoteError(_unreachable(self.place, "an answer was cut off"))
        return version_of(found.meta)

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def create(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        with remote_errors(self.place):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return self.read(key) == data  # ours, where the answer to it was lost
        return True

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put a whole object; before that it is the old one."""
        size = sum(memoryview(p).nbytes for p in parts)
        with remote_errors(self.place):
            if size <= PART:
                obstore.put(self._store, key, b"".join(parts), use_multipart=False)
            else:
                obstore.put(self._store, key, iter(parts), chunk_size=PART)

    def settle(self, key: str) -> None:
        """What was put is there to stay."""

    def there(self) -> bool:
        """Whether anything is there."""
        return bool(self.names())

    def names(self, key: str = "") -> list[str]:
        """Names directly below; empty where there is nothing."""
        with remote_errors(self.place):
            found = obstore.list_with_delimiter(self._store, key or None)
        paths = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def remove(self, key: str) -> None:
        """Remove an object, or all that is below a prefix."""
        with remote_errors(self.place):
            paths = [o["path"] for batch in obstore.list(self._store, key) for o in batch]
            obstore.delete(self._store, [key, *paths])

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


def open_remote(place: Url) -> Folder:
    """The folder behind a URL, with a cache of this machine where one is wanted."""
    from gate_cache.store.cache import cached
    from gate_cache.store.web import WebFolder

    made: Any = obstore.store.HTTPStore if place.web else obstore.store
    options = {**CLIENT, "allow_http": _plain_http(place)}
    with remote_errors(place):
        store = made.from_url(str(place), client_options=options, retry_config=RETRY)
    return cached((WebFolder if place.web else RemoteFolder)(place, store))


def _plain_http(place: Url) -> bool:
    """Whether the user's own endpoint is without TLS."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT",
             "AZURE_STORAGE_ENDPOINT")
    return place.scheme == "http" or any(
        os.environ.get(name, "").startswith("http://") for name in names)


def version_of(meta: Any) -> str:
    """What tells an object's versions apart; empty where nothing does."""
    if meta.get("e_tag"):
        return f"{_ETAG}{meta['e_tag']}"
    time = meta.get("last_modified")
    return f"{_TIME}{time.isoformat()}" if time and time.timestamp() > 0 else ""


def _strong(meta: Any) -> str | None:
    etag = meta.get("e_tag")
    return etag if etag and not etag.startswith("W/") else None


# ------------------------------------------------------------------------------------- errors


@contextmanager
def remote_errors(place: Url) -> Iterator[None]:
    """Turn what obstore raises into a `RemoteError`, without what it says of its settings."""
    _same_process(place)
    try:
        yield
    except FileNotFoundError:
        raise RemoteError(f"{place}: there is no such bucket; make it, or look at the name") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise RemoteError(_denied(place)) from None
    except BaseError as error:
        raise RemoteError(_said(place, str(error))) from None
    except (ValueError, OSError) as error:
        if isinstance(error, UserError | RemoteError | Damaged) or not _of_obstore(error):
            raise
        raise RemoteError(_said(place, str(error))) from None


def _of_obstore(error: BaseException) -> bool:
    """Raised by obstore itself: the innermost frame that is Python's called it."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return bool(trace and "obstore" in Path(trace.tb_frame.f_code.co_filename).parts)


def _said(place: Url, text: str) -> str:
    status = re.search(r"status code: (\d{3})", text)
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return f"{place}: there is no such bucket; make it, or look at the name"
    if (status and status[1] in ("401", "403")) or "169.254" in text or "redential" in text:
        return _denied(place)
    if status and status[1].startswith("5"):
        return _unreachable(place, f"the server answers {status[1]}")
    if status:
        return f"{place}: the server refuses this ({status[1]}); look at the URL, and at region and" \
            " endpoint in the environment"
    if re.search("error sending request|body error|timed out|timeout|onnect", text):
        return _unreachable(place, "no answer, or it broke off")
    return f"{place}: {text.splitlines()[0][:200]}"


def _unreachable(place: Url, why: str) -> str:
    return f"{place}: cannot be reached ({why}); what is done so far is kept, run the same command" \
        " again"


def _denied(place: Url) -> str:
    names = {"s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
             "gs": "GOOGLE_APPLICATION_CREDENTIALS"}.get(place.scheme.removesuffix("a"))
    names = names or "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY"
    return f"{place}: no permission; " + (
        "only what anybody may read can be read there" if place.web else
        f"give credentials in the environment ({names} …)")


def _no_range(error: BaseError) -> bool:
    return "non-partial" in str(error) or "416" in str(error)


def _same_process(place: Url) -> None:
    """Refuse to wait forever for threads that stayed in another process."""
    global _started
    with _starting:
        _started = _started or os.getpid()
    if _started != os.getpid():
        raise RemoteError(f"{place}: cannot be read from a forked process; start workers by 'spawn'"
                          " (multiprocessing_context of a DataLoader)")


_starting = threading.Lock()
