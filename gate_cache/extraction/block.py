"""One block of an extraction: read ahead of the device, computed on it, written behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gate_cache.core.errors import DataError, StoreError
from gate_cache.extraction.inputs import BlockInputs
from gate_cache.store.format.layout import LATENT_MAP, LATENTS

if TYPE_CHECKING:
    from gate_cache.diffusion.passes.extractor import Extractor
    from gate_cache.diffusion.passes.pieces import Piece
    from gate_cache.diffusion.passes.schedule import PassGroup
    from gate_cache.extraction.transfer import Buffers, HostMemory, Transfer
    from gate_cache.extraction.work import Work
    from gate_cache.store.format.done import Provenance
    from gate_cache.store.format.groups import GroupWriter

ARRIVING = 4
"""Batches of maps under way from the device, at most."""


class Told(Protocol):
    """Hears of an extraction's progress, from several threads."""

    def computed(self, rows: int) -> None:
        """Rows of some combo have come from the device."""

    def unread(self, sample_id: str, why: str) -> None:
        """An image cannot be read any more; its row stays void."""

    def written(self, group: str, rows: int, made: Provenance) -> None:
        """A group's block is in the store, with this many new rows, so computed."""


@dataclass(frozen=True)
class Helpers:
    """What works beside the device, for all blocks.

    Attributes
    ----------
    readers : threads that read images
    behind : the thread that waits for maps to arrive
    writers : threads that write whole blocks
    made : what a block of maps, or of latents, that is complete now was computed with
    """

    readers: Executor
    behind: Executor
    writers: Executor
    made: Callable[[bool], Provenance]
    memory: HostMemory
    transfer: Transfer


class Block:
    """One block on its way: `prepare`, then `compute`; what is complete is written meanwhile.

    Parameters
    ----------
    told : hears what has come
    """

    def __init__(self, work: Work, rows: range, extractor: Extractor, helpers: Helpers,
                 told: Told) -> None:
        self._work = work
        self._rows = rows
        self._extractor = extractor
        self._helpers = helpers
        self._told = told
        self._plans = [j.plan for j in work.jobs if rows in j.todo]
        groups = {LATENTS: work.latents, **{j.plan.name: j.group for j in work.jobs
                                            if rows in j.todo}}
        self._drafts = {name: _Draft(work, name, group, rows, helpers.memory)
                        for name, group in groups.items()}
        self._inputs = BlockInputs(work.source, helpers.readers)
        self._lanes: list[PassGroup] = []
        self._writes: list[Future[None]] = []

    def prepare(self) -> None:
        """Read images and find edges: all that the device is not needed for."""
        try:
            self._read()
        except DataError:
            if not self._leave_out():
                raise  # no image's own fault: a control image, a caption
            self._read()

    def _leave_out(self) -> bool:
        """Take rows out whose image cannot be read; whether there are any."""
        unread = {}
        for row in set[int]().union(*(draft.left for draft in self._drafts.values())):
            try:
                self._inputs.images([row])
            except DataError as error:
                unread[row] = str(error)
        for draft in self._drafts.values():
            draft.leave_out(unread)
        for row, why in unread.items():
            self._told.unread(self._inputs.id(row), why)
        return bool(unread)

    def _read(self) -> None:
        self._lanes = self._work.source.passes(
            (plan, self._drafts[plan.name].left) for plan in self._plans)
        if rows := sorted(self._drafts[LATENTS].left):
            self._inputs.images(rows)
        for lane in self._lanes:
            self._extractor.ahead(lane, self._inputs)

    def compute(self, stopped: Callable[[], bool]) -> deque[Future[None]]:
        """Run the device; what has not arrived yet."""
        behind, arriving = self._helpers.behind, deque[Future[None]]()
        for piece in self._pieces() if not stopped() else ():
            while len(arriving) >= ARRIVING:
                arriving.popleft().result()
            there = self._drafts[piece.combo].bring(piece, self._helpers.transfer)
            arriving.append(behind.submit(self._arrived, piece, there))
            self._check_written()
            if stopped():
                return arriving
        arriving.extend(behind.submit(self._write, draft) for draft in self._drafts.values())
        return arriving

    def finish(self, arriving: Collection[Future[None]], stopped: bool) -> None:
        """Wait until what has been computed is in the store.

        Parameters
        ----------
        stopped : write blocks that are not complete, too, as far as they go
        """
        for task in arriving:
            task.result()
        for draft in self._drafts.values() if stopped else ():
            if draft.open and draft.leading() > draft.kept:
                self._submit(draft)
        for task in self._writes:
            task.result()

    def _submit(self, draft: _Draft) -> None:
        """Have a block written, as what the device computes it with now."""
        helpers = self._helpers
        made = helpers.made(draft is self._drafts[LATENTS])
        self._writes.append(helpers.writers.submit(draft.write, self._told, made))

    def _check_written(self) -> None:
        """Raise what has kept a block from being written."""
        for task in self._writes:
            if task.done():
                task.result()

    def _pieces(self) -> Iterator[Piece]:
        """The block's latents, then the maps of all passes."""
        yield from self._latents()
        for lane in self._lanes:
            yield from self._extractor.run(lane, self._inputs)

    def _latents(self) -> Iterator[Piece]:
        """Make latents known to the passes: from the store, or through the VAE."""
        from gate_cache.diffusion.passes.pieces import Piece

        kept = self._work.latents.read_kept(self._rows)[LATENT_MAP]
        if len(kept):
            self._inputs.take_latents(self._rows[: len(kept)], self._extractor.model.place(kept))
        rows, size = sorted(self._drafts[LATENTS].left), self._extractor.batch
        for part in (rows[i : i + size] for i in range(0, len(rows), size)):
            x0 = self._extractor.encode(self._inputs.images(part))
            self._inputs.take_latents(part, x0)
            yield Piece(LATENTS, part, {LATENT_MAP: x0})

    def _arrived(self, piece: Piece, there: Callable[[], bool]) -> None:
        draft = self._drafts[piece.combo]
        if not there():
            raise draft.unfit(piece)
        draft.left -= set(piece.rows)
        if piece.combo != LATENTS:
            self._told.computed(len(piece.rows))
        self._write(draft)

    def _write(self, draft: _Draft) -> None:
        """Have the block written once, when no row is left to compute."""
        if draft.open and not draft.left:
            draft.open = False
            self._submit(draft)


class _Draft:
    """One group's block on its way into the store: kept rows, fresh ones, NaN for gone images.

    Attributes
    ----------
    left : rows to compute
    open : whether it is still to be written
    kept : leading rows that were in the store
    """

    def __init__(self, work: Work, name: str, group: GroupWriter, rows: range,
                 memory: HostMemory) -> None:
        self._name = name
        self._group = group
        self._rows = rows
        self._memory = memory
        self._joined = work.joined
        self.kept = group.kept(rows)
        self._void = [r for r in rows[self.kept:] if r in work.gone]
        self.open = self.kept < len(rows)
        self._stays = name != LATENTS or rows in work.blocks  # else made anew for every block
        self.left = set(rows[self.kept:]).difference(self._void)
        self._block: Buffers | None = None

    def leave_out(self, rows: Collection[int]) -> None:
        """Have rows stay void."""
        self._void += self.left.intersection(rows)
        self.left.difference_update(rows)

    def bring(self, piece: Piece, transfer: Transfer) -> Callable[[], bool]:
        """Begin to copy computed rows to their places; see `Transfer.start`."""
        from gate_cache.diffusion.passes.pieces import runs
        from gate_cache.extraction.transfer import Move

        memory, moves, at = self._buffers().tensors, [], 0
        suffixes = [part.suffix for part in self._group.encoding.parts((1, 1, 1))]
        for run in runs([row - self._rows.start for row in piece.rows]):
            for name, values in piece.maps.items():
                into = {s: memory[name + s][run.start : run.stop] for s in suffixes}
                moves.append(Move(values[at : at + len(run)], into))
            at += len(run)
        return transfer.start(self._group.encoding, moves)

    def leading(self) -> int:
        """Rows at the beginning, none of which is left to compute."""
        return min((row - self._rows.start for row in self.left), default=len(self._rows))

    def write(self, told: Told, made: Provenance) -> None:
        """Write the block, or its leading rows."""
        rows, block = self._rows[: self.leading()], self._buffers()
        void = [row for row in self._void if row in rows]
        self._group.write_stored(rows, {n: a[: len(rows)] for n, a in block.arrays.items()},
                                 [*void, *self._group.absent(rows[: self.kept])],
                                 None if self._joined else made)
        self._block = None
        self._memory.give_back(block)
        if self._stays:
            told.written(self._name, len(rows) - self.kept - len(void), made)

    def unfit(self, piece: Piece) -> StoreError:
        """Why rows are refused, not stored as infinity."""
        wrong = [name for name, values in piece.maps.items() if not values.isfinite().all()]
        way_out = ("bfloat16 or float32 as model.dtype, and other weights where it is float32"
                   if wrong else "float32 as store.dtype and another store.path")
        return StoreError(f"{self._name}: '{[*wrong, *piece.maps][0]}' has values that are not"
                          f" finite; try {way_out}")

    def _buffers(self) -> Buffers:
        """The block as it is stored: rows that are kept, and void ones."""
        if self._block is None:
            self._block = self._memory.take(self._group.parts, len(self._rows))
            self._group.begin(self._rows, self._block.arrays, self._void)
        return self._block
