"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError, StoreError, listed
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import ProgressTask, Silent
from gate_cache.core.versions import versions
from gate_cache.datasets.common.base import ids_of
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.datasets.registry import open_dataset
from gate_cache.extraction.job import ExtractionJob, open_engine, open_work
from gate_cache.extraction.register import register
from gate_cache.extraction.storing import encoding_asked, store_block
from gate_cache.extraction.threads import own_threads
from gate_cache.extraction.validate import sample_problems
from gate_cache.store.format.layout import LATENTS, group_footprint
from gate_cache.store.places.disk import need_space
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.data_root import remember
from gate_cache.workspace.data_summary import before_extraction, check_data
from gate_cache.workspace.lookup import Stale, find_combo

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.extraction.block import Job, Work
    from gate_cache.manifest.specs import Manifest
    from gate_cache.store.format.groups import GroupWriter
    from gate_cache.workspace.workspace import Workspace


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
    rows : combo name to rows computed by this run (0: it was all there)
    """

    store: Place
    images: int
    new_images: int
    rows: dict[str, int] = field(default_factory=dict)


def extract(work: Workspace, *, batch: int | None = None, threads: int | None = None,
            spread: Workers | None = None, wait: bool = True, rehash: bool = False) -> Extracted:
    """Extract all that is missing.

    Parameters
    ----------
    work : the manifest on this machine
    batch : images per pass for this run; by default what the store was begun with
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
    files = _checked(work, dataset, ids)
    plans = work.plans(files)
    block = store_block(manifest, [p.shapes for p in plans])
    with open_writer(path, dataset.name, block, manifest.store.batch, versions(),
                     threads or own_threads(spread), show.say if wait else None) as store:
        new, gone = register(store, dataset, ids, show, rehash)
        remember(path, work.roots)
        _tell_anew(work, plans)
        order = ExtractionJob(_for_others(work) if spread else work, batch or store.batch,
                              threads or store.threads or own_threads(spread), frozenset(gone))
        left = open_work(order, store, files, plans)
        result = Extracted(path, len(ids), new, dict.fromkeys([LATENTS, *manifest.combos], 0))
        _tell_kept(work, store, left.jobs)
        if any(todo for _, todo in _todo(left)):
            need_space(path, _space(left, store.block))
            for group, todo in _todo(left):
                if todo:
                    group.fit()
                    group.note_absent(todo, order.gone)
            for note in files.notes:
                show.say(f"note: {note}")
            show.say(f"loading {files.source}")
            with _place(order, left, files, path, spread) as run:
                total = sum(len(left.fresh(j.group, r)) for j in left.jobs for r in j.todo)
                blocks = sorted({(r.start, r.stop) for _, todo in _todo(left) for r in todo})
                with show.task("extracting", total, "rows") as task:
                    run([range(*block) for block in blocks], _Heard(result, task))
    return result


def _for_others(work: Workspace) -> Workspace:
    """For processes that work in other folders, and show nothing."""
    return replace(work, roots=work.roots.absolute(), progress=Silent())


def _checked(work: Workspace, dataset: ImageDataset, ids: Sequence[str]) -> ModelFiles:
    """The model's files, after all that can be refused or told before anything is paid."""
    for line in before_extraction(work, check_data(work, dataset)):
        work.progress.say(line)
    files = work.model()
    wrong, notes = sample_problems(work.manifest, work.roots, ids)
    if wrong:
        raise DataError("\n".join(wrong))
    for line in [*_notes(dataset, work.manifest), *notes]:
        work.progress.say(f"note: {line}")
    return files


def _notes(dataset: ImageDataset, manifest: Manifest) -> list[str]:
    """What to know of a data set's files before they are read."""
    if isinstance(dataset, ImageFiles) and Preprocessing.of(manifest.model, 0).background is None:
        return ["'resample: opencv' without a 'background' drops alpha, as the first release did:"
                " transparent pictures show what lies under it"]
    return []


def _tell_anew(work: Workspace, plans: Sequence[PlannedCombo]) -> None:
    """Say which combos are in the store already, but with other settings."""
    store, why = work.store(), dict[str, str]()
    for plan in plans:
        try:
            find_combo(store, work.manifest, plan.name, plan.recipe)
        except Stale as error:
            why[plan.name] = "; ".join(error.why)
        except StoreError:
            continue
    if why:
        work.progress.say(f"note: {listed(why)}: extracted anew, beside what the store holds with"
                          f" other settings ({next(iter(why.values()))})")


def _tell_kept(work: Workspace, store: StoreWriter, jobs: list[Job]) -> None:
    """Say where a store keeps to what it was begun with, whatever the manifest says now."""
    now, said = work.manifest.store, []
    if now.block and now.block != store.block:
        said.append(f"blocks of {store.block}")
    if now.batch != store.batch:
        said.append(f"batches of {store.batch}")
    asked = encoding_asked(work.manifest)
    said += [f"{job.plan.name} in {job.group.encoding}" for job in jobs
             if job.group.encoding != asked]
    if said:
        work.progress.say(f"note: this store was begun with {listed(said)}, and keeps it; give"
                          " store.path another name to change that")


def _todo(work: Work) -> Iterator[tuple[GroupWriter, list[range]]]:
    """The latents' and every combo's group, and what is left to do of it."""
    yield work.latents, work.latents.todo(work.gone)
    yield from ((job.group, job.todo) for job in work.jobs)


def _space(work: Work, block: int) -> int:
    """Bytes that what is left to do will take."""
    total = 0
    for group, todo in _todo(work):
        left, shapes = sum(map(len, todo)), {name: group.shape(name) for name in group.maps}
        total += group_footprint(shapes, group.encoding, left, block).bytes if left else 0
    return total


@contextmanager
def _place(order: ExtractionJob, work: Work, files: ModelFiles, store: Place,
           spread: Workers | None) -> Iterator[Callable[[list[range], _Heard], None]]:
    """Where blocks are computed, this process or a cluster: what runs them."""
    from gate_cache.workspace.device import out_of_memory, smaller_than

    if spread:
        from gate_cache.extraction import cluster

        site = cluster.BlockWorker(order, store.resolve())
        with cluster.local(spread.workers) if spread.workers else cluster.remote(
                spread.scheduler) as client:
            yield lambda blocks, heard: cluster.run(client, site, blocks, heard.counted)
        return
    engine = open_engine(order, work, files)
    for group, todo in _todo(work):
        if todo:
            group.note_device(engine.device)
    try:
        with out_of_memory(smaller_than(order.batch)):
            yield engine.run
    finally:
        engine.close()


class _Heard:
    """Keeps count for the user; called from several threads."""

    def __init__(self, result: Extracted, task: ProgressTask) -> None:
        self._result = result
        self._task = task
        self._lock = threading.Lock()

    def computed(self, rows: int) -> None:
        with self._lock:
            self._task.advance(rows)

    def written(self, group: str, rows: int) -> None:
        with self._lock:
            self._result.rows[group] += rows

    def counted(self, counts: dict[str, int]) -> None:
        for group, rows in counts.items():
            self.written(group, rows)
            if group != LATENTS:
                self.computed(rows)
