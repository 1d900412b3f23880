"""What a check of a store finds: problems, what repairs them, and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written, or is worth a line.

    Attributes
    ----------
    place : below the store
    then : what `mend` does, or what to do without one; once repaired, what was done
    mend : repairs it, for ``--repair``
    note : whether it is no problem: no data that are marked done are wrong
    mended : whether it is repaired
    """

    place: str
    what: str
    then: str = ""
    mend: Callable[[], None] | None = None
    note: bool = False
    mended: bool = False

    def repaired(self, repair: bool) -> Finding:
        """The same after its repair; without `repair`, or a way to, with what to do instead."""
        if self.mend is None:
            return self
        if not repair:
            return replace(self, then="--repair can fix it")
        self.mend()
        return replace(self, then=f"repaired: {self.then}", mended=True)


def note(place: str, what: str) -> Finding:
    """What is worth a line but no problem."""
    return Finding(place, what, note=True)
