"""A place where blocks are computed: this process, or a worker of a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.core.errors import StoreError, listed
from gate_cache.core.size import SHAPE
from gate_cache.core.versions import versions
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.passes.recipes import PlannedCombo, latents_recipe
from gate_cache.diffusion.techniques.registry import sources
from gate_cache.extraction.engine import Engine
from gate_cache.extraction.footprint import encoding_asked, keeps_latents
from gate_cache.extraction.inputs import open_source
from gate_cache.extraction.work import Job, Work
from gate_cache.store.format.layout import LATENT_MAP
from gate_cache.workspace.lookup import Stale, find_combo

if TYPE_CHECKING:
    from gate_cache.core.size import Size
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.store.writer import StoreWriter
    from gate_cache.workspace.workspace import Workspace

_ASKED = os.environ.get("OMP_NUM_THREADS", "")
"""As this process was started: dask sets the variable to 1 for its workers, and here as well."""


@dataclass(frozen=True)
class ExtractionJob:
    """What is to be done and how, in plain data.

    Attributes
    ----------
    workspace : for another process, with absolute folders
    batch : images per pass, at most if `halves`
    threads : of the CPU in a pass
    gone : rows whose image is not in the data set any more
    shape : of the inputs, where there are several
    """

    workspace: Workspace
    batch: int
    threads: int
    gone: frozenset[int]
    halves: bool = False
    shape: Size | None = None


def open_work(order: ExtractionJob, store: StoreWriter, files: ModelFiles,
              plans: Sequence[PlannedCombo]) -> Work:
    """What is left to do, with its groups; those that the store lacks are made.

    Parameters
    ----------
    plans : of all shapes

    Raises
    ------
    DataError
        Captions are missing.
    """
    workspace, manifest = order.workspace, order.workspace.manifest
    model, asked = manifest.model, encoding_asked(manifest)
    preprocessing = files.preprocessing(model)
    about = {"model": files.source, "versions": versions()}
    recipe = latents_recipe(files, preprocessing, model.compute)
    samples, gone, own = store.samples, order.gone, None
    if order.shape:
        recipe[SHAPE], preprocessing = list(order.shape), preprocessing.at(order.shape)
        plans = [plan.at(order.shape) for plan in plans]
        own = samples.of_shape(recipe)
        assert own is not None
        samples, gone = samples.part(own), frozenset(
            np.isin(own, list(gone)).nonzero()[0].tolist())
    shape = {LATENT_MAP: files.family.latent_shape(preprocessing.size)}
    latents = store.require_latents(recipe, shape, about, keeps_latents(manifest, files))
    jobs = []
    for plan in plans:
        one_text = plan.recipe["kind"] == "attention" and not plan.combo.captioned
        words = files.tokens.encode(plan.combo.prompt).words if one_text else ()
        names = {"source": sources(plan.combo), "tokens": list(words)}
        group = store.require(plan.name, plan.recipe, plan.shapes, asked, {**about, **names})
        jobs.append(Job(plan, group, group.todo(gone)))
    dataset = open_dataset(manifest.dataset, workspace.roots)
    source = open_source(workspace, dataset, samples, files, gone, order.shape)
    return Work(source, jobs, latents, latents.todo(gone), gone, store.joined, own)


def open_engine(order: ExtractionJob, plans: Sequence[PlannedCombo], files: ModelFiles) -> Engine:
    """The model with what these combos need.

    Raises
    ------
    UserError
        The device's memory is full.
    """
    from gate_cache.diffusion.passes.extractor import open_extractor
    from gate_cache.workspace.device import LOADING, out_of_memory

    place = order.workspace
    with out_of_memory(LOADING):
        extractor = open_extractor(files, plans, place.roots, order.batch, place.torch_device(),
                                   place.manifest.model)
    if order.halves:
        extractor.halved = lambda _: None
    return Engine(extractor, order.threads)


def own_threads(workers: int = 0) -> int:
    """CPU threads of a pass in a new store: ``OMP_NUM_THREADS``, or an equal share of the cores."""
    if _ASKED.isdigit() and int(_ASKED):
        return int(_ASKED)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((cores or 1) // (workers or 1), 1)


def tell_anew(work: Workspace, plans: Sequence[PlannedCombo]) -> None:
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
        work.progress.say(f"note: {listed(why)}: extracted again, beside what the store holds with"
                          f" other settings ({next(iter(why.values()))})")


def tell_kept(work: Workspace, store: StoreWriter, jobs: list[Job]) -> None:
    """Say where a store keeps to what it was begun with, whatever the manifest says now."""
    now, said = work.manifest.store, []
    if now.block and now.block != store.block:
        said.append(f"blocks of {store.block}")
    if now.batch not in ("auto", store.batch):
        said.append(f"batches of {store.batch}")
    asked = encoding_asked(work.manifest)
    said += dict.fromkeys(f"{job.plan.name} in {job.group.encoding}" for job in jobs
                          if job.group.encoding != asked)
    if said:
        work.progress.say(f"note: this store was created with {listed(said)}, and keeps it; give"
                          " store.path another name to change that")
