"""Copying a store, or a part of it, to another place: block by block, every row checked.

A copy is written as an extraction writes: it is a store of its own, may be cut off at any time, and
goes on where it was. A combo of which some maps alone are copied has the recipe, and so the
fingerprint, of a combo for which only these were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError, did_you_mean
from gate_cache.core.places import Place
from gate_cache.core.progress import Progress, Silent
from gate_cache.store.format import done
from gate_cache.store.format.attrs import CHECKSUM, MEND
from gate_cache.store.format.encodings import ENCODING
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import ABSENT, LATENTS, MADE
from gate_cache.store.format.samples import NewSample
from gate_cache.store.format.shards import Damaged
from gate_cache.store.lease import identified
from gate_cache.store.places.disk import need_space
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.store.writer import StoreWriter, open_writer

AT_ONCE = 4
"""Blocks on their way at a time: one is read while another one is sent."""
_OWN = ("combo", "kind", "fingerprint", "maps", "recipe", ABSENT, MADE, ENCODING, CHECKSUM)
"""Attributes of a group that its writer makes anew."""


@dataclass(frozen=True)
class Selection:
    """What of a store is copied; where nothing is said, everything.

    Attributes
    ----------
    combos, maps : by name; latents are copied where neither is given
    images : so many of the first ones, or by id
    """

    combos: Sequence[str] = ()
    maps: Sequence[str] = ()
    images: int | Sequence[str] | None = None


@dataclass
class Copied:
    """What a copy took.

    Attributes
    ----------
    blocks, bytes : that were copied now
    kept : blocks that were there, with the same rows
    missing : group to how many rows were left out, since their block is not extracted
    version : of the source, which alone was read: its commit on the Hub; elsewhere empty
    """

    store: str
    images: int
    groups: list[str] = field(default_factory=list)
    blocks: int = 0
    bytes: int = 0
    kept: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    version: str = ""


def copy_store(source: Place, target: Place, selection: Selection = Selection(),
               progress: Progress | None = None) -> Copied:
    """Copy a store; blocks that are there with the same rows are passed over.

    Parameters
    ----------
    source, target : a folder or a URL each; what is there of the target is completed
    selection : of combos, maps and images
    progress : counts MB, or kB of little

    Raises
    ------
    StoreError
        There is no source, nothing of that name in it, damage; or the target holds other images.
    RemoteError
        A server does not answer, or refuses.
    """
    if identified(source) == identified(target):
        raise StoreError(f"{target}: is the store itself; give another place")
    store, show = FeatureStore.open(source), progress or Silent()
    rows, views = _rows(store, selection.images), _views(store, selection)
    attrs = store.attrs
    with open_writer(target, attrs["dataset"], store.block, attrs["batch"],
                     attrs.get("threads")) as writer:
        _append(store, rows, writer)
        copies = [_GroupCopy(group, maps, group.places(rows), writer) for view, maps in views
                  for group in view.groups]
        result = Copied(str(target), len(rows), [copy.group.name for copy in copies],
                        version=store.folder.version())
        for copy in copies:
            copy.prepare(result)
        _run(copies, target, show, result)
    return result


def _run(copies: Sequence[_GroupCopy], target: Place, show: Progress, result: Copied) -> None:
    blocks = [(copy, rows) for copy in copies for rows in copy.todo]
    sizes = [len(rows) * copy.row_bytes for copy, rows in blocks]
    need_space(target, sum(sizes))
    unit, scale = ("MB", 10**6) if sum(sizes) > 10**8 else ("kB", 10**3)
    counts = [-(-size // scale) for size in sizes]
    pool = ThreadPoolExecutor(AT_ONCE, "copy")
    try:
        with show.task("copying", sum(counts), unit) as task:
            copied = pool.map(lambda block: block[0].copy(block[1]), blocks)
            for _, size, count in zip(copied, sizes, counts, strict=True):
                result.blocks, result.bytes = result.blocks + 1, result.bytes + size
                task.advance(count)
    except Exception:
        pool.shutdown(cancel_futures=True)  # none may write once another process holds the store
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for no server


def _rows(store: FeatureStore, images: int | Sequence[str] | None) -> npt.NDArray[np.int64]:
    """The rows of the source that are copied, in its order."""
    if images is None or isinstance(images, int):
        return np.arange(len(store.samples))[:images]
    return np.array(sorted({store.samples.row(name) for name in images}), np.int64)


def _views(store: FeatureStore, asked: Selection) -> list[tuple[ComboView, list[str]]]:
    """The groups that are copied, with the maps of each."""
    named = {view.name: view for view in map(store.__getitem__, asked.combos)}
    views = list(named.values()) or store.views()  # once each: blocks are copied side by side
    known = sorted({name for view in views for name in view.maps})
    for name in asked.maps:
        if name not in known:
            raise StoreError(f"{store.path}: no map '{name}'{did_you_mean(name, known)}; these"
                             f" combos have: {', '.join(known)}")
    if not asked.combos and not asked.maps:
        views = [*store.latents(), *views]
    chosen = [(view, [name for name in view.maps if not asked.maps or name in asked.maps])
              for view in views]
    return [(view, maps) for view, maps in chosen if maps]


def _append(store: FeatureStore, rows: npt.NDArray[np.int64], writer: StoreWriter) -> None:
    """Have the target's table of samples be that of these rows."""
    table, there = store.samples, writer.samples
    new = [NewSample(table.ids[row], table.sha256[row], *table.sizes[row].tolist())
           for row in rows.tolist()]
    if [(s.id, s.sha256) for s in new[: len(there)]] != \
            list(zip(there.ids, there.sha256, strict=True)):
        raise StoreError(f"{writer.path}: holds other images than are to be copied there, or in"
                         " another order; give another place, or remove it")
    if len(new) > len(there):
        writer.append(new[len(there):])


class _GroupCopy:
    """The copy of one group.

    Parameters
    ----------
    view : to be copied
    maps : of it
    rows : (N,) of the source's group, in the order of the target's
    """

    def __init__(self, view: ComboView, maps: list[str], rows: npt.NDArray[np.int64],
                 writer: StoreWriter) -> None:
        self._view, self._maps, self._rows = view, maps, rows
        self._done = view.done()[rows]
        self._numbers = done.BlockMarks(view.store.folder, view.name).numbers()
        self.todo: list[range] = []
        recipe = view.recipe
        if "maps" in recipe:
            recipe["maps"] = maps
        if "pooling" in recipe:
            recipe["pooling"] = {k: v for k, v in recipe["pooling"].items() if k in maps}
        about = {k: v for k, v in view.attrs.items() if k not in _OWN}
        label = LATENTS if view.attrs["kind"] == LATENTS else view.label
        self.group: GroupWriter = writer.require(
            label, recipe, {name: view[name].shape[1:] for name in maps}, view.encoding, about)

    @cached_property
    def row_bytes(self) -> int:
        """Of all arrays, uncompressed."""
        return sum(part.nbytes for part in self.group.parts.values())

    def prepare(self, result: Copied) -> None:
        """Find out which blocks are to be copied."""
        self.group.fit()
        absent = self._view.attrs.get(ABSENT, ())
        gone = frozenset(np.isin(self._rows, absent).nonzero()[0].tolist())
        marks = self.group.marks.read_all(-(-len(self._rows) // self.group.block)).tolist()
        for block, mark in enumerate(marks):
            try:
                same = not mark or self._same(block, mark)
            except Damaged as error:
                place = f"{self._view.store.path}: {self._view.name}"
                raise StoreError(f"{place}: {error}; {MEND}") from None
            if not same:
                self.group.marks.write(block, 0)  # what is there is of other rows
        todo = self.group.todo(gone)
        self.todo = [rows for rows in todo  # a block is written as a whole, or not at all
                     if all(self._done[row] or row in gone for row in rows)]
        self.group.note_absent(self.todo, gone)
        for made in done.provenances(self._view.attrs).values():
            if made and self.todo:
                self.group.note_made(made)
        result.kept += len(marks) - len(todo)
        if len(self.todo) < len(todo):
            result.missing[self.group.name] = sum(map(len, todo)) - sum(map(len, self.todo))

    def _same(self, block: int, mark: int) -> bool:
        """Whether a block of the target holds what the source has; true where that is unknown."""
        first = block * self.group.block
        rows = self._rows[first : first + (mark >> 32)].tolist()  # as many as it was written with
        checksums: list[list[int]] = []
        for name in self.group.parts:
            checksums.append([])
            for number, of_block in groupby(rows, lambda row: row // self._view.store.block):
                sums = self._view.sums.of(name, number)
                if sums is None:
                    return True
                checksums[-1] += [sums[row % self._view.store.block] for row in of_block]
        return mark == done.mark_of(np.array(checksums, np.uint32), self.group.lengths)

    def copy(self, rows: range) -> None:
        """Copy one block; rows whose image was gone stay void."""
        there = self._done[rows.start : rows.stop]
        source = self._rows[rows.start : rows.stop][there].tolist()
        arrays = {}
        for name in self._maps:
            view = self._view[name]
            values = {suffix: np.empty((len(source), *part.shape), part.dtype)
                      for suffix, part in view.parts.items()}
            view.read_parts_into(source, values)
            for suffix, part in view.parts.items():
                arrays[name + suffix] = values[suffix]
                if len(source) < len(rows):
                    arrays[name + suffix] = np.full((len(rows), *part.shape), part.fill, part.dtype)
                    arrays[name + suffix][there] = values[suffix]
        # a block here may be of several there; one that was made in two ways has no provenance
        made = {self._numbers.get(row // self._view.store.block, 0) for row in source}
        self.group.write_stored(
            rows, arrays, [row for row, ok in zip(rows, there, strict=True) if not ok],
            done.provenances(self._view.attrs).get(made.pop()) if len(made) == 1 else None)
