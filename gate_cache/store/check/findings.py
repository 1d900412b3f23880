"""What a check of a store finds: problems, what mends them, and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """How a problem is mended.

    Attributes
    ----------
    says : what it does, for the report
    do : does it
    """

    says: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes
    ----------
    place : below the store
    mend : for a problem that ``--repair`` can mend
    way_out : for one that it cannot
    note : no problem: nothing that is vouched for is wrong
    """

    place: str
    what: str
    mend: Mend | None = None
    way_out: str = ""
    note: bool = False


def note(place: str, what: str) -> Finding:
    """What is worth a line but no problem."""
    return Finding(place, what, note=True)
