"""Removing a group so that, wherever the removal stops, the rest is never taken for a whole one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gate_cache.core.fingerprint import SHORT
from gate_cache.store.format.attrs import META, is_whole, read_attrs
from gate_cache.store.format.layout import DONE, SAMPLES

if TYPE_CHECKING:
    from gate_cache.store.places.folders import Folder

_GROUP = re.compile(rf".+-[0-9a-f]{{{SHORT}}}")


def remove_group(folder: Folder, name: str) -> None:
    """Remove a group: first the marks, without which no row is valid, then metadata, then data."""
    for key in (f"{name}/{DONE}/c", f"{name}/{DONE}", f"{name}/{META}", name):
        folder.remove(key)


def leftovers(folder: Folder, store_format: int) -> list[str]:
    """Groups without any mark: their removal, or their creation, was interrupted."""
    names = [n for n in folder.names() if n not in (META, SAMPLES) and _GROUP.fullmatch(n)]
    return [n for n in names if not folder.names(f"{n}/{DONE}/c")
            and _cut_off(folder, n, store_format)]


def _cut_off(folder: Folder, name: str, store_format: int) -> bool:
    """Whether a group has no metadata, or valid metadata but no array of marks."""
    if folder.read(f"{name}/{META}") is None:
        return True
    return is_whole(read_attrs(folder, name), store_format) \
        and folder.read(f"{name}/{DONE}/{META}") is None
