"""Adding tables of row checksums to blocks that a release without them has written."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from gate_cache.core.errors import StoreError
from gate_cache.store.format import done, sums
from gate_cache.store.format.attrs import read_array
from gate_cache.store.format.documents import write_array
from gate_cache.store.format.layout import DONE, SUMS, blocks_of
from gate_cache.store.format.shards import Damaged

if TYPE_CHECKING:
    from gate_cache.store.format.groups import GroupWriter


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
