"""Writing a store: append samples, add groups (blocks: `gate_cache.store.format.groups`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import SHORT, Recipe, fingerprint
from gate_cache.core.size import SHAPE
from gate_cache.core.versions import versions
from gate_cache.store.format import done, sums
from gate_cache.store.format.attrs import MEND, META, is_whole, read_array, read_attrs
from gate_cache.store.format.columns import append_samples, read_samples
from gate_cache.store.format.documents import make_part, put_attrs, write_array, write_listing
from gate_cache.store.format.encodings import ENCODING, Encoding, Part
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import DONE, FORMAT, LATENTS, SUMS, blocks_of
from gate_cache.store.format.samples import NewSample, Samples
from gate_cache.store.format.unkept import UnkeptGroup
from gate_cache.store.holding import Held, ReadOnly, hold_or_look
from gate_cache.store.opening import create_store, is_store, open_store
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.upgrading import bind, recheck, seal

if TYPE_CHECKING:
    from gate_cache.core.codecs import Codec
    from gate_cache.core.places import Place


class StoreWriter:
    """A store opened for writing by this process alone. Use `open_writer`.

    Parameters
    ----------
    held : the right to write; None beside the process that has it
    """

    def __init__(self, path: Place, held: Held | None = None) -> None:
        self.path = path
        self._held = held
        self.folder, self.attrs = open_store(path)
        self._identity = self.folder.identity()
        self._used: set[str] = set()  # groups that are written to
        try:
            self.samples = read_samples(self.folder, self.attrs["format"])
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from None

    def check(self) -> None:
        """Be sure that this process may write, and to the store that it has opened.

        Raises
        ------
        StoreError
            Another process has taken over, or the store was removed or replaced.
        DiskError
            The disk is only read.
        """
        if self._held:
            self._held.check()
        self.need_there()

    @property
    def joined(self) -> bool:
        """Whether another process holds the store, for which this one writes blocks."""
        return self._held is None

    def need_there(self) -> None:
        """Raise `StoreError` where the store, or a group in use, was removed or replaced."""
        metas = [META, *(f"{name}/{META}" for name in sorted(self._used))]
        if self.folder.identity() != self._identity or None in self.folder.read_many(metas):
            raise StoreError(f"{self.path}: was removed or replaced while this run wrote to it; run"
                             " the same command again to make what is missing")

    @property
    def block(self) -> int:
        """Rows of a block, fixed when the store was made."""
        return int(self.attrs["block"])

    @property
    def batch(self) -> int:
        """Images per forward pass, fixed when the store was made."""
        return int(self.attrs["batch"])

    def note_batch(self, batch: int) -> None:
        """Have later runs begin with so many images per forward pass."""
        with disk_errors(self.path):
            self.check()
            self.attrs = put_attrs(self.folder, "", {**self.attrs, "batch": batch})

    @property
    def threads(self) -> int | None:
        """CPU threads of a pass, fixed when the store was made; None in older stores."""
        return self.attrs.get("threads")

    def append(self, new: Sequence[NewSample]) -> Samples:
        """Append rows to the table; they count once the group's attribute says so."""
        with disk_errors(self.path):
            self.check()
            self.samples = append_samples(self.folder, self.samples, new)
        return self.samples

    def find(self, recipe: Recipe) -> GroupWriter | None:
        """The group with this recipe, whatever it is called.

        Raises
        ------
        StoreError
            It is there, but its metadata is damaged.
        """
        digest = fingerprint(recipe)
        for name in self.folder.names():
            attrs = read_attrs(self.folder, name)
            if attrs.get("fingerprint") == digest or name.endswith(f"-{digest[:SHORT]}"):
                if is_whole(attrs, self.attrs["format"]):
                    return self._writer(name)
                self._refuse_damaged(name)
        return None

    def _refuse_damaged(self, key: str) -> None:
        if self.folder.read(f"{key}/{META}") is not None:
            raise StoreError(f"{self.path}: {key}/{META} is damaged; {MEND}")

    def _writer(self, name: str) -> GroupWriter:
        own = self.samples.of_shape(read_attrs(self.folder, name).get("recipe", {}))
        return GroupWriter(self.path, self.folder, name, len(self.samples if own is None else own),
                           self.block, self.check)

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
            group, requested = self.find(recipe), self._as_beside(recipe) or Encoding.of(encoding)
            name = group.name if group else self._make(
                label, recipe, shapes, {**about, ENCODING: requested.to_json()})
            used = group.encoding if group else requested
            parts = {map_ + part.suffix: part for map_, shape in shapes.items()
                     for part in used.parts(shape)}
            lost = self._complete(name, parts, used.codec)
            self._used.add(name)
            writer = self._writer(name)
            if self.joined and writer.marks.one_writer:
                raise StoreError(f"{self.path}: marks of {name} share files, as on a disk, and"
                                 " several workers cannot write them there; leave out --workers")
            blocks = len(blocks_of(writer.rows, self.block))
            if (lost or not group) and writer.marks.read_all(blocks).any():
                recheck(writer)
        return writer

    def _as_beside(self, recipe: Recipe) -> Encoding | None:
        """How the maps of other shapes are stored, of the same combo, if there are any."""
        for name in self.folder.names() if SHAPE in recipe else ():
            beside = read_attrs(self.folder, name)
            if is_whole(beside, self.attrs["format"]) and SHAPE in beside["recipe"] \
                    and {**beside["recipe"], SHAPE: recipe[SHAPE]} == recipe:
                return self._writer(name).encoding
        return None

    def require_latents(self, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]],
                        about: Mapping[str, Any], keep: bool) -> GroupWriter:
        """The group of latents; where none is there and none is to be kept, what stands for it."""
        if keep or self.find(recipe):
            return self.require(LATENTS, recipe, shapes, "float32", about)
        return UnkeptGroup(self.path, self.folder, self.block, shapes)

    def _complete(self, group: str, parts: Mapping[str, Part], codec: Codec | None) -> bool:
        """Make the arrays that a group lacks; whether any of its maps was among them."""
        lost = [name for name in parts if self._lacks(f"{group}/{name}")]
        others = {DONE: done.document(0, done.BlockMarks(self.folder, group).width),
                  SUMS: sums.document(0, len(parts), self.block)}
        missing = [name for name in others if self._lacks(f"{group}/{name}")]
        if lost or missing:
            self.check()
        for name in lost:
            make_part(self.folder, f"{group}/{name}", parts[name], self.block, codec)
        for name in missing:
            write_array(self.folder, f"{group}/{name}", others[name])
        return bool(lost)

    def _lacks(self, key: str) -> bool:
        """Whether an array is to be made."""
        if read_array(self.folder, key) is not None:
            return False
        self._refuse_damaged(key)
        return True

    def _make(self, label: str, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]],
              about: Mapping[str, Any]) -> str:
        self.check()
        digest = fingerprint(recipe)
        attrs = {"combo": label, "kind": recipe["kind"], "fingerprint": digest,
                 "maps": list(shapes), "recipe": recipe, **about}
        old = [n for n in self.folder.names() if n.endswith(f"-{digest[:SHORT]}")]
        of = f"-{'x'.join(map(str, recipe[SHAPE]))}" if SHAPE in recipe else ""
        name = old[0] if old else f"{label}{of}-{digest[:SHORT]}"  # one that lost its metadata
        put_attrs(self.folder, name, attrs)
        return name

    def upgrade(self) -> None:
        """Bring up what an older release has written: all that is there keeps its bytes."""
        if isinstance(self._held, ReadOnly):
            return
        with disk_errors(self.path):
            groups = {name: attrs for name in self.folder.names()
                      if is_whole(attrs := read_attrs(self.folder, name), self.attrs["format"])}
            if self.attrs["format"] < FORMAT:
                self.attrs = seal(self.folder, self.attrs, self.samples, groups)
            for name in groups:
                bind(self._writer(name))

    def list_groups(self) -> None:
        """Bring the store's list of groups and arrays up to date, if this process may write."""
        if isinstance(self._held, ReadOnly) or self.folder.identity() != self._identity:
            return
        with suppress(OSError, StoreError):  # it is a help to readers, and hides no other error
            self.check()
            write_listing(self.folder)


def join_writer(path: Place) -> StoreWriter:
    """Write to a store beside the process that has opened it with `open_writer`, and asks for it.

    Whole blocks only, no block twice at a time, and no new groups or samples.
    """
    with disk_errors(path):
        return StoreWriter(path)


@contextmanager
def open_writer(path: Place, dataset: str, block: int, batch: int,
                threads: int | None = None, waiting: Callable[[str], None] | None = None,
                ) -> Iterator[StoreWriter]:
    """Open a store for writing, making it where there is none; one writer at a time.

    Parameters
    ----------
    path : the store's folder, or a URL
    dataset : name of the data set; another one's store is refused
    block, batch, threads : for a new store; an old one keeps its own
    waiting : is told who is waited for, where another process writes to it; None does not wait

    Raises
    ------
    StoreError
        Another process writes to it and is not waited for, it belongs to another data set,
        or is not a store.
    """
    held = hold_or_look(path, waiting)
    try:
        with disk_errors(path):
            if not is_store(path):
                create_store(path, {"format": FORMAT, "dataset": dataset, "block": block,
                                    "batch": batch, "threads": threads, "versions": versions()})
            writer = StoreWriter(path, held)
        if writer.attrs["dataset"] != dataset:
            raise StoreError(f"{path}: holds maps of '{writer.attrs['dataset']}', not of"
                             f" '{dataset}'; give store.path another name")
        writer.upgrade()
        try:
            yield writer
        finally:
            writer.list_groups()
        writer.need_there()
        writer.folder.flush()
    finally:
        held.release()
