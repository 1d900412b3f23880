"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.base import ImageDataset
from gate_cache.datasets.images import to_square
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.recipes import PlannedCombo, latents_recipe, plan_combos, sources
from gate_cache.diffusion.sources import ModelFiles
from gate_cache.errors import StoreError, listed
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.data_root import remember
from gate_cache.stages.plan import need_files, store_block, store_of
from gate_cache.stages.register import register
from gate_cache.store.disk import need_space
from gate_cache.store.layout import LATENT_MAP, LATENTS, group_footprint
from gate_cache.store.writer import GroupWriter, StoreWriter, open_writer

if TYPE_CHECKING:
    from gate_cache.diffusion.extractor import Extractor

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow",
             "opencv-python-headless", "opencv-python")
Maps = dict[str, npt.NDArray[Any]]


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
        new, gone = register(store, dataset, ids, show)
        remember(path, roots)
        result = Extracted(path, len(ids), new, dict.fromkeys([LATENTS, *manifest.combos], 0))
        jobs, latents, space = _jobs(store, plans, files, loaded, gone)
        _tell_kept(store, jobs, loaded, show)
        if any(job.todo for job in jobs):
            need_space(path, space)
            work = _Work(loaded, roots, dataset, store, files, latents, gone, result, show)
            _extract_blocks(work, jobs, device, batch or store.batch)
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


def _tell_kept(store: StoreWriter, jobs: list[_Job], loaded: Loaded, show: Progress) -> None:
    """Say where a store keeps to what it was begun with, whatever the manifest says now."""
    now, said = loaded.manifest.store, []
    if now.block and now.block != store.block:
        said.append(f"blocks of {store.block}")
    if now.batch != store.batch:
        said.append(f"batches of {store.batch}")
    said += [f"{job.plan.name} in {job.group.dtype(job.group.maps[0])}" for job in jobs
             if job.group.dtype(job.group.maps[0]) != now.dtype]
    if said:
        show.say(f"note: this store was begun with {listed(said)}, and keeps it; give store.path"
                 " another name to change that")


def _jobs(store: StoreWriter, plans: list[PlannedCombo], files: ModelFiles, loaded: Loaded,
          gone: set[int]) -> tuple[list[_Job], GroupWriter, int]:
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
        jobs.append(_Job(plan, group, group.todo(gone)))
        left = sum(len(r) for r in jobs[-1].todo)
        space += group_footprint(plan.shapes, dtype, left, store.block).bytes if left else 0
    left = sum(len(r) for r in latents.todo(gone))
    return jobs, latents, space + group_footprint(shape, "float32", left, store.block).bytes


@dataclass
class _Work:
    """What every block's work needs."""

    loaded: Loaded
    roots: Roots
    dataset: ImageDataset
    store: StoreWriter
    files: ModelFiles
    latents: GroupWriter
    gone: set[int]
    result: Extracted
    show: Progress


def _extract_blocks(work: _Work, jobs: list[_Job], device: str | None, batch: int) -> None:
    """Go through the blocks; within a block, latents first, then every combo."""
    from gate_cache.diffusion.extractor import open_extractor
    from gate_cache.stages.device import choose_device, out_of_memory

    manifest = work.loaded.manifest
    work.show.say(f"loading {manifest.model.source}")
    active = [job for job in jobs if job.todo]
    extractor = open_extractor(work.files, [j.plan for j in active], work.roots, batch,
                               choose_device(device), manifest.model.dtype)
    for group in (work.latents, *(job.group for job in active)):
        group.fit()
    blocks = sorted({(r.start, r.stop) for job in active for r in job.todo})
    total = sum(len(_fresh(work, j.group, r)) for j in active for r in j.todo)
    try:
        shown = work.show.task("extracting", total, "rows")
        with out_of_memory("a smaller --batch"), shown as task:
            for start, stop in blocks:
                _block(work, range(start, stop), active, extractor, task)
    finally:
        extractor.close()


def _fresh(work: _Work, group: GroupWriter, rows: range) -> list[int]:
    """Rows of a block to compute: not kept, and their image is there."""
    return [r for r in rows[group.kept(rows):] if r not in work.gone]


def _block(work: _Work, rows: range, jobs: list[_Job], extractor: Extractor, task: Any) -> None:
    images = _Images(work.dataset, work.store, work.files.size(work.loaded.manifest.model.size))
    latents = _latents(work, rows, extractor, images)
    for job in (job for job in jobs if rows in job.todo):
        fresh = _fresh(work, job.group, rows)
        maps = _maps(work, job.plan, fresh, latents[[r - rows.start for r in fresh]], extractor,
                     images, task) if fresh else {}
        _write(work, job.group, rows, _cast(job, maps))
        work.result.rows[job.plan.name] += len(fresh)


def _maps(work: _Work, plan: PlannedCombo, fresh: list[int], latents: npt.NDArray[Any],
          extractor: Extractor, images: _Images, task: Any) -> Maps:
    pixels = images.read(fresh) if plan.combo.controlnet else None
    ids = [work.store.samples[r] for r in fresh]
    return dict(extractor.maps(plan, ids, latents, pixels, task.advance))


def _write(work: _Work, group: GroupWriter, rows: range, fresh: Maps) -> Maps:
    """Write a whole block: kept rows, fresh ones, and NaN where the image is gone."""
    kept, computed = group.kept(rows), _fresh(work, group, rows)
    old, at = group.read_kept(rows), [r - rows.start for r in computed]
    whole: Maps = {}
    for name in group.maps:
        shape = group.shape(name)
        whole[name] = np.full((len(rows), *shape), np.nan, group.dtype(name))
        whole[name][:kept] = old.get(name, whole[name][:0])
        if computed:
            whole[name][at] = fresh[name]
    void = [r for r in rows[kept:] if r in work.gone]
    group.write(rows, whole, [*void, *group.absent(rows[:kept])])
    return whole


def _latents(work: _Work, rows: range, extractor: Extractor, images: _Images) -> npt.NDArray[Any]:
    """The block's latents: from the store, or through the VAE and then into the store."""
    group = work.latents
    if group.kept(rows) == len(rows):
        return group.read_kept(rows)[LATENT_MAP]
    fresh = _fresh(work, group, rows)
    found = {LATENT_MAP: extractor.encode(images.read(fresh))} if fresh else {}
    _refuse_not_finite("latents", found, "bfloat16 or float32 as model.dtype")
    work.result.rows[LATENTS] += len(fresh)
    return _write(work, group, rows, dict(found))[LATENT_MAP]


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

    def read(self, rows: list[int]) -> npt.NDArray[np.uint8]:
        """(len(rows), size, size, 3) uint8."""
        missing = [r for r in rows if r not in self._known]
        with ThreadPoolExecutor(2) as pool:
            self._known.update(zip(missing, pool.map(self._one, missing), strict=True))
        return np.stack([self._known[r] for r in rows])

    def _one(self, row: int) -> npt.NDArray[np.uint8]:
        return to_square(self._dataset.image(self._store.samples[row]), self._size)
