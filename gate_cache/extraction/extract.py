"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from gate_cache.core.errors import DataError
from gate_cache.core.progress import ProgressTask, Silent, stopping
from gate_cache.core.size import SHAPE, SHAPES
from gate_cache.datasets.common.base import ids_of
from gate_cache.datasets.registry import open_dataset
from gate_cache.extraction.footprint import need_codec, store_batch, store_block
from gate_cache.extraction.job import (
    ExtractionJob,
    open_engine,
    open_work,
    own_threads,
    tell_anew,
    tell_kept,
)
from gate_cache.extraction.register import FIRST, Registration
from gate_cache.extraction.validate import notes_on_files, sample_problems
from gate_cache.store.format.layout import LATENTS
from gate_cache.store.places.disk import need_space
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.data_root import remember
from gate_cache.workspace.data_summary import before_extraction, check_data

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.core.size import Size
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.extraction.work import Work
    from gate_cache.store.format.done import Provenance
    from gate_cache.store.format.groups import GroupWriter
    from gate_cache.workspace.workspace import Workspace

    _Todo = dict[GroupWriter, list[range]]
    _Run = Callable[[ExtractionJob, Work, list[range]], None]
    """Computes blocks."""


FIRST_OF_OTHERS = 8192
"""Images of the first round of a cluster, whose workers load the model for each."""


@dataclass(frozen=True)
class Workers:
    """Where else than in this process blocks are computed: local workers, or a dask cluster."""

    workers: int = 0
    scheduler: str = ""


@dataclass
class Extracted:
    """What an extraction did.

    Attributes
    ----------
    images : samples of the data set
    new_images : of them, appended to the store by this run
    rows : combo name, and ``latents``, to rows computed by this run (0: it was all there)
    unread : id of each image that could not be read, and was left out, to why
    """

    store: Place
    images: int
    new_images: int
    rows: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def extract(work: Workspace, *, batch: int | Literal["auto"] | None = None,
            threads: int | None = None, spread: Workers | None = None, wait: bool = True,
            rehash: bool = False) -> Extracted:
    """Extract all that is missing.

    Parameters
    ----------
    work : the manifest on this machine
    batch : images per pass for this run; by default what the store was begun with. ``"auto"``
        halves it for as long as the device's memory is full
    threads : of the CPU in a pass; by default what the store was begun with
    spread : compute on several workers
    wait : until another extraction of this store ends; else that is an error
    rehash : read every image, whatever is remembered of files that look unchanged

    Raises
    ------
    UserError
        Something is missing, damaged or full; what was done is kept.
    """
    show, manifest, path = work.progress, work.manifest, work.store_path
    dataset = open_dataset(manifest.dataset, work.roots)
    ids = ids_of(dataset)
    models = _checked(work, dataset, ids)
    block = store_block(manifest, [p.shapes for m in models for p in m.plans])
    cores = threads or own_threads(spread.workers if spread else 0)
    with open_writer(path, dataset.name, block, store_batch(manifest), cores,
                     show.say if wait else None) as store:
        images = Registration(store, dataset, ids, rehash, FIRST_OF_OTHERS if spread else FIRST)
        batch_asked = batch or manifest.store.batch
        order = ExtractionJob(
            work, batch if isinstance(batch, int) else store.batch,
            threads or store.threads or cores, frozenset(), batch_asked == "auto")
        result = Extracted(path, len(ids), 0, dict.fromkeys([LATENTS, *manifest.combos], 0))
        remember(path, work.roots)
        for number, model in enumerate(models):
            with _Rounds(model, store, result) as rounds:
                # The first model meets images as they are registered; all are there for the others.
                for _ in [None] if number else images.rounds(show):
                    rounds.extract(images, replace(order, gone=images.gone), spread)
        result.new_images, result.unread = images.new, {**images.unread, **result.unread}
    return result


@dataclass(frozen=True)
class _Model:
    """One of a manifest's models with its combos, and their manifest."""

    work: Workspace
    files: ModelFiles
    plans: Sequence[PlannedCombo]


class _Rounds(ExitStack):
    """Rounds of images through one loaded model, which is closed at the end.

    It is the `Told` of all blocks; what it hears comes from several threads.
    """

    def __init__(self, model: _Model, store: StoreWriter, result: Extracted) -> None:
        super().__init__()
        self._work, self._files, self._plans = model.work, model.files, model.plans
        self._store = store
        self._result = result
        self._run: _Run | None = None
        self._told = False
        self._task: ProgressTask
        self._computed = 0
        self._groups: dict[str, GroupWriter] = {}
        self._lock = threading.Lock()

    def extract(self, images: Registration, order: ExtractionJob, spread: Workers | None) -> None:
        """Compute all that is missing of the images that are registered."""
        order = replace(order, workspace=_for_others(self._work) if spread else self._work)
        if not self._told:
            tell_anew(self._work, self._plans)
        orders = [replace(order, shape=shape) for shape in self._shapes()]
        lefts = [open_work(o, self._store, self._files, self._plans) for o in orders]
        jobs = [job for left in lefts for job in left.jobs]
        if not self._told:
            tell_kept(self._work, self._store, jobs)
        self._told = True
        todos = [left.ready(images, self._store.block) for left in lefts]
        if not any(ready for todo in todos for ready in todo.values()):
            return
        rows = images.unknown * len(self._plans) + sum(
            len(left.fresh(j.group, r)) for left in lefts for j in left.jobs for r in j.todo)
        if self._run is None:
            need_space(self._store.path, sum(
                left.nbytes(self._store.block, 0 if i else images.unknown)
                for i, left in enumerate(lefts)))
            images.hide()
            needed = {job.plan.name for job in jobs if job.todo or images.unknown}
            self._run = self._begin(order, [p for p in self._plans if p.name in needed], spread,
                                    rows)
        self._task.expect(self._computed + rows)
        for some, left, todo in zip(orders, lefts, todos, strict=True):
            self._compute(some, left, todo)

    def _compute(self, order: ExtractionJob, left: Work, todo: _Todo) -> None:
        """What can be computed now, of inputs of one shape."""
        blocks = sorted({(r.start, r.stop) for ready in todo.values() for r in ready})
        if not blocks or self._run is None:
            return
        self._groups = {LATENTS: left.latents, **{j.plan.name: j.group for j in left.jobs}}
        for group, ready in todo.items():
            if ready:
                group.fit()
                group.note_absent(ready, left.gone)
        self._run(order, left, [range(*block) for block in blocks])

    def _shapes(self) -> Iterator[Size | None]:
        """Shapes of input that images in the store have; None where all have one."""
        shapes = self._files.preprocessing(self._work.manifest.model).shapes
        if not shapes:
            yield None
        for shape in shapes:
            own = self._store.samples.of_shape({SHAPES: shapes, SHAPE: shape})
            if own is not None and len(own):
                yield shape

    def _begin(self, order: ExtractionJob, plans: Sequence[PlannedCombo],
               spread: Workers | None, rows: int) -> _Run:
        show = self._work.progress
        for note in self._files.notes:
            show.say(f"note: {note}")
        show.say(f"loading {self._files.source}")
        run = self.enter_context(self._elsewhere(spread) if spread else self._here(order, plans))
        self._task = self.enter_context(show.task("extracting", rows, "feature sets"))
        return run

    @contextmanager
    def _elsewhere(self, spread: Workers) -> Iterator[_Run]:
        """Blocks in a cluster, which loads the model for every round."""
        from gate_cache.extraction import cluster

        store, show = self._store.path.resolve(), self._work.progress
        cluster.check_workers(spread.workers, self._work.device)
        with cluster.local(spread.workers) if spread.workers else cluster.remote(
                spread.scheduler) as client:
            yield lambda order, _, blocks: cluster.run(
                client, cluster.BlockWorker(order, store), blocks, self._done, show.say)

    @contextmanager
    def _here(self, order: ExtractionJob, plans: Sequence[PlannedCombo]) -> Iterator[_Run]:
        """Blocks in this process."""
        from gate_cache.workspace.device import out_of_memory, smaller_than

        def smaller(batch: int) -> None:
            self._work.progress.say(f"note: the device's memory was full: batches of {batch} now")
            self._store.note_batch(batch)

        def run(_: ExtractionJob, work: Work, blocks: list[range]) -> None:
            with stopping(engine.stop, self._work.progress.say):
                engine.run(work, blocks, self)

        with out_of_memory(smaller_than(order.batch)):
            engine = open_engine(order, plans, self._files)
            if order.halves:
                engine.extractor.halved = smaller
            with closing(engine):
                yield run

    def computed(self, rows: int) -> None:
        with self._lock:
            self._computed += rows
            self._task.advance(rows)

    def unread(self, sample_id: str, why: str) -> None:
        with self._lock:
            self._result.unread[sample_id] = why

    def written(self, group: str, rows: int, made: Provenance) -> None:
        with self._lock:
            self._result.rows[group] += rows

    def _done(self, block: range, done: Mapping[str, tuple[int, Provenance]]) -> None:
        """What a worker has written."""
        for group, (rows, made) in done.items():
            self._groups[group].note_made(made, block)
            self.written(group, rows, made)
            if group != LATENTS:
                self.computed(rows)


def _for_others(work: Workspace) -> Workspace:
    """For processes that work in other folders, and show nothing."""
    return replace(work, roots=work.roots.absolute(), progress=Silent())


def _checked(work: Workspace, dataset: ImageDataset, ids: Sequence[str]) -> list[_Model]:
    """The models, after all that can be refused or told before anything is paid."""
    need_codec(work.manifest)
    for line in before_extraction(work, check_data(work, dataset)):
        work.progress.say(line)
    found = [(part, part.model()) for part in work.by_model().values()]
    wrong, notes = sample_problems(work.manifest, work.roots, ids)
    if wrong:
        raise DataError("\n".join(wrong))
    for line in [*notes_on_files(dataset, work.manifest), *notes]:
        work.progress.say(f"note: {line}")
    return [_Model(part, files, part.plans(files)) for part, files in found]
