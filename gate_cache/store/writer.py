"""Writing a store: append samples, add groups, write whole blocks, then mark them done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from gate_cache.errors import StoreError
from gate_cache.fingerprint import SHORT, Recipe, fingerprint
from gate_cache.store import done
from gate_cache.store.attrs import ATTRS, array_in, attrs_of, is_store, open_group, store_attrs
from gate_cache.store.disk import disk_errors, remove_partials
from gate_cache.store.layout import ABSENT, DONE, FORMAT, SAMPLES, blocks_of
from gate_cache.store.samples import (
    COLUMNS,
    NewSample,
    Samples,
    append_samples,
    create_samples,
    read_samples,
)

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


class StoreWriter:
    """A store opened for writing by this process alone. Use `open_writer`."""

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self.attrs = store_attrs(path, group)
        self.samples = read_samples(group)

    @property
    def block(self) -> int:
        """Rows of a block, fixed when the store was made."""
        return int(self.attrs["block"])

    @property
    def batch(self) -> int:
        """Images per forward pass, fixed when the store was made."""
        return int(self.attrs["batch"])

    @property
    def threads(self) -> int | None:
        """CPU threads of a pass, fixed when the store was made; None in older stores."""
        return self.attrs.get("threads")

    def append(self, new: Sequence[NewSample]) -> Samples:
        """Append rows to the table; they count once the group's attribute says so."""
        with disk_errors(self.path):
            append_samples(self._group, new)
        self.samples = read_samples(self._group)
        return self.samples

    def find(self, recipe: Recipe) -> GroupWriter | None:
        """The group with this recipe, whatever it is called."""
        wanted = fingerprint(recipe)
        for name, group in self._group.groups():
            if name != SAMPLES and attrs_of(group).get("fingerprint") == wanted:
                return GroupWriter(self.path, group, len(self.samples), self.block)
        return None

    def require(
        self,
        label: str,
        recipe: Recipe,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        about: Mapping[str, Any],
    ) -> GroupWriter:
        """Open the group with this recipe, or make it.

        Parameters
        ----------
        label : the combo's name; the group is called ``<label>-<8 hex>``
        recipe : all that decides the values
        shapes : map name to (C, h, w)
        dtype : of the stored maps, for a new group
        about : further attributes (tokens, versions, weights)
        """
        with disk_errors(self.path):
            found = self.find(recipe)
            group = found._group if found else self._make(label, recipe, shapes, about)
            for name, shape in shapes.items():
                if name not in group:
                    self._make_map(group, name, shape, dtype)
            if DONE not in group:
                group.create_array(DONE, shape=(0,), chunks=(1,), dtype="uint64",
                                   compressors=None, fill_value=0)
        return GroupWriter(self.path, group, len(self.samples), self.block)

    def _make(self, label: str, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]],
              about: Mapping[str, Any]) -> zarr.Group:
        digest = fingerprint(recipe)
        attrs = {"combo": label, "kind": recipe["kind"], "fingerprint": digest,
                 "maps": list(shapes), "recipe": recipe, **about}
        return self._group.create_group(f"{label}-{digest[:SHORT]}", attributes={ATTRS: attrs})

    def _make_map(self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
        group.create_array(
            name,
            shape=(0, *shape),
            chunks=(1, *shape),
            shards=(self.block, *shape),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),
            dimension_names=("sample", "channel", "y", "x"),
        )


def join_writer(path: Path) -> StoreWriter:
    """Write to a store beside the process that has opened it with `open_writer`, and asks for it.

    Whole blocks only, no block twice at a time, and no new groups or samples.
    """
    with disk_errors(path):
        return StoreWriter(path, open_group(path, "r+"))


@contextmanager
def open_writer(path: Path, dataset: str, block: int, batch: int, versions: Mapping[str, str],
                threads: int | None = None) -> Iterator[StoreWriter]:
    """Open a store for writing, making it where there is none; one writer at a time.

    Parameters
    ----------
    path : the store's folder
    dataset : name of the data set; another one's store is refused
    block, batch, threads : for a new store; an old one keeps its own
    versions : of the libraries, noted in a new store

    Raises
    ------
    StoreError
        Another process writes to it, it belongs to another data set, or is no store.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.parent / f".{path.name}.lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise StoreError(f"{path}: another gate-cache extract is writing to this store; wait"
                             " until it ends") from None
    try:
        with disk_errors(path):
            if not is_store(path):
                _create(path, {"format": FORMAT, "dataset": dataset, "block": block,
                               "batch": batch, "threads": threads, "versions": dict(versions)})
            writer = StoreWriter(path, open_group(path, "r+"))
        if writer.attrs["dataset"] != dataset:
            raise StoreError(f"{path}: holds maps of '{writer.attrs['dataset']}', not of"
                             f" '{dataset}'; give store.path another name")
        yield writer
    finally:
        lock.release()


def _create(path: Path, attrs: Any) -> None:
    """Make an empty store; its own attributes come last, so half a store is none."""
    if path.exists() and not _half_made(path):
        raise StoreError(f"{path}: exists and is no store; give store.path another name")
    group = zarr.open_group(path, mode="w", zarr_format=3)
    create_samples(group)
    group.attrs.update({ATTRS: attrs})


def _half_made(path: Path) -> bool:
    """Empty, or what a creation that was cut off leaves: nothing of anybody else's."""
    if not path.is_dir():
        return False
    table = path / SAMPLES
    inside = [*path.iterdir(), *(table.iterdir() if table.is_dir() else ())]
    whole = {p.name for p in inside if p.suffix != ".partial"}
    return whole <= {"zarr.json", SAMPLES, *COLUMNS}
