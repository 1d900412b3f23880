"""Holding a store: the right to write to it, for as long as something lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gate_cache.core.errors import DiskError, StoreError
from gate_cache.core.places import Place, Url
from gate_cache.store.lease import Claim, claim, identified
from gate_cache.store.opening import is_store, open_folder
from gate_cache.store.places.disk import READ_ONLY, disk_errors


class Held(Protocol):
    """The right to write, or what stands for it."""

    def check(self) -> None:
        """Raise where it is no more, or never was."""

    def release(self) -> None:
        """Let the next one write."""


class ReadOnly:
    """Stands for a claim on a disk that is only read: looking is allowed, writing refused.

    Parameters
    ----------
    error : what the disk said to the claim
    """

    def __init__(self, error: DiskError) -> None:
        self._error = error

    def check(self) -> None:
        """Refuse."""
        raise self._error

    def release(self) -> None:
        """Nothing is held."""


def hold(path: Place, waiting: Callable[[str], None] | None, then: str | None = None) -> Claim:
    """Get the right to write to a store.

    Parameters
    ----------
    waiting : is told who is waited for; None does not wait
    then : what to do after a disk has refused

    Raises
    ------
    StoreError
        Another process writes, or the place is only read.
    """
    if isinstance(path, Url) and path.web:
        raise StoreError(f"{path}: stores on web servers are only read; write to a disk, or to"
                         " s3://, gs:// or az://")
    with disk_errors(path, **({"then": then} if then else {})):
        own = identified(path)
        return claim(open_folder(own.parent), own.name, path, waiting)


@contextmanager
def alone(path: Place, then: str) -> Iterator[Claim]:
    """Keep other processes from writing to a store.

    Parameters
    ----------
    then : what to do after a disk has refused

    Raises
    ------
    StoreError
        Another one does, or the place is only read.
    """
    held = hold(path, None, then)
    try:
        yield held
    finally:
        held.release()


def hold_or_look(path: Place, waiting: Callable[[str], None] | None) -> Held:
    """As `hold`; a store that is there on a disk that is only read may still be looked at."""
    try:
        return hold(path, waiting)
    except DiskError as error:
        if error.errno not in READ_ONLY or not is_store(path):
            raise
        return ReadOnly(error)
