"""Stage 1: run the diffusion model once per image and combo, and write the maps into the store.

Wiring only: what is missing is found in the store, computed by `diffusion`, written by `store`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.recipes import PlannedCombo, latents_recipe, plan_combos, sources
from gate_cache.diffusion.sources import ModelFiles
from gate_cache.errors import listed
from gate_cache.geometry import Square
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.block import Job, Work, extract_block, fresh_rows
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
            square = Square(files.size(manifest.model.size), manifest.model.fit)
            work = Work(dataset, store, files.tokens, square, latents, gone, result.rows)
            show.say(f"loading {manifest.model.source}")
            with _opened(loaded, roots, files, jobs, device, batch or store.batch) as extractor:
                _extract_blocks(work, jobs, extractor, show)
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


def _tell_kept(store: StoreWriter, jobs: list[Job], loaded: Loaded, show: Progress) -> None:
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
          gone: set[int]) -> tuple[list[Job], GroupWriter, int]:
    """What is left to do, the latents' group, and the bytes it needs."""
    model, dtype = loaded.manifest.model, loaded.manifest.store.dtype
    about = {"model": model.source, "versions": versions()}
    jobs: list[Job] = []
    space = 0
    size = files.size(model.size)
    shape = {LATENT_MAP: files.family.latent_shape(size)}
    recipe = latents_recipe(files, size, model.dtype, model.fit)
    latents = store.require(LATENTS, recipe, shape, "float32", about)
    for plan in plans:
        names = {"source": sources(plan.combo), "tokens": list(files.tokens.encode(
            plan.combo.prompt).words) if plan.recipe["kind"] == "attention" else []}
        group = store.require(plan.name, plan.recipe, plan.shapes, dtype, {**about, **names})
        jobs.append(Job(plan, group, group.todo(gone)))
        left = sum(len(r) for r in jobs[-1].todo)
        space += group_footprint(plan.shapes, dtype, left, store.block).bytes if left else 0
    left = sum(len(r) for r in latents.todo(gone))
    return jobs, latents, space + group_footprint(shape, "float32", left, store.block).bytes


@contextmanager
def _opened(loaded: Loaded, roots: Roots, files: ModelFiles, jobs: list[Job], device: str | None,
            batch: int) -> Iterator[Extractor]:
    """The model with what the jobs that are not done need."""
    from gate_cache.diffusion.extractor import open_extractor
    from gate_cache.stages.device import choose_device, out_of_memory

    plans = [job.plan for job in jobs if job.todo]
    place = choose_device(device)
    extractor = open_extractor(files, plans, roots, batch, place, loaded.manifest.model.dtype)
    try:
        with out_of_memory("a smaller --batch"):
            yield extractor
    finally:
        extractor.close()


def _extract_blocks(work: Work, jobs: list[Job], extractor: Extractor, show: Progress) -> None:
    """Go through the blocks."""
    active = [job for job in jobs if job.todo]
    for group in (work.latents, *(job.group for job in active)):
        group.fit()
    blocks = sorted({(r.start, r.stop) for job in active for r in job.todo})
    total = sum(len(fresh_rows(work, j.group, r)) for j in active for r in j.todo)
    with show.task("extracting", total, "rows") as task:
        for start, stop in blocks:
            extract_block(work, range(start, stop), active, extractor, task)
