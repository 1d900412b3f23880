"""Writing one group of a store: whole blocks, then a mark that they are done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.store.format import done, sums
from gate_cache.store.format.attrs import MEND, META, ArrayMeta, read_array, read_attrs
from gate_cache.store.format.checksums import Sums, array_sums
from gate_cache.store.format.chunks import Chunks, OpenFiles
from gate_cache.store.format.codes import encode
from gate_cache.store.format.documents import put_attrs, resize
from gate_cache.store.format.encodings import Encoding, Part, encoding_of
from gate_cache.store.format.layout import ABSENT, DONE, MADE, SUMS, Blocks, blocks_of
from gate_cache.store.format.openshard import shard_file
from gate_cache.store.format.shards import Damaged, shard_parts
from gate_cache.store.places.disk import disk_errors

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.store.places.folders import Folder

Maps = Mapping[str, npt.NDArray[Any]]
Stored = dict[str, npt.NDArray[Any]]
"""Rows of a group's arrays as they are stored, by name."""


class GroupWriter:
    """One group of maps (a combo's, or the latents) being filled block by block.

    Parameters
    ----------
    rows : of the table of samples
    block : rows of a block
    may_write : raises where this process may not, or the store is not there any more
    """

    def __init__(self, path: Place, folder: Folder, name: str, rows: int, block: int,
                 may_write: Callable[[], None]) -> None:
        self.path = path
        self.folder = folder
        self.name = name
        self.rows = rows
        self.block = block
        self.attrs: dict[str, Any] = read_attrs(folder, name)
        self.marks = done.BlockMarks(folder, name)
        self._absent = frozenset(self.attrs.get(ABSENT, ()))
        self._may_write = may_write
        self._back: set[int] = set()
        self._noting = Lock()  # blocks may be written at a time
        self._seen: dict[int, int] | None = None  # marks, as `todo` found them

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is written within is written to this store, or refused in a line."""
        with disk_errors(self.path):
            self._may_write()
            try:
                yield
            except OSError:
                self._may_write()  # perhaps it went meanwhile, which is what there is to say
                raise

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self.attrs["maps"])

    @cached_property
    def encoding(self) -> Encoding:
        """How they are stored, fixed when it was made; a `StoreError` where it is not known."""
        first = read_array(self.folder, f"{self.name}/{self.maps[0]}")
        return encoding_of(f"{self.path}: {self.name}", self.attrs,
                           str(first.dtype) if first else "float16")

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Name of each stored array to what it is, in the order checksums run over them."""
        return {name + part.suffix: part for name in self.maps
                for part in self.encoding.parts(self.shape(name))}

    @cached_property
    def metas(self) -> dict[str, ArrayMeta]:
        """Of each stored array, in the same order; a `StoreError` where one is damaged."""
        names = [name + part.suffix for name in self.maps
                 for part in self.encoding.parts((1, 1, 1))]
        found = {name: read_array(self.folder, f"{self.name}/{name}") for name in names}
        good = {name: meta for name, meta in found.items() if meta
                and meta.packing != "other" and meta.block == self.block}
        for name in found.keys() - good.keys():
            raise StoreError(f"{self.path}: {self.name}/{name}/{META} is damaged; {MEND}")
        return good

    def shape(self, name: str) -> tuple[int, ...]:
        """(C, h, w) of one image's map."""
        return self.metas[name].shape[1:]

    def absent(self, rows: range) -> list[int]:
        """Rows that are void since their image was gone when they were written."""
        return [row for row in rows if row in self._absent]

    def todo(self, gone: Collection[int] = ()) -> Blocks:
        """Row ranges of blocks that are not done, or hold fewer rows than they should.

        Parameters
        ----------
        gone : rows whose image is not there now; a block is done without them
        """
        self._back = {row for row in self._absent if row not in gone}
        starts = np.arange(0, self.rows, self.block)
        marks = self.marks.read_all(len(starts))
        self._seen = dict(enumerate(marks.tolist()))
        short = done.rows_in(marks) < np.minimum(self.block, self.rows - starts)
        short[[row // self.block for row in self._back]] = True
        return Blocks(range(start, min(start + self.block, self.rows))
                      for start in starts[short].tolist())

    def kept(self, rows: range) -> int:
        """How many leading rows of a block need not be computed (images were added since)."""
        if self._back.intersection(rows):
            return 0
        block, seen = rows.start // self.block, self._seen
        mark = self.marks.read(block) if seen is None else seen.get(block, 0)
        return min(mark >> 32, len(rows))

    def fit(self) -> None:
        """Grow the arrays to the table of samples, and clear what a killed write left."""
        blocks = len(blocks_of(self.rows, self.block))
        with self._writing():
            self.folder.remove_partials(self.name)
            for name, meta in self.metas.items():
                self._grow(name, self.rows, *meta.shape[1:])
            self._grow(DONE, blocks)
            self.marks.make_files(blocks)
            self._grow(SUMS, blocks * len(self.parts) * self.block)

    def _grow(self, array: str, *shape: int) -> None:
        meta = read_array(self.folder, f"{self.name}/{array}")
        if meta is None or meta.shape[0] < shape[0]:
            resize(self.folder, f"{self.name}/{array}", shape)

    @property
    def lengths(self) -> list[int]:
        """Bytes of a row of each array."""
        return [self.metas[name].chunk for name in self.parts]

    def write_sums(self, block: int, found: Sums) -> None:
        """Write a block's table of row checksums."""
        self.folder.write(sums.key(self.name, block), [self._encoded(block, found)])

    def _encoded(self, block: int, found: Sums) -> bytes:
        salts = sums.salts(self.attrs["fingerprint"], self.parts, block)
        return sums.encode(found, self.block, salts)

    def read_kept(self, rows: range) -> Stored:
        """The kept rows of a block, of all arrays, checked against the block's checksum.

        Raises
        ------
        StoreError
            They are missing or damaged.
        """
        stop = rows.start + self.kept(rows)
        if stop == rows.start:
            return {n: np.empty((0, *p.shape), p.dtype) for n, p in self.parts.items()}
        try:
            kept = {n: self._read(n, range(rows.start, stop)) for n in self.parts}
            whole = done.mark(kept) == self.marks.read(rows.start // self.block)
        except Damaged:
            whole = False
        if not whole:
            raise StoreError(f"{self.path}: {self.name}: a finished block is missing or damaged;"
                             f" {MEND}")
        return kept

    def _read(self, name: str, rows: range) -> npt.NDArray[Any]:
        meta = self.metas[name]
        found = np.empty((len(rows), *meta.shape[1:]), meta.dtype)
        flat = [row.data for row in found.reshape(len(rows), -1).view(np.uint8)]
        Chunks(OpenFiles(self.folder), f"{self.name}/{name}", meta).read(rows, flat, "always")
        return found

    def begin(self, rows: range, arrays: Stored, void: Iterable[int]) -> None:
        """Fill arrays, each with room for the block's rows, with those that are kept, and with what
        stands for NaN in void ones."""
        places = [row - rows.start for row in void]
        for name, kept in self.read_kept(rows).items():
            arrays[name][: len(kept)] = kept
            arrays[name][places] = self.parts[name].fill

    def encode(self, name: str, values: npt.NDArray[Any]) -> Stored:
        """Rows of one map as they are stored; `DoesNotFit` where a value is too large."""
        return {name + suffix: array for suffix, array in encode(self.encoding, values).items()}

    def write(self, rows: range, maps: Maps, absent: Collection[int] = ()) -> None:
        """Write one whole block of values, name to (len(rows), C, h, w); see `write_stored`."""
        stored = [self.encode(name, maps[name]) for name in self.maps]
        self.write_stored(rows, {n: a for part in stored for n, a in part.items()}, absent)

    def write_stored(self, rows: range, arrays: Maps, absent: Collection[int] = (),
                     made: done.Provenance | None = None) -> None:
        """Write one whole block, then mark it done.

        Whatever happens on the way, the mark is true: it goes before rows that it vouches for are
        overwritten by others, and comes after all shards are there to stay.

        Parameters
        ----------
        rows : the block's rows
        arrays : name to the rows of each stored array
        absent : rows of the block whose image is gone; their maps are NaN
        made : what its rows were computed with; None where others write to the group, too, who
            cannot share an attribute: then `note_made` is for the process that holds the store

        Raises
        ------
        DiskError
            The disk refused; the block stays undone.
        """
        ordered = {n: np.ascontiguousarray(arrays[n], p.dtype) for n, p in self.parts.items()}
        block = rows.start // self.block
        with self._writing():
            if self.marks.read(rows.start // self.block) and not self.kept(rows):
                self.marks.write(block, 0)  # nothing is kept
            self._note_absent(rows, absent)
            mark = done.mark_of(self._put(block, ordered), self.lengths)
            if made:
                self.note_made(made)
            with self._noting:  # where a file holds several marks
                self.marks.write(block, mark, made.number if made else 0)
        if self._seen is not None:
            self._seen[block] = mark

    def _put(self, block: int, arrays: Maps) -> Sums:
        """Write a block's shards and its table of checksums, in any order: rows that a mark vouches
        for are the same in the old ones. The checksums of its rows."""
        @cache
        def sums_of(name: str) -> list[int]:
            return array_sums(arrays[name])

        def shard(name: str) -> list[bytes | memoryview]:
            return shard_parts(arrays[name], self.block, self.metas[name].packing, sums_of(name))

        def table() -> Sums:
            return np.array(list(map(sums_of, arrays)), np.uint32)
        shards = {shard_file(f"{self.name}/{name}", block, meta): partial(shard, name)
                  for name, meta in self.metas.items()}
        self.folder.write_many(shards | {
            sums.key(self.name, block): lambda: [self._encoded(block, table())]})
        return table()

    def note_absent(self, blocks: Iterable[range], gone: Collection[int]) -> None:
        """Say before these blocks are written which rows of them are void.

        Written at once, so that several workers need not share an attribute.
        """
        absent = set(self._absent)
        for rows in blocks:
            fresh = rows[self.kept(rows):]
            absent.difference_update(fresh)
            absent.update(row for row in fresh if row in gone)
        self._note(absent)

    def note_made(self, made: done.Provenance, rows: range | None = None) -> None:
        """Say what the number of this `Provenance` stands for, before any mark has it.

        Parameters
        ----------
        rows : of a finished block, whose mark then gets the number
        """
        with self._noting:
            if (noted := made.noted(self.attrs)) != self.attrs.get(MADE):
                self._put_attrs({MADE: noted})
            if rows:
                block = rows.start // self.block
                self.marks.write(block, self.marks.read(block), made.number)

    def _note_absent(self, rows: range, absent: Collection[int]) -> None:
        """Say before the data which rows of it are void."""
        with self._noting:
            if set(absent) != {row for row in rows if row in self._absent}:
                self._note(self._absent.difference(rows).union(absent))

    def _note(self, absent: Collection[int]) -> None:
        if absent != self._absent:
            self._put_attrs({ABSENT: sorted(absent)})
            self._absent = frozenset(absent)

    def _put_attrs(self, changed: Mapping[str, Any]) -> None:
        with self._writing():
            self.attrs = put_attrs(self.folder, self.name, {**self.attrs, **changed})
