"""Writing a store: append samples, add groups; see `gate_cache.store.groups` for their blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from gate_cache.errors import StoreError
from gate_cache.fingerprint import SHORT, Recipe, fingerprint
from gate_cache.places import Place, Url
from gate_cache.store.attrs import ATTRS, META, is_store, open_store, put_attrs, read_attrs, sealed
from gate_cache.store.claims import Claim, claim
from gate_cache.store.disk import disk_errors
from gate_cache.store.encodings import ENCODING, Encoding, Part
from gate_cache.store.folders import PARTIAL, Folder, open_folder
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

ZSTD_LEVEL = 1
"""Higher ones take longer and hardly make maps smaller."""


class StoreWriter:
    """A store opened for writing by this process alone. Use `open_writer`.

    Parameters
    ----------
    held : the right to write; None beside the process that has it
    """

    def __init__(self, path: Place, held: Claim | None = None) -> None:
        self.path = path
        self._held = held
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
            append_samples(self.folder, self._group, new)
        self.samples = read_samples(self.folder)
        return self.samples

    def find(self, recipe: Recipe) -> GroupWriter | None:
        """The group with this recipe, whatever it is called."""
        wanted = fingerprint(recipe)
        for name in self.folder.names():
            if read_attrs(self.folder, name).get("fingerprint") == wanted:
                return self._writer(cast("zarr.Group", self._group[name]))
        return None

    def _writer(self, group: zarr.Group) -> GroupWriter:
        return GroupWriter(self.path, self.folder, group, len(self.samples), self.block,
                           self._held)

    def require(
        self,
        label: str,
        recipe: Recipe,
        shapes: Mapping[str, tuple[int, ...]],
        encoding: Encoding | str,
        about: Mapping[str, Any],
    ) -> GroupWriter:
        """Open the group with this recipe, or make it.

        Parameters
        ----------
        label : the combo's name; the group is called ``<label>-<8 hex>``
        recipe : all that decides the values
        shapes : map name to (C, h, w)
        encoding : how maps are stored in a new group, or a dtype alone; an old one keeps its own
        about : further attributes (tokens, versions, weights)
        """
        with disk_errors(self.path):
            found = self.find(recipe)
            asked = Encoding.of(encoding)
            group = found._group if found else self._make(
                label, recipe, shapes, {**about, ENCODING: asked.to_json()})
            for name, shape in shapes.items():
                self._make_map(group, name, shape, found.encoding if found else asked)
            if DONE not in group:
                group.create_array(DONE, shape=(0,), chunks=(1,), dtype="uint64",
                                   compressors=None, fill_value=0)
                self.folder.settle(f"{group.path}/{DONE}/{META}")
        return self._writer(group)

    def _make(self, label: str, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]],
              about: Mapping[str, Any]) -> zarr.Group:
        digest = fingerprint(recipe)
        attrs = {"combo": label, "kind": recipe["kind"], "fingerprint": digest,
                 "maps": list(shapes), "recipe": recipe, **about}
        name = f"{label}-{digest[:SHORT]}"
        group = self._group.create_group(name, attributes={ATTRS: sealed(attrs)})
        self.folder.settle(f"{name}/{META}")
        return group

    def _make_map(self, group: zarr.Group, name: str, shape: tuple[int, ...],
                  encoding: Encoding) -> None:
        """The arrays of one map that are not there yet."""
        for part in encoding.parts(shape):
            if name + part.suffix not in group:
                _make_array(group, name, part, self.block, encoding.codec)
                self.folder.settle(f"{group.path}/{name}{part.suffix}/{META}")

    def upgrade(self) -> None:
        """Bring a store of an older format up to this one: what is there keeps its bytes."""
        if self.attrs["format"] == FORMAT:
            return
        with disk_errors(self.path):
            for name in self.folder.names():
                if attrs := read_attrs(self.folder, name):
                    put_attrs(self.folder, cast("zarr.Group", self._group[name]), attrs)
            seal_samples(self.folder, self._group, self.samples)
            self.attrs = put_attrs(self.folder, self._group, {**self.attrs, "format": FORMAT})


def _make_array(group: zarr.Group, name: str, part: Part, block: int, codec: str | None) -> None:
    """An empty array of a map: a chunk a row, a shard a block, each chunk with its checksum."""
    group.create_array(
        name + part.suffix,
        shape=(0, *part.shape),
        chunks=(1, *part.shape),
        shards=(block, *part.shape),
        dtype=part.dtype,
        compressors=[*([ZstdCodec(level=ZSTD_LEVEL)] if codec else ()), Crc32cCodec()],
        fill_value=part.fill,
        dimension_names=("sample", "channel", "y", "x")[: 1 + len(part.shape)],
        attributes={ATTRS: {"decode": part.decode}} if part.decode else None,
    )


def join_writer(path: Place) -> StoreWriter:
    """Write to a store beside the process that has opened it with `open_writer`, and asks for it.

    Whole blocks only, no block twice at a time, and no new groups or samples.
    """
    with disk_errors(path):
        return StoreWriter(path)


@contextmanager
def open_writer(path: Place, dataset: str, block: int, batch: int, versions: Mapping[str, str],
                threads: int | None = None, waiting: Callable[[str], None] | None = None,
                ) -> Iterator[StoreWriter]:
    """Open a store for writing, making it where there is none; one writer at a time.

    Parameters
    ----------
    path : the store's folder, or a URL
    dataset : name of the data set; another one's store is refused
    block, batch, threads : for a new store; an old one keeps its own
    versions : of the libraries, noted in a new store
    waiting : is told who is waited for, where another process writes to it; None does not wait

    Raises
    ------
    StoreError
        Another process writes to it and is not waited for, it belongs to another data set,
        or is no store.
    """
    if isinstance(path, Url) and path.web:
        raise StoreError(f"{path}: stores on web servers are only read; write to a disk, or to"
                         " s3://, gs:// or az://")
    with disk_errors(path):
        held = claim(open_folder(path.parent), path.name, path, waiting)
    try:
        with disk_errors(path):
            if not is_store(path):
                _create(path, {"format": FORMAT, "dataset": dataset, "block": block,
                               "batch": batch, "threads": threads, "versions": dict(versions)})
            writer = StoreWriter(path, held)
        if writer.attrs["dataset"] != dataset:
            raise StoreError(f"{path}: holds maps of '{writer.attrs['dataset']}', not of"
                             f" '{dataset}'; give store.path another name")
        writer.upgrade()
        yield writer
    finally:
        held.release()


def _create(path: Place, attrs: Any) -> None:
    """Make an empty store; its own attributes come last, so half a store is none."""
    folder = open_folder(path)
    if folder.there() and not _half_made(path, folder):
        raise StoreError(f"{path}: exists and is no store; give store.path another name")
    group = zarr.open_group(folder.zarr(), mode="w", zarr_format=3)
    create_samples(group)
    put_attrs(folder, group, attrs)


def _half_made(path: Place, folder: Folder) -> bool:
    """Empty, or what a creation that was cut off leaves: nothing of anybody else's."""
    if isinstance(path, Path) and not path.is_dir():
        return False
    inside = [*folder.names(), *folder.names(SAMPLES)]
    whole = {name for name in inside if not name.endswith(PARTIAL)}
    return whole <= {"zarr.json", SAMPLES, *COLUMNS}
