"""sha256 of large weight files, remembered between runs: hashing 4 GB again takes seconds.

A file counts as the same while its path, size, inode, modification and change time are; a change
time cannot be set by hand. What decides is always the content's sha256.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from gate_cache.core.fingerprint import file_sha256, fingerprint
from gate_cache.core.replacing import replacing

SMALL = 2**20  # bytes below which reading costs no more than looking up


def remembered_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    stamp = file_stamp(path)  # before the bytes: a change meanwhile makes the entry void, not wrong
    if stamp[0] < SMALL:
        return file_sha256(path)
    key = str(path.resolve())
    cache = _read()
    entry = cache.get(key)
    if isinstance(entry, list) and entry[:-1] == stamp:
        return str(entry[-1])
    digest = file_sha256(path)
    _write({**cache, key: [*stamp, digest]})  # another process's entry may be lost: it hashes again
    return digest


def file_stamp(path: Path) -> list[int]:
    """Size, inode, modification and change time: while these are the same, so is the content."""
    info = path.stat()
    return [info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns]


def tree_sha256(folder: Path) -> str:
    """sha256 (hex) over the names and contents of all files below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return fingerprint({p.relative_to(folder).as_posix(): remembered_sha256(p) for p in files})


def cache_folder() -> Path:
    """The user's cache folder of this package; `OSError` where there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise OSError(f"no home to remember in: {base}")
    return Path(base) / "gate-cache"


def _file() -> Path:
    return cache_folder() / "sha256.json"


def _read() -> dict[str, list[int | str]]:
    try:
        cache = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write(cache: dict[str, list[int | str]]) -> None:
    """Replace the cache; without a home directory nothing is kept, and files are read again."""
    with suppress(OSError), replacing(_file()) as draft:
        draft.write_text(json.dumps(cache), encoding="utf-8")
