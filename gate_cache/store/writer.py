"""Writing a store: append samples, add groups; see `gate_cache.store.groups` for their blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import filelock
import zarr
from zarr.codecs import Crc32cCodec

from gate_cache.errors import StoreError
from gate_cache.fingerprint import SHORT, Recipe, fingerprint
from gate_cache.store import done
from gate_cache.store.attrs import (
    MEND,
    META,
    is_store,
    is_whole,
    open_store,
    read_array,
    read_attrs,
    read_meta,
)
from gate_cache.store.disk import disk_errors
from gate_cache.store.documents import make_array, put_attrs, write_array
from gate_cache.store.folders import open_folder
from gate_cache.store.groups import GroupWriter
from gate_cache.store.layout import DONE, FORMAT, SAMPLES
from gate_cache.store.samples import (
    COLUMNS,
    NewSample,
    Samples,
    append_samples,
    create_samples,
    read_samples,
    seal_samples,
)


class StoreWriter:
    """A store opened for writing by this process alone. Use `open_writer`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder, self.attrs = open_store(path)
        self._group = zarr.open_group(self.folder.zarr(), mode="r+", zarr_format=3)
        try:
            self.samples = read_samples(self.folder, checked=self.attrs["format"] > 1)
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from None

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
            append_samples(self.folder, new)
        self.samples = read_samples(self.folder)
        return self.samples

    def find(self, recipe: Recipe) -> GroupWriter | None:
        """The group with this recipe, whatever it is called.

        Raises
        ------
        StoreError
            It is there, but its metadata is damaged.
        """
        wanted = fingerprint(recipe)
        for name in self.folder.names():
            attrs = read_attrs(self.folder, name)
            if attrs.get("fingerprint") == wanted or name.endswith(f"-{wanted[:SHORT]}"):
                if is_whole(attrs, self.attrs["format"]):
                    return self._writer(cast("zarr.Group", self._group[name]))
                self._refuse_damaged(name)
        return None

    def _refuse_damaged(self, key: str) -> None:
        if self.folder.read(f"{key}/{META}") is not None:
            raise StoreError(f"{self.path}: {key}/{META} is damaged; {MEND}")

    def _writer(self, group: zarr.Group) -> GroupWriter:
        return GroupWriter(self.path, self.folder, group, len(self.samples), self.block)

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
            lost = [name for name in shapes if self._lacks(f"{group.path}/{name}")]
            for name in lost:
                self._make_map(group, name, shapes[name], dtype)
            if self._lacks(f"{group.path}/{DONE}"):
                write_array(self.folder, f"{group.path}/{DONE}", done.document(0))
            writer = self._writer(group)
            if (lost or not found) and done.read_marks(self.folder, group.path).any():
                writer.recheck()
        return writer

    def _lacks(self, key: str) -> bool:
        """Whether an array is to be made."""
        if read_array(self.folder, key) is not None:
            return False
        self._refuse_damaged(key)
        return True

    def _make(self, label: str, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]],
              about: Mapping[str, Any]) -> zarr.Group:
        digest = fingerprint(recipe)
        attrs = {"combo": label, "kind": recipe["kind"], "fingerprint": digest,
                 "maps": list(shapes), "recipe": recipe, **about}
        old = [n for n in self.folder.names() if n.endswith(f"-{digest[:SHORT]}")]
        name = old[0] if old else f"{label}-{digest[:SHORT]}"  # one that lost its metadata
        put_attrs(self.folder, name, attrs)
        return cast("zarr.Group", self._group[name])

    def _make_map(self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
        make_array(
            self.folder, f"{group.path}/{name}",
            shape=(0, *shape),
            chunks=(1, *shape),
            shards=(self.block, *shape),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),
            dimension_names=("sample", "channel", "y", "x"),
        )

    def upgrade(self) -> None:
        """Bring a store of an older format up to this one: what is there keeps its bytes."""
        if self.attrs["format"] == FORMAT:
            return
        with disk_errors(self.path):
            for name in self.folder.names():
                attrs = read_attrs(self.folder, name)
                for array in self.folder.names(name) if attrs or name == SAMPLES else ():
                    if document := read_meta(self.folder, f"{name}/{array}"):
                        write_array(self.folder, f"{name}/{array}", document)
                if attrs:
                    put_attrs(self.folder, name, attrs)
            seal_samples(self.folder, self.samples)
            self.attrs = put_attrs(self.folder, "", {**self.attrs, "format": FORMAT})


def join_writer(path: Path) -> StoreWriter:
    """Write to a store beside the process that has opened it with `open_writer`, and asks for it.

    Whole blocks only, no block twice at a time, and no new groups or samples.
    """
    with disk_errors(path):
        return StoreWriter(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a store.

    Raises
    ------
    StoreError
        Another one does.
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
        yield
    finally:
        lock.release()


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
    with alone(path):
        with disk_errors(path):
            if not is_store(path):
                _create(path, {"format": FORMAT, "dataset": dataset, "block": block,
                               "batch": batch, "threads": threads, "versions": dict(versions)})
            writer = StoreWriter(path)
        if writer.attrs["dataset"] != dataset:
            raise StoreError(f"{path}: holds maps of '{writer.attrs['dataset']}', not of"
                             f" '{dataset}'; give store.path another name")
        writer.upgrade()
        yield writer


def _create(path: Path, attrs: Any) -> None:
    """Make an empty store; its own attributes come last, so half a store is none."""
    if path.exists() and not _half_made(path):
        raise StoreError(f"{path}: exists and is no store; give store.path another name")
    folder = open_folder(path)
    zarr.open_group(folder.zarr(), mode="w", zarr_format=3)
    create_samples(folder)
    put_attrs(folder, "", attrs)


def _half_made(path: Path) -> bool:
    """Empty, or what a creation that was cut off leaves: nothing of anybody else's."""
    if not path.is_dir():
        return False
    table = path / SAMPLES
    inside = [*path.iterdir(), *(table.iterdir() if table.is_dir() else ())]
    whole = {p.name for p in inside if p.suffix != ".partial"}
    return whole <= {"zarr.json", SAMPLES, *COLUMNS}
