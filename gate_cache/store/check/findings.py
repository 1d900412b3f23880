"""What a check of a store finds: problems, what repairs them, and notes; and of any document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gate_cache.store.format.attrs import (
    ATTRS,
    CHECKSUM,
    META,
    is_sound_array,
    own_attrs,
    read_meta,
)
from gate_cache.store.format.columns import COUNT
from gate_cache.store.format.documents import LISTING, Document, collected, dumped, write_array
from gate_cache.store.places.folders import PARTIAL, Folder, is_number

STRAY = "no part of the store"
_FREE: Document = {"attributes": None, "dimension_names": None}
"""What is checked elsewhere, or that stores of an earlier release lack."""
LEFT = "left by a write that was cut off; the next extract removes it"


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


class Forms:
    """What all checks of a store's documents need."""

    folder: Folder
    attrs: dict[str, Any]

    def fixed(self, key: str, expected: Document, new: Document) -> Iterator[Finding]:
        """Metadata of which every field is determined; `new` is what repair writes."""
        document = read_meta(self.folder, key)
        sealed = self.attrs["format"] > 1 or CHECKSUM in own_attrs(document)
        if document is None or (sealed and not is_sound_array(document)) \
                or {**document, **_FREE} != {**expected, **_FREE}:
            there = self.folder.read(f"{key}/{META}") is not None
            yield Finding(f"{key}/{META}", "is damaged" if there else "is missing",
                          f"{key}/{META} is written again",
                          partial(write_array, self.folder, key, new))
        else:
            yield from self.form(key)

    def form(self, key: str) -> Iterator[Finding]:
        """Metadata whose content is right."""
        place = f"{key}/{META}" if key else META
        raw, document = self.folder.read(place), read_meta(self.folder, key)
        if raw is None or document is None:
            return
        if raw != dumped(document):
            yield note(place, "is not written as gate-cache writes it; what it says is right")
        if others := sorted({*document.get("attributes", {})} - {ATTRS, COUNT, CHECKSUM}):
            yield note(place, f"attributes that are not ours are not checked: {', '.join(others)}")
        if LISTING in document and (key or document[LISTING] != collected(self.folder)):
            yield note(place, "its list of groups and arrays is not up to date; the next extract"
                       " writes it again")

    def strays(self, key: str, own: set[str] | None) -> Iterator[Finding]:
        """Names in a folder that are not the store's own; None: numbers are."""
        for name in self.folder.names(key):
            if name.endswith(PARTIAL):
                yield note(f"{key}/{name}", LEFT)
            elif name not in own if own is not None else not is_number(name):
                yield note(f"{key}/{name}", STRAY)
