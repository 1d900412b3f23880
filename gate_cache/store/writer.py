"""Writing a store: append samples, add groups (blocks: `gate_cache.store.format.groups`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import SHORT, Recipe, fingerprint
from gate_cache.core.places import Place, Url
from gate_cache.store.format import done
from gate_cache.store.format.attrs import (
    ATTRS,
    MEND,
    META,
    is_store,
    is_whole,
    open_store,
    read_array,
    read_attrs,
    read_meta,
)
from gate_cache.store.format.documents import make_array, put_attrs, write_array
from gate_cache.store.format.encodings import ENCODING, Encoding, Part
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import DONE, FORMAT, SAMPLES
from gate_cache.store.format.samples import (
    COLUMNS,
    NewSample,
    Samples,
    append_samples,
    create_samples,
    read_samples,
    seal_samples,
)
from gate_cache.store.lease import Claim, claim
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.places.folders import PARTIAL, Folder, open_folder

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
            used = found.encoding if found else asked
            parts = {name + part.suffix: part for name, shape in shapes.items()
                     for part in used.parts(shape)}
            lost = [name for name in parts if self._lacks(f"{group.path}/{name}")]
            for name in lost:
                make_part(self.folder, f"{group.path}/{name}", parts[name], self.block, used.codec)
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


def make_part(folder: Folder, key: str, part: Part, block: int, codec: str | None) -> None:
    """An empty array of a map: a chunk a row, a shard a block, each chunk with its checksum."""
    make_array(
        folder, key,
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
def alone(path: Place, waiting: Callable[[str], None] | None = None) -> Iterator[Claim]:
    """Keep other processes from writing to a store.

    Raises
    ------
    StoreError
        Another one does and is not waited for, or the place is only read.
    """
    if isinstance(path, Url) and path.web:
        raise StoreError(f"{path}: stores on web servers are only read; write to a disk, or to"
                         " s3://, gs:// or az://")
    with disk_errors(path):
        held = claim(open_folder(path.parent), path.name, path, waiting)
    try:
        yield held
    finally:
        held.release()


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
    with alone(path, waiting) as held:
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


def _create(path: Place, attrs: Any) -> None:
    """Make an empty store; its own attributes come last, so half a store is none."""
    folder = open_folder(path)
    if folder.there() and not _half_made(path, folder):
        raise StoreError(f"{path}: exists and is no store; give store.path another name")
    zarr.open_group(folder.zarr(), mode="w", zarr_format=3)
    create_samples(folder)
    put_attrs(folder, "", attrs)


def _half_made(path: Place, folder: Folder) -> bool:
    """Empty, or what a creation that was cut off leaves: nothing of anybody else's."""
    if isinstance(path, Path) and not path.is_dir():
        return False
    inside = [*folder.names(), *folder.names(SAMPLES)]
    whole = {name for name in inside if not name.endswith(PARTIAL)}
    return whole <= {"zarr.json", SAMPLES, *COLUMNS}
