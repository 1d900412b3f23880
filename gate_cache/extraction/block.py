"""One block of an extraction: read ahead of the device, computed on it, written behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.extraction.inputs import BlockInputs, ImageSource
from gate_cache.store.format.codes import DoesNotFit
from gate_cache.store.format.layout import LATENT_MAP, LATENTS

if TYPE_CHECKING:
    from gate_cache.diffusion.passes.extractor import Extractor, Piece
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.diffusion.passes.schedule import PassGroup
    from gate_cache.store.format.groups import GroupWriter

Maps = dict[str, npt.NDArray[Any]]
BEHIND = 4
"""Batches of maps that wait to be written, at most."""


@dataclass
class Job:
    """One combo with its group and what is left to do of it."""

    plan: PlannedCombo
    group: GroupWriter
    todo: list[range]


@dataclass
class Work:
    """What every block's work needs.

    Attributes
    ----------
    gone : rows whose image is not in the data set any more
    """

    source: ImageSource
    jobs: list[Job]
    latents: GroupWriter
    gone: Collection[int]

    def fresh(self, group: GroupWriter, rows: range) -> list[int]:
        """Rows of a block to compute: not kept, and their image is there."""
        return [r for r in rows[group.kept(rows):] if r not in self.gone]


class Told(Protocol):
    """Hears of an extraction's progress, from several threads."""

    def computed(self, rows: int) -> None:
        """Rows of some combo have come from the device."""

    def written(self, group: str, rows: int) -> None:
        """A group's block is in the store, with this many new rows."""


class Block:
    """One block on its way: `prepare`, then `compute`, which writes what is complete.

    Parameters
    ----------
    readers : threads that read images
    told : hears what has come
    """

    def __init__(self, work: Work, rows: range, extractor: Extractor, readers: Executor,
                 told: Told) -> None:
        self._work = work
        self._rows = rows
        self._extractor = extractor
        self._told = told
        self._plans = [j.plan for j in work.jobs if rows in j.todo]
        self._drafts = {j.plan.name: _Draft(work, j.plan.name, j.group, rows, told)
                        for j in work.jobs if rows in j.todo}
        self._latents = _Draft(work, LATENTS, work.latents, rows, told)
        self._inputs = BlockInputs(work.source, rows.start, readers)
        self._lanes: list[PassGroup] = []

    def prepare(self) -> None:
        """Read images and find edges: all that the device is not needed for."""
        self._lanes = self._work.source.passes(
            (plan, self._drafts[plan.name].left) for plan in self._plans)
        if self._latents.left:
            self._inputs.images(sorted(self._latents.left))
        for lane in self._lanes:
            self._extractor.ahead(lane, self._inputs)

    def compute(self, behind: Executor, stopped: Callable[[], bool]) -> list[Future[None]]:
        """Run the device; what is complete is written by `behind`, whose tasks are returned."""
        writing = [behind.submit(self._encode())]
        for lane in self._lanes:
            for piece in self._extractor.run(lane, self._inputs):
                while len(writing) >= BEHIND:
                    writing.pop(0).result()
                writing.append(behind.submit(self._put, piece))
                if stopped():
                    return writing
        return [*writing, *(behind.submit(d.write_when_complete) for d in self._drafts.values())]

    def _put(self, piece: Piece) -> None:
        maps = {name: values.cpu().numpy() for name, values in piece.maps.items()}
        self._drafts[piece.combo].add(piece.rows, maps)
        self._told.computed(len(piece.rows))

    def _encode(self) -> Callable[[], None]:
        """The block's latents: from the store, or through the VAE; returns what writes them."""
        draft = self._latents
        if draft.whole:
            self._inputs.take_latents(self._work.latents.read_kept(self._rows)[LATENT_MAP])
            return lambda: None
        if rows := sorted(draft.left):
            draft.put(rows, {LATENT_MAP: self._extractor.encode(self._inputs.images(rows))})
        self._inputs.take_latents(draft.arrays()[LATENT_MAP])
        return draft.write_when_complete


class _Draft:
    """One group's block on its way into the store: kept rows, fresh ones, NaN for gone images."""

    def __init__(self, work: Work, name: str, group: GroupWriter, rows: range,
                 told: Told) -> None:
        self._name = name
        self._group = group
        self._rows = rows
        self._told = told
        self._kept = group.kept(rows)
        self.whole = self._kept == len(rows)
        self._void = [r for r in rows[self._kept:] if r in work.gone]
        self.left = set(rows[self._kept:]).difference(self._void)
        self._fresh = len(self.left)
        self._written = False
        self._arrays: Maps = {}

    def add(self, rows: Sequence[int], maps: Maps) -> None:
        """Take computed rows; write the block if they are the last ones."""
        self.put(rows, maps)
        self.write_when_complete()

    def put(self, rows: Sequence[int], maps: Maps) -> None:
        """Take computed rows."""
        whole = self.arrays()
        for name, values in _encoded(self._name, self._group, maps).items():
            whole[name][[r - self._rows.start for r in rows]] = values
        self.left -= set(rows)

    def write_when_complete(self) -> None:
        """Write the block once, when no row is left to compute."""
        if self._written or self.left:
            return
        absent = self._group.absent(self._rows[: self._kept])
        self._group.write_stored(self._rows, self.arrays(), [*self._void, *absent])
        self._written, self._arrays = True, {}
        self._told.written(self._name, self._fresh)

    def arrays(self) -> Maps:
        """The block as it is stored: rows that are kept, and void ones where nothing has come."""
        if not self._arrays:
            self._arrays = self._group.draft(self._rows)
        return self._arrays


def _encoded(name: str, group: GroupWriter, maps: Maps) -> Maps:
    """Rows as they are stored; what does not fit is refused, not stored as infinity."""
    found: Maps = {}
    for key, values in maps.items():
        if not np.isfinite(values).all():
            raise _not_finite(name, key, "bfloat16 or float32 as model.dtype, and other"
                              " weights where it is float32")
        try:
            found |= group.encode(key, values)
        except DoesNotFit:
            way_out = "float32 as store.dtype and another store.path"
            raise _not_finite(name, key, way_out) from None
    return found


def _not_finite(name: str, key: str, way_out: str) -> StoreError:
    return StoreError(f"{name}: '{key}' has values that are not finite; try {way_out}")
