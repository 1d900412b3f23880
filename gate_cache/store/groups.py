"""Writing one group of a store: whole blocks, then a mark that they are done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from gate_cache.errors import StoreError
from gate_cache.store import done
from gate_cache.store.attrs import ATTRS, array_in, attrs_of
from gate_cache.store.disk import disk_errors, remove_partials
from gate_cache.store.layout import ABSENT, DONE, blocks_of

Maps = Mapping[str, npt.NDArray[Any]]


class GroupWriter:
    """One group of maps (a combo's, or the latents) being filled block by block."""

    def __init__(self, path: Path, group: zarr.Group, rows: int, block: int) -> None:
        self.path = path
        self._group = group
        self.rows = rows
        self.block = block
        self.attrs: dict[str, Any] = attrs_of(group)
        self._back: set[int] = set()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, in the order checksums run over them."""
        return tuple(self.attrs["maps"])

    def _array(self, name: str) -> zarr.Array[Any]:
        return array_in(self._group, name)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Stored dtype of a map."""
        return np.dtype(self._array(name).dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        """(C, h, w) of one image's map."""
        return tuple(self._array(name).shape[1:])

    def absent(self, rows: range) -> list[int]:
        """Rows that are void since their image was gone when they were written."""
        return [row for row in self.attrs.get(ABSENT, ()) if row in rows]

    def todo(self, gone: Collection[int] = ()) -> list[range]:
        """Row ranges of blocks that are not done, or hold fewer rows than they should.

        Parameters
        ----------
        gone : rows whose image is not there now; a block is done without them
        """
        self._back = {row for row in self.attrs.get(ABSENT, ()) if row not in gone}
        have = done.rows_in(np.asarray(self._array(DONE)[:], np.uint64))
        return [rows for i, rows in enumerate(blocks_of(self.rows, self.block))
                if i >= len(have) or have[i] < len(rows) or self._back.intersection(rows)]

    def kept(self, rows: range) -> int:
        """How many leading rows of a block need not be computed (images were added since)."""
        mark = self._mark(rows)
        return 0 if self._back.intersection(rows) else mark >> 32

    def _mark(self, rows: range) -> int:
        marks, index = self._array(DONE), rows.start // self.block
        return int(np.asarray(marks[index], np.uint64)) if index < marks.shape[0] else 0

    def fit(self) -> None:
        """Grow the arrays to the table of samples, and clear what a killed write left."""
        with disk_errors(self.path):
            remove_partials(self.path / self._group.path)
            for name in self.maps:
                array = self._array(name)
                if array.shape[0] < self.rows:
                    array.resize((self.rows, *array.shape[1:]))
            marks, blocks = self._array(DONE), len(blocks_of(self.rows, self.block))
            if marks.shape[0] < blocks:
                marks.resize((blocks,))

    def read_kept(self, rows: range) -> dict[str, npt.NDArray[Any]]:
        """The kept rows of a block, of all maps, checked against the block's checksum.

        Raises
        ------
        StoreError
            They are missing or damaged.
        """
        stop = rows.start + self.kept(rows)
        try:
            maps = {n: np.asarray(self._array(n)[rows.start : stop]) for n in self.maps}
        except ValueError:  # zarr's answer to a wrong crc32c
            maps = {}
        if stop > rows.start and (not maps or done.mark(maps) != self._mark(rows)):
            raise StoreError(f"{self.path}: {self._group.path}: a finished block is missing or"
                             " damaged; remove that group and extract again")
        return maps

    def write(self, rows: range, maps: Maps, absent: Collection[int] = ()) -> None:
        """Write one whole block, then mark it done.

        Parameters
        ----------
        rows : the block's rows
        maps : name to array (len(rows), C, h, w)
        absent : rows of the block whose image is gone; their maps are NaN

        Raises
        ------
        DiskError
            The disk refused; the block stays undone.
        """
        ordered = {name: np.asarray(maps[name], self.dtype(name)) for name in self.maps}
        with disk_errors(self.path), zarr.config.set({"array.write_empty_chunks": True}):
            if self._mark(rows) and not self.kept(rows):
                self._array(DONE)[rows.start // self.block] = np.uint64(0)  # nothing is kept
            self._note_absent(rows, absent)
            for name, array in ordered.items():
                self._array(name)[rows.start : rows.stop] = array
            self._array(DONE)[rows.start // self.block] = np.uint64(done.mark(ordered))

    def note_absent(self, blocks: Iterable[range], gone: Collection[int]) -> None:
        """Say before these blocks are written which rows of them are void.

        Written at once, so that several workers need not share an attribute.
        """
        kept = set(self.attrs.get(ABSENT, ()))
        for rows in blocks:
            stay = rows[: self.kept(rows)]
            kept = {r for r in kept if r not in rows or r in stay}
            kept |= {r for r in rows[len(stay):] if r in gone}
        self._note(kept)

    def _note_absent(self, rows: range, absent: Collection[int]) -> None:
        """Say before the data which rows of it are void."""
        self._note(set(self.attrs.get(ABSENT, ())).difference(rows).union(absent))

    def _note(self, absent: set[int]) -> None:
        if absent != set(self.attrs.get(ABSENT, ())):
            with disk_errors(self.path):
                self.attrs[ABSENT] = sorted(absent)
                self._group.attrs.update({ATTRS: self.attrs})
