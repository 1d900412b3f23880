"""Opening the folder of a store: of this machine, or behind a URL."""

from __future__ import annotations

from pathlib import Path

from gate_cache.core.errors import UserError
from gate_cache.core.places import Place
from gate_cache.store.places.folders import Folder
from gate_cache.store.places.local import LocalFolder


def open_folder(place: Place) -> Folder:
    """The folder of a store.

    Raises
    ------
    UserError
        What URLs need is not installed.
    """
    if isinstance(place, Path):
        return LocalFolder(place)
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
