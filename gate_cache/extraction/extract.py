"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gate_cache.core.errors import DataError, StoreError, listed
from gate_cache.core.places import Place
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Progress, Silent, Task
from gate_cache.core.roots import Roots
from gate_cache.core.versions import versions
from gate_cache.datasets.common.base import ImageDataset
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import PlannedCombo, plan_combos
from gate_cache.extraction.block import Job, Work
from gate_cache.extraction.job import Order, open_engine, open_work
from gate_cache.extraction.plan import encoding_asked, need_files, store_block, store_of
from gate_cache.extraction.register import register
from gate_cache.extraction.validate import sample_problems
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import LATENTS, group_footprint
from gate_cache.store.places.disk import need_space
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.data_root import remember
from gate_cache.workspace.data_summary import before_extraction, check_data
from gate_cache.workspace.lookup import Stale, find_combo

_ASKED = os.environ.get("OMP_NUM_THREADS", "")
"""As this process was started: dask sets the variable to 1 for its workers, and here as well."""


@dataclass(frozen=True)
class Spread:
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


def extract(loaded: Loaded, roots: Roots, *, device: str | None = None, batch: int | None = None,
            threads: int | None = None, spread: Spread | None = None, wait: bool = True,
            progress: Progress | None = None) -> Extracted:
    """Extract all that is missing.

    Parameters
    ----------
    loaded : the manifest
    device : ``cpu``, ``cuda``, ``cuda:1`` …; by default a GPU where there is one
    batch : images per pass for this run; by default what the store was begun with
    threads : of the CPU in a pass; by default what the store was begun with
    spread : compute on several workers
    wait : until another extraction of this store ends; else that is an error

    Raises
    ------
    UserError
        Something is missing, damaged or full; what was done is kept.
    """
    show = progress or Silent()
    manifest = loaded.manifest
    dataset = open_dataset(manifest.dataset, roots)
    ids = [s.id for s in dataset.samples()]
    files = _checked(dataset, ids, loaded, roots, show)
    plans = plan_combos(manifest, files, roots)
    block = store_block(manifest, [p.shapes for p in plans])
    path = store_of(loaded, roots)
    with open_writer(path, dataset.name, block, manifest.store.batch, versions(),
                     threads or own_threads(spread), show.say if wait else None) as store:
        new, gone = register(store, dataset, ids, show)
        remember(path, roots)
        _tell_anew(path, plans, loaded, show)
        order = Order(loaded, roots.absolute() if spread else roots, device, batch or store.batch,
                      threads or store.threads or own_threads(spread), frozenset(gone))
        work = open_work(order, store, files, plans)
        result = Extracted(path, len(ids), new, dict.fromkeys([LATENTS, *manifest.combos], 0))
        _tell_kept(store, work.jobs, loaded, show)
        if any(todo for _, todo in _todo(work)):
            need_space(path, _space(work, store.block))
            for group, todo in _todo(work):
                if todo:
                    group.fit()
                    group.note_absent(todo, order.gone)
            for note in files.notes:
                show.say(f"note: {note}")
            show.say(f"loading {files.source}")
            with _place(order, work, files, path, spread) as run:
                total = sum(len(work.fresh(j.group, r)) for j in work.jobs for r in j.todo)
                blocks = sorted({(r.start, r.stop) for _, todo in _todo(work) for r in todo})
                with show.task("extracting", total, "rows") as task:
                    run([range(*block) for block in blocks], _Heard(result, task))
    return result


def own_threads(spread: Spread | None) -> int:
    """CPU threads of a pass in a new store: ``OMP_NUM_THREADS``, or an equal share of the cores."""
    if _ASKED.isdigit() and int(_ASKED):
        return int(_ASKED)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((cores or 1) // (spread.workers if spread and spread.workers else 1), 1)


def _checked(dataset: ImageDataset, ids: Sequence[str], loaded: Loaded, roots: Roots,
             show: Progress) -> ModelFiles:
    """The model's files, after all that can be refused or told before anything is paid."""
    for line in before_extraction(check_data(dataset, loaded, show), loaded):
        show.say(line)
    files = need_files(loaded, roots)
    wrong, notes = sample_problems(loaded.manifest, roots, ids)
    if wrong:
        raise DataError("\n".join(wrong))
    for line in [*_notes(dataset, loaded.manifest), *notes]:
        show.say(f"note: {line}")
    return files


def _notes(dataset: ImageDataset, manifest: Manifest) -> list[str]:
    """What to know of a data set's files before they are read."""
    if isinstance(dataset, ImageFiles) and Preprocessing.of(manifest.model, 0).background is None:
        return ["'resample: opencv' without a 'background' drops alpha, as the first release did:"
                " transparent pictures show what lies under it"]
    return []


def _tell_anew(path: Place, plans: Sequence[PlannedCombo], loaded: Loaded, show: Progress) -> None:
    """Say which combos are in the store already, but with other settings."""
    store, why = FeatureStore.open(path), dict[str, str]()
    for plan in plans:
        try:
            find_combo(store, loaded.manifest, plan.name, plan.recipe)
        except Stale as error:
            why[plan.name] = "; ".join(error.why)
        except StoreError:
            continue
    if why:
        show.say(f"note: {listed(why)}: extracted anew, beside what the store holds with other"
                 f" settings ({next(iter(why.values()))})")


def _tell_kept(store: StoreWriter, jobs: list[Job], loaded: Loaded, show: Progress) -> None:
    """Say where a store keeps to what it was begun with, whatever the manifest says now."""
    now, said = loaded.manifest.store, []
    if now.block and now.block != store.block:
        said.append(f"blocks of {store.block}")
    if now.batch != store.batch:
        said.append(f"batches of {store.batch}")
    asked = encoding_asked(loaded.manifest)
    said += [f"{job.plan.name} in {job.group.encoding}" for job in jobs
             if job.group.encoding != asked]
    if said:
        show.say(f"note: this store was begun with {listed(said)}, and keeps it; give store.path"
                 " another name to change that")


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
def _place(order: Order, work: Work, files: ModelFiles, store: Place,
           spread: Spread | None) -> Iterator[Callable[[list[range], _Heard], None]]:
    """Where blocks are computed, this process or a cluster: what runs them."""
    from gate_cache.workspace.device import out_of_memory, smaller_than

    if spread:
        from gate_cache.extraction import cluster

        site = cluster.Site(order, store.resolve())
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

    def __init__(self, result: Extracted, task: Task) -> None:
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
