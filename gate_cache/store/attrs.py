"""Our attributes on Zarr groups, all below one key, so that other tools may add theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import zarr

from gate_cache.errors import StoreError
from gate_cache.store.layout import FORMAT

ATTRS = "gate_cache"


def attrs_of(group: zarr.Group) -> dict[str, Any]:
    """What we wrote on a group; empty where it is not ours."""
    found = cast(Any, group.attrs.asdict().get(ATTRS))
    return dict(found) if isinstance(found, dict) else {}


def is_store(path: Path) -> bool:
    """Whether a store was begun here (half-made ones do not count)."""
    try:
        return ATTRS in json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def store_attrs(path: Path, group: zarr.Group) -> dict[str, Any]:
    """A store's own attributes, checked.

    Raises
    ------
    StoreError
        Written by something else, or by a newer gate-cache.
    """
    attrs = attrs_of(group)
    if not isinstance(attrs.get("format"), int):
        raise StoreError(f"{path}: a Zarr group, but not a gate-cache store")
    if attrs["format"] > FORMAT:
        raise StoreError(f"{path}: store format {attrs['format']} is newer than this gate-cache"
                         f" reads ({FORMAT}); upgrade gate-cache")
    return attrs


def open_group(path: Path, mode: Any) -> zarr.Group:
    """Open a store's root group.

    Raises
    ------
    StoreError
        There is nothing, or something else.
    """
    if not path.exists():
        raise StoreError(f"{path}: no such store; 'gate-cache extract MANIFEST' makes one")
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError,
            zarr.errors.ContainsArrayError):
        raise StoreError(f"{path}: not a Zarr v3 group, so no gate-cache store") from None
    store_attrs(path, group)
    return group


def array_in(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group."""
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found
