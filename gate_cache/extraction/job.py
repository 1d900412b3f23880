"""A place where blocks are computed: this process, or a worker of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.versions import versions
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.passes.recipes import PlannedCombo, latents_recipe
from gate_cache.diffusion.techniques.registry import sources
from gate_cache.extraction.block import Job, Work
from gate_cache.extraction.engine import Engine
from gate_cache.extraction.inputs import open_source
from gate_cache.extraction.storing import encoding_asked
from gate_cache.store.format.layout import LATENT_MAP

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.store.writer import StoreWriter
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class ExtractionJob:
    """What is to be done and how, in plain data.

    Attributes
    ----------
    workspace : for another process, with absolute folders
    batch : images per pass
    threads : of the CPU in a pass
    gone : rows whose image is not in the data set any more
    """

    workspace: Workspace
    batch: int
    threads: int
    gone: frozenset[int]


def open_work(order: ExtractionJob, store: StoreWriter, files: ModelFiles,
              plans: Sequence[PlannedCombo]) -> Work:
    """What is left to do, with its groups; those that the store lacks are made.

    Raises
    ------
    DataError
        Captions are missing.
    """
    workspace, manifest = order.workspace, order.workspace.manifest
    model, asked = manifest.model, encoding_asked(manifest)
    preprocessing = Preprocessing.of(model, files.size(model.size))
    about = {"model": files.source, "versions": versions()}
    shape = {LATENT_MAP: files.family.latent_shape(preprocessing.size)}
    latents = store.require_latents(latents_recipe(files, preprocessing, model.dtype), shape, about,
                                    manifest.store.latents)
    jobs = []
    for plan in plans:
        one_text = plan.recipe["kind"] == "attention" and not plan.combo.captioned
        words = files.tokens.encode(plan.combo.prompt).words if one_text else ()
        names = {"source": sources(plan.combo), "tokens": list(words)}
        group = store.require(plan.name, plan.recipe, plan.shapes, asked, {**about, **names})
        jobs.append(Job(plan, group, group.todo(order.gone)))
    dataset = open_dataset(manifest.dataset, workspace.roots)
    source = open_source(workspace, dataset, store.samples, files, order.gone)
    return Work(source, jobs, latents, order.gone)


def open_engine(order: ExtractionJob, work: Work, files: ModelFiles) -> Engine:
    """The model with what the jobs that are not done need."""
    from gate_cache.diffusion.passes.extractor import open_extractor

    plans = [job.plan for job in work.jobs if job.todo]
    place = order.workspace
    extractor = open_extractor(files, plans, place.roots, order.batch, place.torch_device(),
                               place.manifest.model.dtype)
    return Engine(work, extractor, order.threads)
