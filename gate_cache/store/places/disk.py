"""Disk troubles as one line that names the place and the way out."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gate_cache.core.errors import DiskError
from gate_cache.core.places import Place, Url

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the disk is read-only; choose another place with {option}",
    errno.EACCES: "permission denied; mend the permissions or choose another place with {option}",
    errno.EPERM: "not permitted; mend the permissions or choose another place with {option}",
    errno.EFBIG: "the file grew beyond the allowed size; raise the limit (ulimit -f)",
}
_STORE = "and run the same command again; what is done so far is kept"


@contextmanager
def disk_errors(path: Place, option: str = "--stores", then: str = _STORE) -> Iterator[None]:
    """Turn an operating-system refusal into a `DiskError` about `path`, a server's into a
    `RemoteError`.

    Parameters
    ----------
    option : the command's option that chooses another place
    then : what to do after the cause is mended
    """
    if isinstance(path, Url):
        from gate_cache.store.places.refusals import remote_errors

        with remote_errors(path):
            yield
        return
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskError) or error.errno not in _WAYS_OUT:
            raise
        way_out = _WAYS_OUT[error.errno].format(option=option)
        raise DiskError(f"{path}: {way_out} {then}") from error


def need_space(path: Place, needed: int) -> None:
    """Raise `DiskError` when the disk that holds `path` has less than `needed` bytes free."""
    if isinstance(path, Url):
        return
    folder = path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
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
    """Bytes of all files below a folder."""
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(path) for name in names)
