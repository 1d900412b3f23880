"""Disk errors as one line that names the place and the way out."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gate_cache.core.errors import DiskError, GateCacheError
from gate_cache.core.places import Place, Url

_HINTS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the disk is read-only; choose another place with {option}",
    errno.EACCES: "permission denied; change the permissions or choose another place with {option}",
    errno.EPERM: "not permitted; change the permissions or choose another place with {option}",
    errno.EFBIG: "the file grew beyond the allowed size; raise the limit (ulimit -f)",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
}
"""For errors whose system text does not suggest a way out; of all others that text is shown."""
_STORE = "and run the same command again; what is done so far is kept"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def disk_errors(path: Place, option: str = "--stores", then: str = _STORE) -> Iterator[None]:
    """Turn an `OSError` into a `DiskError` about `path`, a server's error into a `RemoteError`.

    Parameters
    ----------
    path : of the store or folder that the block reads or writes
    option : the command's option that chooses another place
    then : what to do after the cause is removed
    """
    if isinstance(path, Url) and path.hub:  # whose folder turns all its errors itself
        yield
        return
    if isinstance(path, Url):
        from gate_cache.store.places.refusals import remote_errors

        with remote_errors(path):
            yield
        return
    try:
        yield
    except OSError as error:
        converted = disk_error(path, error, option, then)
        if converted is error:
            raise
        raise converted from error


def disk_error(path: Place, error: OSError, option: str = "--stores",
               then: str = _STORE) -> DiskError | OSError:
    """An error as `disk_errors` raises it; one that is no system call's is left as it is."""
    if isinstance(error, GateCacheError) or error.errno is None:
        return error
    reason = _HINTS.get(error.errno, "").format(option=option) or _system_text(path, error)
    if error.errno == errno.ENOSPC and _no_inodes(path):
        reason = "the disk has room, but no inodes for more files; remove some files"
    converted = DiskError(f"{path}: {reason} {then}")
    converted.errno = error.errno
    return converted


def _system_text(path: Place, error: OSError) -> str:
    """The system's own words, with the file they are about."""
    words = os.strerror(error.errno or 0)
    file = str(getattr(error, "filename2", None) or error.filename or "")
    where = file.removeprefix(f"{path}/")
    named = f" ({where[:200]})" if where and file != str(path) else ""
    return f"{words[:1].lower()}{words[1:]}{named}; fix that"


def _no_inodes(path: Place) -> bool:
    """Whether a disk that is full has bytes left, but no inodes for more files."""
    disk = os.statvfs(_existing(Path(str(path))))
    return bool(disk.f_files and not disk.f_favail and disk.f_bavail)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.parents, Path()) if p.exists())


def need_space(path: Place, needed: int) -> None:
    """Raise `DiskError` when the disk that holds `path` has less than `needed` bytes free."""
    if isinstance(path, Url):
        return
    free = shutil.disk_usage(_existing(path)).free
    if free < needed:
        raise DiskError(f"{path}: needs {human(needed)}, but only {human(free)} are free there;"
                        " free some space or choose another place with --stores")


def human(size: float) -> str:
    """Bytes for a person: ``1.5 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB" if size < 1000 else f"{size / 1000:.1f} TB"


def bytes_below(path: Path) -> int:
    """Bytes of all files below a folder; one that is removed meanwhile does not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
