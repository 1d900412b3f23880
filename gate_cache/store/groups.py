"""Writing one group of a store: whole blocks, then a mark that they are done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from gate_cache.errors import StoreError
from gate_cache.store import done
from gate_cache.store.attrs import MEND, META, ArrayMeta, array_in, read_array, read_attrs
from gate_cache.store.chunks import Chunks, OpenFiles
from gate_cache.store.disk import disk_errors
from gate_cache.store.documents import put_attrs, resize
from gate_cache.store.folders import Folder
from gate_cache.store.layout import ABSENT, DEVICES, DONE, blocks_of
from gate_cache.store.shards import Damaged, shard_parts

Maps = Mapping[str, npt.NDArray[Any]]


class GroupWriter:
    """One group of maps (a combo's, or the latents) being filled block by block."""

    def __init__(self, path: Path, folder: Folder, group: zarr.Group, rows: int,
                 block: int) -> None:
        self.path = path
        self.folder = folder
        self.name = group.path
        self._group = group
        self.rows = rows
        self.block = block
        self.attrs: dict[str, Any] = read_attrs(folder, group.path)
        self._back: set[int] = set()

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, in the order checksums run over them."""
        return tuple(self.attrs["maps"])

    @cached_property
    def _metas(self) -> dict[str, ArrayMeta]:
        found = {name: read_array(self.folder, f"{self.name}/{name}") for name in self.maps}
        bad = [name for name, meta in found.items() if meta is None]
        if bad:
            raise StoreError(f"{self.path}: {self.name}/{bad[0]}/{META} is damaged; {MEND}")
        return {name: meta for name, meta in found.items() if meta}

    def dtype(self, name: str) -> np.dtype[Any]:
        """Stored dtype of a map."""
        return self._metas[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """(C, h, w) of one image's map."""
        return self._metas[name].shape[1:]

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
        have = done.rows_in(done.read_marks(self.folder, self.name))
        return [rows for i, rows in enumerate(blocks_of(self.rows, self.block))
                if i >= len(have) or have[i] < len(rows) or self._back.intersection(rows)]

    def kept(self, rows: range) -> int:
        """How many leading rows of a block need not be computed (images were added since)."""
        mark = self._mark(rows)
        return 0 if self._back.intersection(rows) else mark >> 32

    def _mark(self, rows: range) -> int:
        return done.read_mark(self.folder, self.name, rows.start // self.block)

    def fit(self) -> None:
        """Grow the arrays to the table of samples, and clear what a killed write left."""
        with disk_errors(self.path):
            self.folder.remove_partials(self.name)
            for name in self.maps:
                if self._metas[name].shape[0] < self.rows:
                    resize(self.folder, f"{self.name}/{name}", (self.rows, *self.shape(name)))
            marks, blocks = f"{self.name}/{DONE}", len(blocks_of(self.rows, self.block))
            if done.slots(self.folder, self.name) < blocks:
                resize(self.folder, marks, (blocks,))

    def recheck(self) -> None:
        """Undo blocks that do not read back whole: these arrays were made anew over old shards.

        Rows that are void are undone too: which they are may have been lost.
        """
        self.fit()
        for rows in blocks_of(self.rows, self.block):
            try:
                whole = all(np.isfinite(m).all() for m in self.read_kept(rows).values())
            except StoreError:
                whole = False
            if not whole:
                done.write_mark(self.folder, self.name, rows.start // self.block, 0)

    def read_kept(self, rows: range) -> dict[str, npt.NDArray[Any]]:
        """The kept rows of a block, of all maps, checked against the block's checksum.

        Raises
        ------
        StoreError
            They are missing or damaged.
        """
        stop = rows.start + self.kept(rows)
        if stop == rows.start:
            return {n: np.empty((0, *self.shape(n)), self.dtype(n)) for n in self.maps}
        try:
            maps = {n: self._read(n, range(rows.start, stop)) for n in self.maps}
        except (Damaged, ValueError):  # zarr's answer to a wrong crc32c
            maps = {}
        if not maps or done.mark(maps) != self._mark(rows):
            raise StoreError(f"{self.path}: {self.name}: a finished block is missing or damaged;"
                             f" {MEND}")
        return maps

    def _read(self, name: str, rows: range) -> npt.NDArray[Any]:
        meta = self._metas[name]
        if not meta.plain:
            return np.asarray(array_in(self._group, name)[rows.start : rows.stop])
        found = np.empty((len(rows), *meta.shape[1:]), meta.dtype)
        flat = found.reshape(len(rows), -1).view(np.uint8)
        chunks = Chunks(OpenFiles(self.folder), f"{self.name}/{name}", self.block, meta.chunk,
                        len(meta.shape))
        chunks.read(rows, [row.data for row in flat], "always")
        return found

    def write(self, rows: range, maps: Maps, absent: Collection[int] = ()) -> None:
        """Write one whole block, then mark it done.

        Whatever happens on the way, the mark is true: it goes before rows that it vouches for are
        overwritten by others, and comes after all shards are there to stay.

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
        ordered = {name: np.ascontiguousarray(maps[name], self.dtype(name)) for name in self.maps}
        block = rows.start // self.block
        with disk_errors(self.path):
            if self._mark(rows) and not self.kept(rows):
                done.write_mark(self.folder, self.name, block, 0)  # nothing is kept
            self._note_absent(rows, absent)
            for name, array in ordered.items():
                self._put(name, block, array)
            done.write_mark(self.folder, self.name, block, done.mark(ordered))

    def _put(self, name: str, block: int, array: npt.NDArray[Any]) -> None:
        key = f"{self.name}/{name}/c/{block}{'/0' * (array.ndim - 1)}"
        if self._metas[name].plain:
            self.folder.write(key, shard_parts(array, self.block))
            return
        start = block * self.block
        with zarr.config.set({"array.write_empty_chunks": True}):
            array_in(self._group, name)[start : start + len(array)] = array
        self.folder.settle(key)

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

    def note_device(self, device: str) -> None:
        """Say that some rows are computed on this device."""
        known = self.attrs.get(DEVICES, [])
        if device not in known:
            with disk_errors(self.path):
                self.attrs = put_attrs(self.folder, self.name,
                                       {**self.attrs, DEVICES: sorted([*known, device])})

    def _note_absent(self, rows: range, absent: Collection[int]) -> None:
        """Say before the data which rows of it are void."""
        self._note(set(self.attrs.get(ABSENT, ())).difference(rows).union(absent))

    def _note(self, absent: set[int]) -> None:
        if absent != set(self.attrs.get(ABSENT, ())):
            with disk_errors(self.path):
                self.attrs = put_attrs(self.folder, self.name,
                                       {**self.attrs, ABSENT: sorted(absent)})
