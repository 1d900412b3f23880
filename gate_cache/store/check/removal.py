"""Removing a group so that what is left, wherever it stops, is never taken for whole."""

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
    """Remove a group: the marks that vouch for its data first, then its metadata, then the data."""
    for key in (f"{name}/{DONE}/c", f"{name}/{DONE}", f"{name}/{META}", name):
        folder.remove(key)


def leftovers(folder: Folder, store_format: int) -> list[str]:
    """Groups that nothing vouches for: their removal, or their making, was cut off."""
    names = [n for n in folder.names() if n not in (META, SAMPLES) and _GROUP.fullmatch(n)]
    return [n for n in names if not folder.names(f"{n}/{DONE}/c")
            and _cut_off(folder, n, store_format)]


def _cut_off(folder: Folder, name: str, store_format: int) -> bool:
    """Whether a group has no metadata, or sound ones but no marks at all."""
    if folder.read(f"{name}/{META}") is None:
        return True
    return is_whole(read_attrs(folder, name), store_format) \
        and folder.read(f"{name}/{DONE}/{META}") is None
