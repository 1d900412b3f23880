"""Writing a file so that no reader ever sees half of it, whatever happens meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` when the block ends; folders are made.

    If the block fails, or the machine goes down, what was at `path` is there as before.

    Yields
    ------
    A name beside `path` of its own, so that several processes may write the same file: the last
    one to end wins
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.encode()[:200].decode(errors="ignore")  # names have at most 255 bytes
    draft = path.with_name(f".{name}.{uuid4().hex[:8]}.partial")
    try:
        yield draft
        with draft.open("rb+") as file:  # a rename may reach the disk before the bytes do
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
