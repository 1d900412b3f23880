"""A data set's repository on the Hugging Face Hub:
``hf://datasets/<owner>/<name>[@<revision>][/<folder>]``.

Every change of a repository is a commit, of which only so many are taken an hour: so what is
written is held back until `flush`, or until there is much of it. Large files are sent at once all
the same, and are not part of the repository before their commit; one that is sent again is not. A
commit names the one before it, so of two writers the second one is refused. What is read is of one
commit, found once, whatever others commit meanwhile: the revision's last one, and then our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from gate_cache.core.errors import RemoteError, UserError, counted
from gate_cache.store.places.folders import MOST, Buffer, Folder, plain_key, scattered

if TYPE_CHECKING:
    from gate_cache.core.places import Url

FILES = 1000
"""Of a commit, at most."""
LARGE = 2**20
"""Bytes of a file that is sent before its commit."""
_NO_FILE = (FileNotFoundError, IsADirectoryError)


class HubFile:
    """A file of a repository, of which ranges are read."""

    def __init__(self, folder: HubFolder, path: str, size: int) -> None:
        self._folder, self._path, self.size = folder, path, size

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """As of `File`, by one request."""
        stop = min(offset + sum(map(len, buffers)), self.size)
        return scattered(memoryview(self._folder.get_range(self._path, offset, stop)), buffers) \
            if stop > offset else 0


class HubFolder(Folder):
    """A repository, or a folder of one.

    Raises
    ------
    UserError
        The URL names none.
    """

    at_a_time = reads = 16
    writes = 4

    def __init__(self, place: Url) -> None:
        kind, *rest = str(place).removeprefix("hf://").split("/")
        name, at, self._revision = rest[1].partition("@") if len(rest) > 1 else ("", "", "")
        if kind != "datasets" or not name or bool(at) != bool(self._revision):
            raise UserError(f"{place}: write hf://datasets/<owner>/<name>, perhaps with a folder;"
                            " or <name>@<commit>")
        self.place, self._repo, self._start = place, f"{rest[0]}/{name}", "/".join(rest[2:])
        self._api = HfApi()
        self._files = HfFileSystem(skip_instance_cache=True)  # its listings are this folder's alone
        self._lock = RLock()
        self._waiting: dict[str, CommitOperationAdd] = {}
        self._small: dict[str, bytes] = {}
        """Files that were read or written: a store's documents and marks are read again and again.
        """
        self._head: str | None = None

    def _path(self, key: str) -> str:
        """Of a file in the repository."""
        return "/".join(filter(None, [self._start, plain_key(key)]))

    def version(self) -> str:
        """The commit that is read; `FileNotFoundError` where there is no repository."""
        with self._lock:
            if self._head is None:
                try:
                    self._head = self._api.repo_info(self._repo, repo_type="dataset",
                                                     revision=self._revision or None).sha
                except RevisionNotFoundError:
                    raise RemoteError(f"{self.place}: has no such revision; give a commit or a"
                                      " branch that it has") from None
                except RepositoryNotFoundError:
                    raise FileNotFoundError(str(self.place)) from None
            return str(self._head)

    def _full(self, key: str) -> str:
        """A file as it is at the commit that is read."""
        return "/".join(filter(None, [f"datasets/{self._repo}@{self.version()}", self._path(key)]))

    def identity(self) -> object:
        """The URL."""
        return str(self.place)

    def read(self, key: str) -> bytes | None:
        if (known := self._small.get(self._path(key))) is not None:
            return known  # nobody else's commit goes before one of ours
        file = self.open(key)
        if file is None or file.size > MOST:
            return b"" if file else None
        data = memoryview(bytearray(file.size))
        raw = bytes(data[: file.read_into(0, [data])])
        if len(raw) < LARGE:
            self._small[self._path(key)] = raw
        return raw

    def open(self, key: str, tail: int = 0) -> HubFile | None:
        if self._path(key) in self._waiting:
            self.flush()
        with hub_errors(self.place):
            try:
                path = self._full(key)
                found = self._files.info(path)
            except _NO_FILE:
                return None
        return HubFile(self, path, found["size"]) if found["type"] == "file" else None

    def get_range(self, path: str, start: int, stop: int) -> bytes:
        """Some bytes of a file, and no more of it."""
        with hub_errors(self.place):
            return bytes(self._files.cat_file(path, start, stop, cache_type="none"))

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        data, path = b"".join(parts), self._path(key)
        addition = CommitOperationAdd(path, data)
        with hub_errors(self.place):
            self._begin()
            if len(data) >= LARGE:
                self._api.preupload_lfs_files(self._repo, [addition], repo_type="dataset")
        with self._lock:
            self._waiting[path] = addition
            self._small.pop(path, None)
            if len(data) < LARGE:
                self._small[path] = data
            held = sum(len(a.path_or_fileobj) for a in self._waiting.values()
                       if isinstance(a.path_or_fileobj, bytes))  # what is sent is forgotten
            if len(self._waiting) >= FILES or held > MOST:
                self.flush()

    def create(self, key: str, data: bytes) -> bool:
        if self.read(key) is not None:
            return False
        self.write(key, [data])
        return True

    def _begin(self) -> None:
        """Make the repository where there is none, and find what the next commit follows."""
        if self._revision:
            raise UserError(f"{self.place}: a revision is only read; leave out '@{self._revision}'")
        with self._lock:
            if self._head is None:
                disable_progress_bars()  # ours counts what they count
                self._api.create_repo(self._repo, repo_type="dataset", private=True, exist_ok=True)
                self.version()

    def flush(self) -> None:
        with self._lock, hub_errors(self.place):
            if self._waiting:
                commit = self._api.create_commit(
                    self._repo, list(self._waiting.values()), repo_type="dataset",
                    commit_message=f"Add {counted(len(self._waiting), 'file')}",
                    parent_commit=self._head)
                self._head = commit.oid
                self._waiting = {}

    def there(self) -> bool:
        return bool(self.names())

    def names(self, key: str = "") -> list[str]:
        start = f"{self._path(key)}/".lstrip("/")
        with self._lock:
            found = {path.removeprefix(start).partition("/")[0] for path in self._waiting
                     if path.startswith(start)}
        with hub_errors(self.place), suppress(*_NO_FILE, NotADirectoryError):
            full = self._full(key)
            found.update(path.rpartition("/")[2]
                         for path in self._files.ls(full, detail=False) if path != full)
        return sorted(filter(str.isprintable, found))

    def remove(self, key: str) -> None:
        self.flush()
        self._small.clear()
        with hub_errors(self.place), suppress(*_NO_FILE):
            if self._files.exists(self._full(key)):
                self._files.rm(f"datasets/{self._repo}/{self._path(key)}", recursive=True)
                self._head = None

    def bytes_below(self, key: str = "") -> int:
        self.flush()
        with hub_errors(self.place):
            try:
                return int(self._files.du(self._full(key)))
            except _NO_FILE:
                return 0


@contextmanager
def hub_errors(place: Url) -> Iterator[None]:
    """Turn what the Hub's client raises into a `RemoteError`."""
    try:
        yield
    except (*_NO_FILE, NotADirectoryError, RemoteError):
        raise
    except (RepositoryNotFoundError, GatedRepoError):
        raise RemoteError(f"{place}: {_DENIED}") from None
    except HfHubHTTPError as error:
        status: Any = getattr(error.response, "status_code", "no status")
        why = _DENIED if status in (401, 403) else \
            "somebody else has changed it meanwhile; run the same command again" \
            if status in (409, 412) else \
            f"the Hub answers {status}; what is done so far is kept, run the same command again"
        raise RemoteError(f"{place}: {why}") from None
    except (HTTPError, OSError, AttributeError, RuntimeError) as error:
        if not isinstance(error, HTTPError | OSError) and not _closed(error):
            raise
        raise RemoteError(f"{place}: the Hub cannot be reached ({type(error).__name__}); what is"
                          " done so far is kept, run the same command again") from None


def _closed(error: Exception) -> bool:
    """Whether the session is gone: where a connection fails, the client closes the one that its
    other threads use, which then find None in its place, or a closed one."""
    return getattr(error, "obj", error) is None or "client has been closed" in str(error)


_DENIED = ("there is no such data set, or no permission; log in with 'hf auth login', or set"
           " HF_TOKEN")
