"""``verify``: everything in a store against its checksums; what of it can be mended. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.core.progress import Progress, Silent
from gate_cache.store.check.audit import Audit
from gate_cache.store.check.blocks import BlockCheck
from gate_cache.store.check.findings import Finding
from gate_cache.store.holding import alone
from gate_cache.store.opening import open_store
from gate_cache.store.places.disk import disk_errors

if TYPE_CHECKING:
    from gate_cache.core.places import Place

_THEN = "and run the same command again; without --repair nothing is written"
AT_A_TIME = 1024
"""Blocks handed to the threads at a time."""


@dataclass(frozen=True)
class Verified:
    """The result of a check.

    Attributes
    ----------
    blocks, bytes : finished blocks, and bytes of the whole store
    notes : what is no problem, a line each
    """

    store: str
    format: int
    groups: int
    blocks: int
    bytes: int
    problems: list[Finding]
    notes: list[str]

    @property
    def sound(self) -> bool:
        """Whether everything is as it was written, or is repaired."""
        return all(problem.mended for problem in self.problems)


def verify(path: Place, *, repair: bool = False, threads: int | None = None,
           progress: Progress | None = None) -> Verified:
    """Check a store.

    Parameters
    ----------
    path : of the store
    repair : mark damaged blocks undone, and repair what else can be; no other process may write
        meanwhile
    threads : that read; by default one a core, at most 8
    progress : counts blocks

    Raises
    ------
    StoreError
        There is no store, or so little of it that nothing can be checked.
    """
    folder, attrs = open_store(path)
    audit = Audit(folder, attrs)
    with alone(path, _THEN) if repair else nullcontext(), disk_errors(path, then=_THEN):
        findings = list(audit.metadata())
        findings += _data(audit.blocks, threads or min(os.cpu_count() or 1, 8),
                          progress or Silent())
        problems = [finding.repaired(repair) for finding in findings if not finding.note]
    groups = {block.group for block in audit.blocks}
    return Verified(str(path), attrs["format"], len(groups), len(audit.blocks),
                    folder.bytes_below(), problems,
                    [f"{finding.place}: {finding.what}" for finding in findings if finding.note])


def _data(blocks: list[BlockCheck], threads: int, show: Progress) -> Iterator[Finding]:
    with show.task("checking", len(blocks), "blocks") as task, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(blocks), AT_A_TIME):
            for findings in pool.map(BlockCheck.check, blocks[start : start + AT_A_TIME]):
                task.advance()
                yield from findings
