"""Holding a store: the right to write to it, for as long as something lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gate_cache.core.errors import DiskError, StoreError
from gate_cache.core.places import Place, Url
from gate_cache.store.lease import Claim, claim, identified
from gate_cache.store.opening import is_store, open_folder
from gate_cache.store.places.disk import READ_ONLY, disk_errors


class Unclaimed:
    """Stands for a claim where commits that do not follow the last one are refused anyway."""

    def check(self) -> None:
        """Nothing is held."""

    def release(self) -> None:
        """Nothing is held."""


class ReadOnly(Unclaimed):
    """Stands for a claim on a disk that is read-only: reading is allowed, writing refused.

    Parameters
    ----------
    error : that the disk raised for the claim
    """

    def __init__(self, error: DiskError) -> None:
        self._error = error

    def check(self) -> None:
        """Refuse."""
        raise self._error


def hold(path: Place, waiting: Callable[[str], None] | None, then: str | None = None,
         ) -> Claim | Unclaimed:
    """Get the right to write to a store.

    Parameters
    ----------
    waiting : called with a line that names who is waited for; None: do not wait
    then : what to do after a disk error

    Raises
    ------
    StoreError
        Another process writes, or the place is read-only.
    """
    if isinstance(path, Url) and path.web:
        raise StoreError(f"{path}: stores on web servers are only read; write to a disk, or to"
                         " s3://, gs:// or az://")
    if isinstance(path, Url) and path.hub:
        return Unclaimed()
    with disk_errors(path, **({"then": then} if then else {})):
        own = identified(path)
        return claim(open_folder(own.parent), own.name, path, waiting)


Held = Claim | Unclaimed
"""The right to write, or what stands for it."""


@contextmanager
def alone(path: Place, then: str) -> Iterator[None]:
    """Keep other processes from writing to a store, as `hold`, which does not wait."""
    if isinstance(path, Url) and path.hub:
        raise StoreError(f"{path}: is not changed in its place; pull it, change the copy, and push"
                         " that")
    lease = hold(path, None, then)
    try:
        yield
    finally:
        lease.release()


def hold_or_look(path: Place, waiting: Callable[[str], None] | None) -> Held:
    """As `hold`; but a store that is there on a read-only disk may still be read."""
    try:
        return hold(path, waiting)
    except DiskError as error:
        if error.errno not in READ_ONLY or not is_store(path):
            raise
        return ReadOnly(error)
