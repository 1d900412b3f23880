"""Opening and making a store: its folder, here or behind a URL, and its own attributes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError, UserError
from gate_cache.store.format.attrs import META, read_attrs, read_meta, was_sealed
from gate_cache.store.format.columns import COLUMNS, create_samples
from gate_cache.store.format.documents import put_attrs
from gate_cache.store.format.layout import BESIDE, FORMAT, SAMPLES
from gate_cache.store.format.schema import StoreAttrs, fits
from gate_cache.store.places.folders import PARTIAL
from gate_cache.store.places.local import LocalFolder

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.store.places.folders import Folder


def open_folder(place: Place) -> Folder:
    """The folder of a store; `UserError` where it is behind a URL and obstore is not installed."""
    if isinstance(place, Path):
        return LocalFolder(place)
    if place.hub:
        from gate_cache.store.places.hub import HubFolder

        return HubFolder(place)
    try:
        from gate_cache.store.places.urls import open_remote
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise UserError(f"{place}: stores behind URLs need obstore; install it with: pip install"
                        " 'gate-cache[remote]'") from None
    return open_remote(place)


def exists(place: Place) -> bool:
    """Whether anything is there."""
    return open_folder(place).there()


def is_store(path: Place) -> bool:
    """Whether a store is here (half-made ones do not count)."""
    return bool(read_attrs(open_folder(path)))


def open_store(path: Place) -> tuple[Folder, dict[str, Any]]:
    """A store's folder and its own attributes, checked.

    Raises
    ------
    StoreError
        There is nothing, something else, or a store of a newer format.
    """
    folder = open_folder(path)
    meta = read_meta(folder)
    if meta is None and not folder.there():
        raise StoreError(f"{path}: no such store; 'gate-cache extract MANIFEST' makes one")
    if meta is None or meta.get("node_type") != "group" or meta.get("zarr_format") != 3:
        raise StoreError(f"{path}: not a Zarr v3 group, so not a gate-cache store")
    attrs = read_attrs(folder)
    if type(attrs.get("format")) is not int:
        raise StoreError(f"{path}: a Zarr group, but not a gate-cache store")
    if attrs["format"] > FORMAT:
        raise StoreError(f"{path}: store format {attrs['format']} is newer than this gate-cache"
                         f" reads ({FORMAT}); upgrade gate-cache")
    if not was_sealed(attrs, attrs["format"]) or not fits(StoreAttrs, attrs):
        raise StoreError(f"{path}/{META} is damaged; restore it from a copy: block size and batch"
                         " size of the store are in it")
    return folder, attrs


def create_store(path: Place, attrs: dict[str, Any]) -> None:
    """Make an empty store; its own attributes come last, so half a store is none."""
    folder = open_folder(path)
    if folder.there() and not _half_made(path, folder):
        raise StoreError(f"{path}: exists and is not a store; give store.path another name")
    if isinstance(path, Path):
        path.mkdir(parents=True, exist_ok=True)
    folder.remove(SAMPLES)
    create_samples(folder)
    put_attrs(folder, "", attrs)
    folder.flush()


def _half_made(path: Place, folder: Folder) -> bool:
    """Empty, or what a creation that was cut off leaves: nothing of anybody else's."""
    if isinstance(path, Path) and not path.is_dir():
        return False
    inside = [*(os.listdir(path) if isinstance(path, Path) else folder.names()),
              *folder.names(SAMPLES)]
    whole = {name for name in inside if not name.endswith(PARTIAL)}
    return whole <= {META, SAMPLES, *COLUMNS, *BESIDE}
