"""Passes of a manifest's model over a few images, in memory: no store is read or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.core.errors import UserError, did_you_mean, listed
from gate_cache.diffusion.passes.extractor import Extractor, open_extractor
from gate_cache.extraction.inputs import BlockInputs, ImageSource, open_source
from gate_cache.extraction.storing import store_batch
from gate_cache.store.format.samples import Samples
from gate_cache.workspace.device import LOADING, out_of_memory, smaller_than

if TYPE_CHECKING:
    from gate_cache.core.features import Family
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.diffusion.passes.schedule import PassGroup
    from gate_cache.manifest.specs import Combo
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class Passes:
    """A loaded model, its combos and some images; a row is an image's number among them.

    Attributes
    ----------
    lanes : all passes, in an order that shares what can be
    source : the images, and how they are made square
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
    derived = with_combos(work, combos)
    files = derived.model()
    plans = tuple(derived.plans(files))
    model = derived.manifest.model
    samples = Samples(ids, [dataset.sha256(i) for i in ids],
                      np.array([dataset.size(i) for i in ids], np.int32))
    source = open_source(derived, dataset, samples, files)
    lanes = source.passes((plan, range(len(ids))) for plan in plans)
    most = max(len(lane.items) for lane in lanes)
    size = min(batch or store_batch(derived.manifest), most)
    place = work.torch_device()
    work.progress.say(f"loading {files.source}")
    with out_of_memory(LOADING, kept=False):
        extractor = open_extractor(files, plans, work.roots, size, place, model)
    if batch is None:
        extractor.halved = lambda count: work.progress.say(
            f"note: the device's memory was full: batches of {count} now")
    with out_of_memory(smaller_than(size), kept=False):
        try:
            with ThreadPoolExecutor(2) as readers:
                inputs, rows = BlockInputs(source, readers), range(len(ids))
                with work.progress.task("encoding", len(rows), "images") as task:
                    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
                        inputs.take_latents(part, extractor.encode(inputs.images(part)))
                        task.advance(len(part))
                yield Passes(extractor, tuple(lanes), source, inputs, files.family)
        finally:
            extractor.close()
