"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.base import ImageDataset
from gate_cache.datasets.images import to_square
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.recipes import PlannedCombo, latents_recipe, plan_combos, sources
from gate_cache.diffusion.sources import ModelFiles
from gate_cache.errors import DataError, StoreError, listed
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.plan import need_files, store_block, store_of
from gate_cache.store.disk import need_space
from gate_cache.store.layout import LATENT_MAP, LATENTS, group_footprint
from gate_cache.store.samples import NewSample
from gate_cache.store.writer import GroupWriter, StoreWriter, open_writer

if TYPE_CHECKING:
    from gate_cache.diffusion.extractor import Extractor

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "opencv-python-headless", "numpy")
Maps = dict[str, npt.NDArray[Any]]
Value = TypeVar("Value")


@dataclass
class Extracted:
    """What an extraction did.

    Attributes
    ----------
    images : samples of the data set
    new_images : of them, appended to the store by this run
    rows : combo name to rows computed by this run (0: it was all there)
    """

    store: Path
    images: int
    new_images: int
    rows: dict[str, int] = field(default_factory=dict)


@dataclass
class _Job:
    """One combo with its group and what is left to do of it."""

    plan: PlannedCombo
    group: GroupWriter
    todo: list[range]


def extract(loaded: Loaded, roots: Roots, *, device: str | None = None, batch: int | None = None,
            progress: Progress | None = None) -> Extracted:
    """Extract all that is missing.

    Parameters
    ----------
    loaded : the manifest
    device : ``cpu``, ``cuda``, ``cuda:1`` …; by default a GPU where there is one
    batch : images per pass for this run; by default what the store was begun with

    Raises
    ------
    UserError
        Something is missing, damaged or full; what was done is kept.
    """
    show = progress or Silent()
    manifest = loaded.manifest
    dataset = open_dataset(manifest.dataset, roots)
    ids = [s.id for s in dataset.samples()]
    files = need_files(loaded, roots)
    plans = plan_combos(manifest, files, roots)
    block = store_block(manifest, [p.shapes for p in plans])
    path = store_of(loaded, roots)
    with open_writer(path, dataset.name, block, manifest.store.batch, versions()) as store:
        new, gone = _register(store, dataset, ids, show)
        result = Extracted(path, len(ids), new, dict.fromkeys([LATENTS, *manifest.combos], 0))
        jobs, latents, space = _jobs(store, plans, files, loaded)
        _refuse_gone(store, jobs, gone)
        if any(job.todo for job in jobs):
            need_space(path, space)
            _run(_Run(loaded, roots, dataset, store, files, latents, result, show), jobs,
                 device, batch or store.batch)
    return result


def versions() -> dict[str, str]:
    """Versions of the libraries that values can depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _register(store: StoreWriter, dataset: ImageDataset, ids: list[str],
              show: Progress) -> tuple[int, list[int]]:
    """Append images that the store does not know, by id and content; all are decoded first.

    Returns
    -------
    How many are new, and the rows whose image is gone from the data set, or has other content.
    """
    known = set(zip(store.samples.ids, store.samples.sha256, strict=True))
    digests = _each(show, "reading the data set", dataset.sha256, ids)
    present = set(zip(ids, digests, strict=True))
    gone = [row for row, key in enumerate(zip(store.samples.ids, store.samples.sha256,
                                              strict=True)) if key not in present]
    new = [(i, d) for i, d in zip(ids, digests, strict=True) if (i, d) not in known]
    if not new:
        return 0, gone
    checked = _each(show, "checking new images", partial(_check, dataset), [i for i, _ in new])
    bad = [c for c in checked if isinstance(c, DataError)]
    if bad:
        raise DataError("\n".join(str(e) for e in bad))
    store.append([NewSample(i, d, *size) for (i, d), size in zip(new, checked, strict=True)
                  if isinstance(size, tuple)])
    return len(new), gone


def _each(show: Progress, label: str, work: Callable[[str], Value], ids: list[str]) -> list[Value]:
    """Do one thing for every image, in threads, in order."""
    found = []
    with show.task(label, len(ids), "images") as task, ThreadPoolExecutor(2) as pool:
        for value in pool.map(work, ids):
            found.append(value)
            task.advance()
    return found


def _check(dataset: ImageDataset, sample_id: str) -> tuple[int, int] | DataError:
    try:
        height, width = dataset.image(sample_id).shape[:2]
        return height, width
    except DataError as error:
        return error


def _refuse_gone(store: StoreWriter, jobs: list[_Job], gone: list[int]) -> None:
    """A row whose image is gone or changed can be kept where it is done, but not computed."""
    left = {row for job in jobs for rows in job.todo
            for row in range(rows.start + job.group.kept(rows), rows.stop)}
    lost = [store.samples[row] for row in gone if row in left]
    if lost:
        raise StoreError(f"{store.path}: {len(lost)} of its images are gone from the data set, or"
                         f" were changed, before every combo had them ({listed(lost, 3)}); put"
                         " them back or give store.path another name")


def _jobs(store: StoreWriter, plans: list[PlannedCombo], files: ModelFiles,
          loaded: Loaded) -> tuple[list[_Job], GroupWriter, int]:
    """What is left to do, the latents' group, and the bytes it needs."""
    model, dtype = loaded.manifest.model, loaded.manifest.store.dtype
    about = {"model": model.source, "versions": versions()}
    jobs: list[_Job] = []
    space = 0
    size = files.size(model.size)
    shape = {LATENT_MAP: files.family.latent_shape(size)}
    recipe = latents_recipe(files, size, model.dtype)
    latents = store.require(LATENTS, recipe, shape, "float32", about)
    for plan in plans:
        names = {"source": sources(plan.combo), "tokens": list(files.tokens.encode(
            plan.combo.prompt).words) if plan.recipe["kind"] == "attention" else []}
        group = store.require(plan.name, plan.recipe, plan.shapes, dtype, {**about, **names})
        jobs.append(_Job(plan, group, group.todo()))
        left = sum(len(r) for r in jobs[-1].todo)
        space += group_footprint(plan.shapes, dtype, left, store.block).bytes if left else 0
    left = sum(len(r) for r in latents.todo())
    return jobs, latents, space + group_footprint(shape, "float32", left, store.block).bytes


@dataclass
class _Run:
    """What every block's work needs."""

    loaded: Loaded
    roots: Roots
    dataset: ImageDataset
    store: StoreWriter
    files: ModelFiles
    latents: GroupWriter
    result: Extracted
    show: Progress


def _run(run: _Run, jobs: list[_Job], device: str | None, batch: int) -> None:
    """Go through the blocks; within a block, latents first, then every combo."""
    from gate_cache.diffusion.extractor import open_extractor
    from gate_cache.stages.device import choose_device

    manifest = run.loaded.manifest
    run.show.say(f"loading {manifest.model.source}")
    active = [job for job in jobs if job.todo]
    extractor = open_extractor(run.files, [j.plan for j in active], run.roots, batch,
                               choose_device(device), manifest.model.dtype)
    for group in (run.latents, *(job.group for job in active)):
        group.fit()
    blocks = sorted({(r.start, r.stop) for job in active for r in job.todo})
    total = sum((len(r) - j.group.kept(r)) for j in active for r in j.todo)
    try:
        with run.show.task("extracting", total, "rows") as task:
            for start, stop in blocks:
                _block(run, range(start, stop), active, extractor, task)
    finally:
        extractor.close()


def _block(run: _Run, rows: range, jobs: list[_Job], extractor: Extractor, task: Any) -> None:
    here = [job for job in jobs if rows in job.todo]
    size = run.files.size(run.loaded.manifest.model.size)
    images = _Images(run.dataset, run.store, size)
    latents = _latents(run, rows, extractor, images)
    for job in here:
        kept = job.group.kept(rows)
        fresh = range(rows.start + kept, rows.stop)
        ids = [run.store.samples[r] for r in fresh]
        pixels = images.read(fresh) if job.plan.combo.controlnet else None
        maps = extractor.maps(job.plan, ids, latents[kept:], pixels, task.advance)
        cast = _cast(job, maps)
        if kept:
            old = job.group.read(range(rows.start, fresh.start))
            cast = {n: np.concatenate([old[n], m]) for n, m in cast.items()}
        job.group.write(rows, cast)
        run.result.rows[job.plan.name] += len(fresh)


def _latents(run: _Run, rows: range, extractor: Extractor, images: _Images) -> npt.NDArray[Any]:
    """The block's latents: from the store, or through the VAE and then into the store."""
    kept = run.latents.kept(rows)
    old = run.latents.read(range(rows.start, rows.start + kept))[LATENT_MAP]
    if kept == len(rows):
        return old
    fresh = extractor.encode(images.read(range(rows.start + kept, rows.stop)))
    found = np.concatenate([old, fresh])
    _refuse_not_finite("latents", {LATENT_MAP: found}, "bfloat16 or float32 as model.dtype")
    run.latents.write(rows, {LATENT_MAP: found})
    run.result.rows[LATENTS] += len(rows) - kept
    return found


def _cast(job: _Job, maps: Maps) -> Maps:
    """Cast to the stored dtype; what does not fit it is refused, not stored as infinity."""
    _refuse_not_finite(job.plan.name, maps, "bfloat16 or float32 as model.dtype")
    with np.errstate(over="ignore"):
        cast: Maps = {n: m.astype(job.group.dtype(n)) for n, m in maps.items()}
    _refuse_not_finite(job.plan.name, cast, "float32 as store.dtype and another store.path")
    return cast


def _refuse_not_finite(name: str, maps: Maps, way_out: str) -> None:
    for key, value in maps.items():
        if not np.isfinite(value).all():
            raise StoreError(f"{name}: '{key}' has values that are not finite; try {way_out}")


class _Images:
    """The images of a block at the model's size, each read once."""

    def __init__(self, dataset: ImageDataset, store: StoreWriter, size: int) -> None:
        self._dataset = dataset
        self._store = store
        self._size = size
        self._known: dict[int, npt.NDArray[np.uint8]] = {}

    def read(self, rows: range) -> npt.NDArray[np.uint8]:
        """(len(rows), size, size, 3) uint8."""
        missing = [r for r in rows if r not in self._known]
        with ThreadPoolExecutor(2) as pool:
            self._known.update(zip(missing, pool.map(self._one, missing), strict=True))
        return np.stack([self._known[r] for r in rows])

    def _one(self, row: int) -> npt.NDArray[np.uint8]:
        return to_square(self._dataset.image(self._store.samples[row]), self._size)
