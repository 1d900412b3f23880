"""Done marks of a store's blocks, as tests set and count them."""

from __future__ import annotations

from pathlib import Path

from gate_cache.store.format.done import BlockMarks
from gate_cache.store.places.local import LocalFolder


def marks_of(store: Path, combo: str) -> BlockMarks:
    """Of the only group of a combo."""
    (group,) = store.glob(f"{combo}-*")
    return BlockMarks(LocalFolder(store), group.name)


def marked(store: Path) -> int:
    """How many blocks of a store are done."""
    groups = (p.name for p in store.glob("*-*") if (p / "done/zarr.json").exists())
    return sum(int((BlockMarks(LocalFolder(store), name).read_all(64) > 0).sum())
               for name in groups)
