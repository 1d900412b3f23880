"""Passes of a manifest's model over a few images, in memory: no store is read or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gate_cache.core.errors import UserError, did_you_mean
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Progress
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import ImageDataset
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.extractor import Extractor, open_extractor
from gate_cache.diffusion.passes.recipes import plan_combos
from gate_cache.diffusion.passes.schedule import Lane, Wanted, schedule
from gate_cache.extraction.inputs import BlockInputs, Source, captions_of
from gate_cache.extraction.plan import need_files
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Combo
from gate_cache.store.format.samples import Samples
from gate_cache.workspace.device import choose_device, out_of_memory, smaller_than


@dataclass(frozen=True)
class Passes:
    """A loaded model, its combos and some images; a row is an image's number among them.

    Attributes
    ----------
    lanes : all passes, in an order that shares what can be
    source : the images, and how they are made square
    inputs : the same for passes, with latents
    """

    extractor: Extractor
    lanes: tuple[Lane, ...]
    source: Source
    inputs: BlockInputs


def chosen_combos(loaded: Loaded, names: Sequence[str]) -> dict[str, Combo]:
    """The combos that are asked for; by default all of ``conv``.

    Raises
    ------
    UserError
        The manifest has no such combo, or none at all.
    """
    known = loaded.manifest.combos
    for name in names:
        if name not in known:
            raise UserError(f"{loaded.path.name}: has no combo '{name}'"
                            f"{did_you_mean(name, known)}")
    found = {name: known[name] for name in names} or loaded.manifest.conv or known
    if not found:
        raise UserError(f"{loaded.path.name}: has no combos")
    return dict(found)


def model_of(loaded: Loaded, combos: Mapping[str, Combo], roots: Roots) -> ModelFiles:
    """The manifest's model, with all that these combos need, on this machine or fetched."""
    return need_files(_with(loaded, combos), roots)


@contextmanager
def open_passes(loaded: Loaded, combos: Mapping[str, Combo], dataset: ImageDataset,
                ids: Sequence[str], roots: Roots, show: Progress, *, device: str | None = None,
                batch: int | None = None) -> Iterator[Passes]:
    """Load the model with what these combos need, and encode the images.

    Parameters
    ----------
    combos : by name; they need not be the manifest's own. Their convolutional maps are read
    ids : of the data set
    batch : images per pass; by default what the manifest says

    Raises
    ------
    UserError
        Weights, captions or images are missing, or a combo does not suit the model.
    """
    asked = _with(loaded, combos)
    files = need_files(asked, roots)
    plans = tuple(plan_combos(asked.manifest, files, roots))
    model = asked.manifest.model
    preprocessing = Preprocessing.of(model, files.size(model.size))
    samples = Samples(ids, [dataset.sha256(i) for i in ids],
                      np.array([dataset.size(i) for i in ids], np.int32))
    captions = captions_of(asked, roots, samples, (), files.tokens)
    source = Source(dataset, samples, preprocessing, files.tokens, roots, captions)
    lanes = schedule([(Wanted.of(p), range(len(ids))) for p in plans], source.count_tokens)
    most = max(len(lane.items) for lane in lanes)
    size = min(batch or asked.manifest.store.batch, most)
    place = choose_device(device)
    show.say(f"loading {files.source}")
    with out_of_memory(smaller_than(size), kept=False):
        extractor = open_extractor(files, plans, roots, size, place, model.dtype)
        try:
            with ThreadPoolExecutor(2) as readers:
                inputs = BlockInputs(source, 0, readers)
                inputs.take_latents(extractor.encode(inputs.images(range(len(ids)))))
                yield Passes(extractor, tuple(lanes), source, inputs)
        finally:
            extractor.close()


def _with(loaded: Loaded, combos: Mapping[str, Combo]) -> Loaded:
    """The manifest with these combos alone, their convolutional maps to be read."""
    read = {name: c if name in loaded.manifest.conv else c.model_copy(update={"maps": None})
            for name, c in combos.items()}
    return loaded.model_copy(update={"manifest": loaded.manifest.model_copy(
        update={"conv": read, "attention": {}})})
