"""Checking a store's metadata, table of samples and done marks; `blocks` checks the maps' data."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import SHORT
from gate_cache.store.check.blocks import BlockCheck
from gate_cache.store.check.findings import Finding, Mend, note
from gate_cache.store.format import done, sums
from gate_cache.store.format.attrs import (
    ATTRS,
    CHECKSUM,
    META,
    ArrayMeta,
    is_sound_array,
    is_whole,
    own_attrs,
    read_array,
    read_meta,
    sealed_array,
)
from gate_cache.store.format.documents import Document, dumped, map_document, write_array
from gate_cache.store.format.encodings import encoding_of
from gate_cache.store.format.layout import DONE, SAMPLE_CHUNK, SAMPLES, SUMS, blocks_of
from gate_cache.store.format.samples import (
    COLUMNS,
    COUNT,
    Samples,
    column_chunks,
    column_document,
    read_samples,
    table_checksum,
)
from gate_cache.store.places.folders import PARTIAL, Folder, is_number

COPY = "restore the store from a copy"
STRAY = "no part of the store"
LEFT = "left by a write that was cut off; the next extract removes it"


@dataclass
class Audit:
    """A check of one store.

    Attributes
    ----------
    attrs : the store's own
    samples : its table, None where that is damaged
    blocks : finished blocks whose data is to be checked, filled by `metadata`
    """

    folder: Folder
    attrs: dict[str, Any]
    samples: Samples | None = None
    blocks: list[BlockCheck] = field(default_factory=list)

    def metadata(self) -> Iterator[Finding]:
        """Everything but the maps' data."""
        yield from self._form("")
        if self.attrs["format"] == 1:
            yield note("format 1", "has no checksums of metadata; the next extract adds them")
        yield from self._table()
        for name in self.folder.names():
            if name not in (META, SAMPLES):
                yield from self._group(name)

    # ---------------------------------------------------------------------------- samples

    def _table(self) -> Iterator[Finding]:
        try:
            self.samples = read_samples(self.folder, self.attrs["format"])
        except StoreError:
            yield Finding(SAMPLES, "the table of samples is damaged",
                          way_out=f"{COPY}: what is in the rows cannot be told without it")
            return
        table = self.samples
        attributes: Document = {COUNT: len(table)}
        found = read_meta(self.folder, SAMPLES) or {}
        if self.attrs["format"] > 1:
            stated = found.get("attributes", {}).get(CHECKSUM)
            attributes[CHECKSUM] = table_checksum(table, stated)
        if {**found, "attributes": attributes} != _group_document(attributes):
            yield Finding(f"{SAMPLES}/{META}", "is damaged", way_out=COPY)
        yield from self._form(SAMPLES)
        for name in COLUMNS:
            yield from self._column(table, name)
        yield from self._strays(SAMPLES, {META, *COLUMNS})

    def _column(self, table: Samples, name: str) -> Iterator[Finding]:
        key, wanted = f"{SAMPLES}/{name}", column_document(name, len(table))
        meta = read_array(self.folder, key)
        rows = meta.shape[0] if meta else 0
        longer = rows > len(table)
        yield from self._known(key, {**wanted, "shape": [rows, *wanted["shape"][1:]]}
                               if longer else wanted, wanted)
        if longer:
            yield note(key, "has rows that do not count: an extract was cut off")
            return
        for chunk, data in column_chunks(table, name):
            if self.folder.read(chunk) != data:
                yield Finding(chunk, "is damaged where no row is", Mend(
                    f"{chunk} is written anew", partial(self.folder.write, chunk, [data])))
        names = set(map(str, range(-(-len(table) // SAMPLE_CHUNK))))
        yield from self._strays(key, {META, "c"})
        yield from self._strays(f"{key}/c", names)

    # ----------------------------------------------------------------------------- groups

    def _group(self, name: str) -> Iterator[Finding]:
        place = f"{name}/{META}"
        if not self.folder.names(name):
            yield note(name, STRAY)
            return
        document = read_meta(self.folder, name)
        if document is None and self.folder.read(place) is None:
            yield from self._headless(name)
            return
        attrs = own_attrs(document)
        if not is_whole(attrs, self.attrs["format"]) or not _sensible(document, attrs):
            yield Finding(place, "is damaged", Mend(
                f"{place} is removed; extract makes it anew where its manifest names it, and"
                " checks the rows", partial(self.folder.remove, place)))
            return
        yield from self._form(name)
        if not name.endswith(f"-{attrs['fingerprint'][:SHORT]}"):
            yield note(name, f"is the group of fingerprint {attrs['fingerprint'][:SHORT]}, renamed")
        marks = self._marks_of(name)
        marked = {i: raw for i, raw in marks.items() if raw != bytes(done.BYTES)}
        maps: dict[str, ArrayMeta | None] = {}
        try:
            arrays = self._arrays(name, attrs)
        except StoreError as error:
            yield Finding(place, str(error).split(": ", 1)[1], way_out="upgrade gate-cache")
            return
        for array in arrays:
            maps[array] = yield from self._map(name, array, bool(marked))
        yield from self._marks(name, marks, bool(marked))
        yield from self._sums(name, len(arrays), set(marked))
        yield from self._strays(name, {META, DONE, SUMS, *arrays})
        self.blocks += [BlockCheck(self.folder, name, attrs["fingerprint"], maps, i,
                                   self.attrs["block"])
                        for i, raw in marked.items() if self._is_mark(i, raw)]

    def _sums(self, group: str, arrays: int, marked: set[int]) -> Iterator[Finding]:
        """The tables of row checksums; a release before this one wrote none."""
        if self.samples is None:
            return
        key = f"{group}/{SUMS}"
        names = self.folder.names(f"{key}/c")
        missing = marked.difference(int(name) for name in names if is_number(name))
        if missing:
            yield note(group, f"{len(missing)} of {len(marked)} blocks have no table of row"
                       " checksums, which tells whose rows they are; the next extract adds it")
        if names or self.folder.read(f"{key}/{META}") is not None:
            yield from self._known_sums(key, arrays)
            yield from self._strays(key, {META, "c"})
            yield from self._strays(f"{key}/c", set(map(str, self._indexes())))

    def _known_sums(self, key: str, arrays: int) -> Iterator[Finding]:
        meta, blocks = read_array(self.folder, key), len(self._indexes())
        width = arrays * self.attrs["block"]
        have = min(meta.shape[0] // width, blocks) if meta else blocks
        yield from self._known(key, *(sums.document(n, arrays, self.attrs["block"])
                                      for n in (have, blocks)))

    def _indexes(self) -> range:
        return range(-(-len(self.samples or ()) // self.attrs["block"]))

    def _arrays(self, name: str, attrs: dict[str, Any]) -> list[str]:
        """All arrays of a group, in the order checksums run over them."""
        first = read_array(self.folder, f"{name}/{attrs['maps'][0]}")
        encoding = encoding_of(name, attrs, str(first.dtype) if first else "float16")
        return [array + part.suffix for array in attrs["maps"]
                for part in encoding.parts((1, 1, 1))]

    def _headless(self, name: str) -> Iterator[Finding]:
        """A folder without metadata."""
        if any(map(any, self._marks_of(name).values())):
            yield Finding(f"{name}/{META}", "is missing", way_out="'gate-cache extract' makes it"
                          " anew where its manifest names it, and checks the rows")
        else:
            yield note(name, STRAY)

    def _map(self, group: str, name: str,
             marked: bool) -> Generator[Finding, None, ArrayMeta | None]:
        key = f"{group}/{name}"
        document, meta = read_meta(self.folder, key), read_array(self.folder, key)
        there = self.folder.read(f"{key}/{META}") is not None
        if not there and not marked:
            yield note(key, "is not made yet: an extract was cut off")
        elif not there:
            yield Finding(f"{key}/{META}", "is missing",
                          way_out="'gate-cache extract' makes it anew, and checks the rows")
        elif document is None or meta is None or not self._sound(document, meta) \
                or meta.packing == "other" or meta.block != self.attrs["block"]:
            yield Finding(f"{key}/{META}", "is damaged", Mend(
                f"{key}/{META} is removed; extract makes it anew, and checks the rows",
                partial(self.folder.remove, f"{key}/{META}")))
            return None
        else:
            yield from self._form(key)
            yield from self._strays(key, {META, "c"})
            yield from self._strays(f"{key}/c", None)
        return meta

    def _sound(self, document: Document, meta: ArrayMeta) -> bool:
        if self.attrs["format"] > 1 or CHECKSUM in own_attrs(document):
            return is_sound_array(document)
        return len(meta.shape) == 4 and \
            document == map_document(meta.shape, self.attrs["block"], str(meta.dtype))

    # ------------------------------------------------------------------------------ marks

    def _marks_of(self, group: str) -> dict[int, bytes]:
        """All marks as they are on disk."""
        names = [n for n in self.folder.names(f"{group}/{DONE}/c") if is_number(n)]
        found = self.folder.read_many([f"{group}/{DONE}/c/{n}" for n in names])
        return {int(n): raw for n, raw in zip(names, found, strict=True) if raw is not None}

    def _marks(self, group: str, marks: dict[int, bytes], marked: bool) -> Iterator[Finding]:
        if self.samples is None:
            return
        key, blocks = f"{group}/{DONE}", blocks_of(len(self.samples), self.attrs["block"])
        if self.folder.read(f"{key}/{META}") is None and not marked:
            yield note(group, "is half made: an extract was cut off")
            return
        places = min(done.slots(self.folder, group), len(blocks))
        yield from self._known(key, done.document(places), done.document(len(blocks)))
        missing = 0
        for i, rows in enumerate(blocks):
            raw = marks.get(i, bytes(done.BYTES))
            have = int.from_bytes(raw[: done.BYTES], "little") >> 32
            if (any(raw) and not self._is_mark(i, raw)) or len(raw) != done.BYTES:
                yield self._bad_mark(group, i)
            missing += len(rows) - min(have, len(rows))
        if missing:
            yield note(group, f"{missing} of {len(self.samples)} rows are not extracted")
        yield from self._strays(key, {META, "c"})
        yield from self._strays(f"{key}/c", set(map(str, range(len(blocks)))))

    def _is_mark(self, block: int, raw: bytes) -> bool:
        """Whether a mark says of a block that it has as many rows as it can have."""
        rows = min(len(self.samples or ()) - block * self.attrs["block"], self.attrs["block"])
        most = rows if self.samples is not None else self.attrs["block"]
        return len(raw) == done.BYTES and 1 <= int.from_bytes(raw, "little") >> 32 <= most

    def _bad_mark(self, group: str, block: int) -> Finding:
        return Finding(f"{group}/{DONE}/c/{block}", "the mark of a finished block is damaged",
                       Mend(f"block {block} of {group} is marked undone",
                            partial(done.write_mark, self.folder, group, block, 0)))

    # ------------------------------------------------------------------------- everywhere

    def _known(self, key: str, wanted: Document, new: Document) -> Iterator[Finding]:
        """Metadata of which every field is known; `new` is what repair writes."""
        found = read_meta(self.folder, key)
        sealed = self.attrs["format"] > 1 or CHECKSUM in own_attrs(found)
        wanted = sealed_array(wanted) if sealed else wanted
        if found is None or {**found, "attributes": None} != {**wanted, "attributes": None} \
                or (sealed and not is_sound_array(found)):
            there = self.folder.read(f"{key}/{META}") is not None
            yield Finding(f"{key}/{META}", "is damaged" if there else "is missing", Mend(
                f"{key}/{META} is written anew", partial(write_array, self.folder, key, new)))
        else:
            yield from self._form(key)

    def _form(self, key: str) -> Iterator[Finding]:
        """Metadata whose content is right."""
        place = f"{key}/{META}" if key else META
        raw, document = self.folder.read(place), read_meta(self.folder, key)
        if raw is None or document is None:
            return
        if raw != dumped(document):
            yield note(place, "is not written as gate-cache writes it; what it says is right")
        if others := sorted({*document.get("attributes", {})} - {ATTRS, COUNT, CHECKSUM}):
            yield note(place, f"attributes that are not ours are not checked: {', '.join(others)}")
        if "consolidated_metadata" in document:
            yield note(place, "consolidated metadata is not ours and not checked")

    def _strays(self, key: str, known: set[str] | None) -> Iterator[Finding]:
        """Names in a folder that are not known; None: numbers are."""
        for name in self.folder.names(key):
            if name.endswith(PARTIAL):
                yield note(f"{key}/{name}", LEFT)
            elif name not in known if known is not None else not is_number(name):
                yield note(f"{key}/{name}", STRAY)


def _group_document(attributes: Document) -> Document:
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def _sensible(document: Document | None, attrs: dict[str, Any]) -> bool:
    """Whether a group's metadata is one of ours, its recipe being what its fingerprint says."""
    rest = {k: v for k, v in (document or {}).items() if k != "consolidated_metadata"}
    return bool(attrs) and {**rest, "attributes": {}} == _group_document({})
