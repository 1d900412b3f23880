"""Checking a store's metadata, table of samples and done marks; `blocks` checks the maps' data."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import SHORT
from gate_cache.store.check.blocks import BlockCheck
from gate_cache.store.check.findings import STRAY, Finding, Forms, note
from gate_cache.store.format import columns, done, sums
from gate_cache.store.format.attrs import (
    CHECKSUM,
    META,
    ArrayMeta,
    is_sound_array,
    is_whole,
    own_attrs,
    read_array,
    read_meta,
)
from gate_cache.store.format.columns import COLUMNS, COUNT
from gate_cache.store.format.documents import LISTING, Document, map_document
from gate_cache.store.format.encodings import encoding_of
from gate_cache.store.format.layout import BESIDE, DONE, SAMPLE_CHUNK, SAMPLES, SUMS, blocks_of
from gate_cache.store.format.openshard import shard_file
from gate_cache.store.format.samples import Samples
from gate_cache.store.places.folders import Folder, is_number

COPY = "restore the store from a copy"


@dataclass
class Audit(Forms):
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
        yield from self.form("")
        if self.attrs["format"] == 1:
            yield note("format 1", "has no checksums of metadata; the next extract adds them")
        yield from self._table()
        for name in self.folder.names():
            if name not in (META, SAMPLES, *BESIDE):
                yield from self._group(name)

    # ---------------------------------------------------------------------------- samples

    def _table(self) -> Iterator[Finding]:
        try:
            self.samples = columns.read_samples(self.folder, self.attrs["format"])
        except StoreError:
            yield Finding(SAMPLES, "the table of samples is damaged",
                          f"{COPY}: what is in the rows is unknown without it")
            return
        table = self.samples
        attributes: Document = {COUNT: len(table)}
        document = read_meta(self.folder, SAMPLES) or {}
        if self.attrs["format"] > 1:
            stated = document.get("attributes", {}).get(CHECKSUM)
            attributes[CHECKSUM] = columns.table_checksum(table, stated)
        if {**document, "attributes": attributes} != _group_document(attributes):
            yield Finding(f"{SAMPLES}/{META}", "is damaged", then=COPY)
        yield from self.form(SAMPLES)
        for name in COLUMNS:
            yield from self._column(table, name)
        yield from self.strays(SAMPLES, {META, *COLUMNS})

    def _column(self, table: Samples, name: str) -> Iterator[Finding]:
        key, document = f"{SAMPLES}/{name}", columns.column_document(name, len(table))
        meta = read_array(self.folder, key)
        rows = meta.shape[0] if meta else 0
        longer = rows > len(table)
        yield from self.fixed(key, {**document, "shape": [rows, *document["shape"][1:]]}
                               if longer else document, document)
        if longer:
            yield note(key, "has rows that do not count: an extract was cut off")
            return
        for chunk, data in columns.column_chunks(table, name):
            if self.folder.read(chunk) != data:
                yield Finding(chunk, "is damaged where no row is", f"{chunk} is written again",
                              partial(self.folder.write, chunk, [data]))
        names = set(map(str, range(-(-len(table) // SAMPLE_CHUNK))))
        yield from self.strays(key, {META, "c"})
        yield from self.strays(f"{key}/c", names)

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
            yield Finding(place, "is damaged", f"{place} is removed; extract writes it again where"
                          " its manifest names it, and checks the rows",
                          partial(self.folder.remove, place))
            return
        yield from self.form(name)
        if not name.endswith(f"-{attrs['fingerprint'][:SHORT]}"):
            yield note(name, f"is the group of fingerprint {attrs['fingerprint'][:SHORT]}, renamed")
        marks = done.BlockMarks(self.folder, name)
        marked = marks.known()
        maps: dict[str, ArrayMeta | None] = {}
        try:
            arrays = self._arrays(name, attrs)
        except StoreError as error:
            yield Finding(place, str(error).split(": ", 1)[1], then="upgrade gate-cache")
            return
        for array in arrays:
            maps[array] = yield from self._map(name, array, bool(marked))
        rows = self._rows(attrs)
        yield from self._marks(name, marks, done.provenances(attrs).keys(), rows)
        yield from self._sums(name, len(arrays), set(marked), rows)
        yield from self.strays(name, {META, DONE, SUMS, *arrays})
        self.blocks += [BlockCheck(self.folder, name, attrs["fingerprint"], maps, i,
                                   self.attrs["block"], marks)
                        for i, mark in marked.items() if self._is_mark(i, mark, rows)]

    def _rows(self, attrs: dict[str, Any]) -> int | None:
        """Of a group; None where that is unknown."""
        if self.samples is None:
            return None
        own = self.samples.of_shape(attrs["recipe"])
        return len(self.samples if own is None else own)

    def _sums(self, group: str, arrays: int, marked: set[int],
              rows: int | None) -> Iterator[Finding]:
        """The tables of row checksums; a release before this one wrote none."""
        if rows is None:
            return
        key = f"{group}/{SUMS}"
        names = self.folder.names(f"{key}/c")
        missing = marked.difference(int(name) for name in names if is_number(name))
        if missing:
            yield note(group, f"{len(missing)} of {len(marked)} blocks have no table of row"
                       " checksums, which tells whose rows they are; the next extract adds it")
        if names or self.folder.read(f"{key}/{META}") is not None:
            meta, blocks = read_array(self.folder, key), len(self._row_ranges(rows))
            width = arrays * self.attrs["block"]
            have = min(meta.shape[0] // width, blocks) if meta else blocks
            yield from self.fixed(key, *(sums.document(n, arrays, self.attrs["block"])
                                          for n in (have, blocks)))
            yield from self._strays_of_files(key, blocks)

    def _row_ranges(self, rows: int) -> list[range]:
        """Rows of each block."""
        return blocks_of(rows, self.attrs["block"])

    def _strays_of_files(self, key: str, count: int) -> Iterator[Finding]:
        """As `strays`, of an array with so many files."""
        yield from self.strays(key, {META, "c"})
        yield from self.strays(f"{key}/c", set(map(str, range(count))))

    def _arrays(self, name: str, attrs: dict[str, Any]) -> list[str]:
        """All arrays of a group, in the order checksums run over them."""
        first = read_array(self.folder, f"{name}/{attrs['maps'][0]}")
        encoding = encoding_of(name, attrs, str(first.dtype) if first else "float16")
        return [array + part.suffix for array in attrs["maps"]
                for part in encoding.parts((1, 1, 1))]

    def _headless(self, name: str) -> Iterator[Finding]:
        """A folder without metadata."""
        if any(map(any, done.BlockMarks(self.folder, name).files().values())):
            yield Finding(f"{name}/{META}", "is missing", then="'gate-cache extract' writes it"
                          " again where its manifest names it, and checks the rows")
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
                          then="'gate-cache extract' writes it again, and checks the rows")
        elif document is None or meta is None or not self._sound(document, meta) \
                or meta.packing == "other" or meta.block != self.attrs["block"]:
            yield Finding(f"{key}/{META}", "is damaged",
                          f"{key}/{META} is removed; extract writes it again, and checks the rows",
                          partial(self.folder.remove, f"{key}/{META}"))
            return None
        else:
            yield from self.form(key)
            yield from self._shard_strays(key, meta)
        return meta

    def _shard_strays(self, key: str, meta: ArrayMeta) -> Iterator[Finding]:
        if meta.separator == "/":
            yield from self.strays(key, {META, "c"})
            yield from self.strays(f"{key}/c", None)
            return
        numbers = {n: n.split(".")[1] for n in self.folder.names(key) if n.startswith("c.")}
        shards = {n for n, number in numbers.items() if is_number(number)
                  and f"{key}/{n}" == shard_file(key, int(number), meta)}
        yield from self.strays(key, {META, *shards})

    def _sound(self, document: Document, meta: ArrayMeta) -> bool:
        if self.attrs["format"] > 1 or CHECKSUM in own_attrs(document):
            return is_sound_array(document)
        return len(meta.shape) == 4 and \
            document == map_document(meta.shape, self.attrs["block"], str(meta.dtype))

    # ------------------------------------------------------------------------------ marks

    def _marks(self, group: str, marks: done.BlockMarks, made: Set[int],
               count: int | None) -> Iterator[Finding]:
        if count is None:
            return
        key, files, width = f"{group}/{DONE}", marks.files(), marks.width
        if self.folder.read(f"{key}/{META}") is None and not any(map(any, files.values())):
            yield note(group, "is half made: an extract was cut off")
            return
        blocks = len(self._row_ranges(count))
        yield from self.fixed(key, *(done.document(n, width)
                                     for n in (min(marks.slots, blocks), blocks)))
        damaged = [range(file * width, (file + 1) * width) for file, raw in files.items()
                   if len(raw) != width * done.BYTES]
        values, numbers, missing = marks.known(), marks.numbers(), 0
        for i, rows in enumerate(self._row_ranges(count)):
            mark = values.get(i, 0)
            bad = i in values and not (self._is_mark(i, mark, count) and numbers[i] in made)
            damaged += [range(i, i + 1)] if bad else []
            missing += len(rows) - min(mark >> 32, len(rows))
        yield from (_bad_mark(group, marks, some) for some in damaged)
        if missing:
            yield note(group, f"rows not extracted: {missing} of {count}")
        yield from self._strays_of_files(key, -(-blocks // width))

    def _is_mark(self, block: int, mark: int, rows: int | None) -> bool:
        """Whether a mark says of a block that it has no more rows than it can have."""
        size = int(self.attrs["block"])
        most = size if rows is None else min(rows - block * size, size)
        return 1 <= mark >> 32 <= most


def _bad_mark(group: str, marks: done.BlockMarks, blocks: range) -> Finding:
    """A mark, or a file of them, whose blocks are all undone when the first is."""
    named = f"block {blocks.start} of {group} is" if len(blocks) == 1 else \
        f"blocks {blocks.start} to {blocks.stop - 1} of {group} are"
    return Finding(f"{group}/{DONE}/c/{blocks.start // marks.width}",
                   "the mark of a finished block is damaged", f"{named} marked undone",
                   partial(marks.write, blocks.start, 0))


def _group_document(attributes: Document) -> Document:
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def _sensible(document: Document | None, attrs: dict[str, Any]) -> bool:
    """Whether a group's metadata is one of ours, its recipe being what its fingerprint says."""
    rest = {k: v for k, v in (document or {}).items() if k != LISTING}
    return bool(attrs) and {**rest, "attributes": {}} == _group_document({})
