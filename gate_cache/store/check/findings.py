"""What a check of a store finds: problems, what repairs them, and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mend:
    """How a problem is repaired.

    Attributes
    ----------
    says : what is done, for the report
    do : does it
    """

    says: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written, or is worth a line.

    Attributes
    ----------
    place : below the store
    mend : for a problem that ``--repair`` can repair
    then : what to do about it, or what was done
    note : whether it is no problem: no data that are marked done are wrong
    mended : whether ``--repair`` has repaired it
    """

    place: str
    what: str
    mend: Mend | None = None
    then: str = ""
    note: bool = False
    mended: bool = False

    def repaired(self, repair: bool) -> Finding:
        """The same after its repair; without `repair`, or a way to, with what to do instead."""
        if self.mend is None:
            return self
        if not repair:
            return replace(self, then="--repair can mend it")
        self.mend.do()
        return replace(self, then=f"mended: {self.mend.says}", mended=True)


def note(place: str, what: str) -> Finding:
    """What is worth a line but no problem."""
    return Finding(place, what, note=True)
