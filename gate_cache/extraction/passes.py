"""Passes of a manifest's model over a few images, in memory: no store is read or written."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gate_cache.core.errors import UserError, did_you_mean, listed
from gate_cache.diffusion.passes.extractor import Extractor, open_extractor
from gate_cache.extraction.footprint import store_batch
from gate_cache.extraction.inputs import BlockInputs, ImageSource, open_source
from gate_cache.store.format.samples import Samples
from gate_cache.workspace.device import LOADING, out_of_memory, smaller_than

if TYPE_CHECKING:
    from gate_cache.core.features import Family
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.diffusion.passes.schedule import PassGroup
    from gate_cache.manifest.specs import Combo
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class Passes:
    """A loaded model, its combos and some images; a row is an image's number among them.

    Attributes
    ----------
    lanes : all passes, in an order that shares what can be
    source : the images, and how they become its input
    inputs : the same for passes, with latents
    family : what the model offers
    """

    extractor: Extractor
    lanes: tuple[PassGroup, ...]
    source: ImageSource
    inputs: BlockInputs
    family: Family


def chosen_combos(work: Workspace, names: Sequence[str]) -> dict[str, Combo]:
    """The combos that are asked for; by default all of ``conv``.

    Raises
    ------
    UserError
        The manifest has no such combo, or none at all.
    """
    known = work.manifest.combos
    for name in names:
        if name not in known:
            raise UserError(f"{work.name}: has no combo '{name}'"
                            f"{did_you_mean(name, known)}")
    combos = {name: known[name] for name in names} or work.manifest.conv or known
    if not combos:
        raise UserError(f"{work.name}: has no combos")
    return {name: combo.model_copy(update={"model": work.manifest.model_name(combo) or None})
            for name, combo in combos.items()}


def need_whole(work: Workspace) -> None:
    """Raise `UserError` where images go through a model in tiles, or have inputs of own shapes."""
    need_one_shape(work)
    if any(model.tiles for model in work.manifest.every_model.values()):
        raise UserError(f"{work.name}: model.tiles: this is about passes of whole images; give it a"
                        " manifest without tiles, and a model.size that the model takes")


def need_one_shape(work: Workspace) -> None:
    """Raise `UserError` where images have inputs of several shapes."""
    if any(model.fit == "keep" for model in work.manifest.every_model.values()):
        raise UserError(f"{work.name}: model.fit: keep: this takes images of one shape; give it a"
                        " manifest with fit: pad")


def with_combos(work: Workspace, combos: Mapping[str, Combo]) -> Workspace:
    """The manifest with these combos alone, their convolutional maps to be read; of one model.

    Raises
    ------
    UserError
        The combos are of several models.
    """
    manifest = work.manifest
    # A reference, which is no combo of the manifest, says nothing of the model.
    models = list(dict.fromkeys(c.model for c in combos.values() if c.model))
    if len(models) > 1:
        raise UserError(f"{work.name}: the combos are of {len(models)} models ({listed(models)});"
                        " this reads one: name the combos of one")
    read = {name: c if name in manifest.conv else c.model_copy(update={"maps": None})
            for name, c in combos.items()}
    return work.with_manifest(
        only=manifest.only or manifest.models[models[0]], models={}, conv=read, attention={})


@contextmanager
def open_passes(work: Workspace, combos: Mapping[str, Combo], dataset: ImageDataset,
                ids: Sequence[str], batch: int | None = None) -> Iterator[Passes]:
    """Load the model with what these combos need, and encode the images.

    Parameters
    ----------
    work : the manifest on this machine
    combos : by name; they need not be the manifest's own. Their convolutional maps are read
    dataset : of the images
    ids : of images of the data set
    batch : images per pass; by default what the manifest says, or as many as fit

    Raises
    ------
    UserError
        Weights, captions or images are missing, or a combo does not suit the model.
    """
    need_one_shape(work)
    derived = with_combos(work, combos)
    files = derived.model()
    samples = Samples(ids, [dataset.sha256(i) for i in ids],
                      np.array([dataset.size(i) for i in ids], np.int32))
    source = open_source(derived, dataset, samples, files)
    wanted = [(plan, range(len(ids))) for plan in derived.plans(files)]
    most = max(len(lane.items) for lane in source.passes(wanted))

    def halved(count: int) -> None:
        work.progress.say(f"note: the device's memory was full: batches of {count} now")
    with passes_over(derived, files, source, wanted, min(
            batch or store_batch(derived.manifest), most), None if batch else halved) as passes:
        yield passes


@contextmanager
def passes_over(work: Workspace, files: ModelFiles, source: ImageSource,
                wanted: Sequence[tuple[PlannedCombo, Collection[int]]], batch: int,
                halved: Callable[[int], object] | None) -> Iterator[Passes]:
    """As `open_passes`, of a source's rows.

    Parameters
    ----------
    work : the manifest on this machine
    files : of its model
    source : of the images
    wanted : combos, and which rows of each
    batch : images per pass; fewer are filled up, which decides the last bits
    halved : hears of each smaller batch when the memory is full; None: that is an error
    """
    work.progress.say(f"loading {files.source}")
    with out_of_memory(LOADING, kept=False):
        extractor = open_extractor(files, [plan for plan, _ in wanted], work.roots, batch,
                                   work.torch_device(), work.manifest.model)
    extractor.halved = halved
    rows = sorted({row for _, some in wanted for row in some})
    full = out_of_memory(smaller_than(1 if halved else batch), kept=False)
    with closing(extractor), full, ThreadPoolExecutor(2) as readers:
        inputs = BlockInputs(source, readers)
        with work.progress.task("encoding", len(rows), "images") as task:
            for part in (rows[i : i + batch] for i in range(0, len(rows), batch)):
                inputs.take_latents(part, extractor.encode(inputs.images(part)))
                task.advance(len(part))
        yield Passes(extractor, tuple(source.passes(wanted)), source, inputs, files.family)


def seconds_an_image(work: Workspace, batch: int | None = None) -> float:
    """Of the device, for all combos of one image; reading and writing go on beside it.

    The first round, in which libraries choose how to compute, is not counted.

    Parameters
    ----------
    batch : images of a pass; by default the manifest's

    Raises
    ------
    UserError
        The model, or an image, is not there.
    """
    return sum(_seconds(part, batch) for part in work.by_model().values())


def _seconds(work: Workspace, batch: int | None) -> float:
    """Of one model; inputs of several shapes have as many pixels as the square."""
    if work.manifest.model.fit == "keep":
        work = work.with_manifest(only=work.manifest.model.model_copy(update={"fit": "pad"}))
    dataset = work.dataset()
    count = batch or store_batch(work.manifest)
    ids = [s.id for s in dataset.samples()[:count]]
    with open_passes(work, work.manifest.combos, dataset, ids, batch) as passes:
        for _ in range(2):
            start = time.perf_counter()
            passes.extractor.encode(passes.inputs.images(range(len(ids))))
            for lane in passes.lanes:
                for piece in passes.extractor.run(lane, passes.inputs):
                    del piece
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(ids)
