"""Bringing up what an older release has written: checksums of metadata, of samples and of rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError
from gate_cache.store.format import done, sums
from gate_cache.store.format.attrs import read_array, read_meta
from gate_cache.store.format.columns import seal_samples
from gate_cache.store.format.documents import put_attrs, write_array
from gate_cache.store.format.layout import DONE, FORMAT, SAMPLES, SUMS, blocks_of
from gate_cache.store.format.samples import Samples
from gate_cache.store.format.shards import Damaged

if TYPE_CHECKING:
    from gate_cache.store.format.groups import GroupWriter
    from gate_cache.store.places.folders import Folder


def seal(folder: Folder, attrs: Mapping[str, Any], table: Samples,
         groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add checksums of metadata, which format 1 had not, and today's of the table of samples.

    Parameters
    ----------
    attrs : the store's own, which are returned as they are then
    groups : name to attributes of those that are whole
    """
    for name in (*groups, SAMPLES) if attrs["format"] == 1 else ():
        for array in folder.names(name):
            if document := read_meta(folder, f"{name}/{array}"):
                write_array(folder, f"{name}/{array}", document)
        if name in groups:
            put_attrs(folder, name, groups[name])
    seal_samples(folder, table)
    return put_attrs(folder, "", {**attrs, "format": FORMAT})


def bind(group: GroupWriter) -> None:
    """Write the missing tables, from the shards' own checksums: raw rows are not read.

    A block whose shards are not what was marked done gets none, and `verify` says why.
    """
    folder, blocks = group.folder, len(blocks_of(group.rows, group.block))
    if not blocks or not folder.names(f"{group.name}/{DONE}/c"):
        return
    have, key = set(folder.names(f"{group.name}/{SUMS}/c")), f"{group.name}/{SUMS}"
    with suppress(StoreError):  # damaged metadata or marks: raised where they are used
        marks = group.marks.read_all(blocks).tolist()
        missing = [i for i, mark in enumerate(marks) if mark and str(i) not in have]
        if missing and read_array(folder, key) is None:
            write_array(folder, key, sums.document(blocks, len(group.parts), group.block))
        for block in missing:
            _bind(group, block, marks[block])


def _bind(group: GroupWriter, block: int, mark: int) -> None:
    rows = mark >> 32
    if not 0 < rows <= group.block:
        return
    with suppress(Damaged):
        checksums = sums.of_shards(group.folder, group.name, group.metas, block, rows)
        if mark == done.mark_of(checksums, group.lengths):
            group.write_sums(block, checksums)


def recheck(group: GroupWriter) -> None:
    """Undo blocks that do not read back whole: the group's arrays were made anew over old shards.

    Rows that are void are undone too: which they are may have been lost, as what a number in a
    mark stood for.
    """
    group.fit()
    numbers, known = group.marks.numbers(), done.provenances(group.attrs)
    for block, rows in enumerate(blocks_of(group.rows, group.block)):
        try:
            whole = not any(group.parts[name].has_void(kept)
                            for name, kept in group.read_kept(rows).items())
        except StoreError:
            whole = False
        if not whole or numbers.get(block, 0) not in known:
            group.marks.write(block, group.marks.read(block) if whole else 0)
