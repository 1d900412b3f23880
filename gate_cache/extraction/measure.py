"""How long an image takes: a few batches of a manifest's combos, run and thrown away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from gate_cache.extraction.passes import open_passes
from gate_cache.extraction.storing import store_batch

if TYPE_CHECKING:
    from gate_cache.workspace.workspace import Workspace


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
    """Of one model."""
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
