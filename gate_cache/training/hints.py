"""What a training says of its inputs before anything is paid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from gate_cache.datasets.common.base import SplitDataset
from gate_cache.learn.features.bucket import Buckets
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.metrics.pck import BROADER, SELECTED, metric_name, radius_in_cells
from gate_cache.training.features import Opened

LOOKED_AT = 4
"""Images in which channels are weighed."""
MOST = 2 / 3
"""Of the squared length, in less than half of the channels: worth a line."""


def repeats(dataset: SplitDataset, opened: Opened) -> Iterator[str]:
    """How many images of ``val`` and ``test`` have the content of training images, if any."""
    splits = np.array([dataset.split_of(i) for i in opened.rows])
    digests = opened.shared["store"].samples.sha256.raw[list(opened.rows.values())]
    begins = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]  # 64 bits tell them apart
    for split in ("val", "test"):
        again = np.isin(begins[splits == split], begins[splits == "train"])
        if again.any():
            yield (f"with the content of training images: {again.sum()} of the {len(again)} of"
                   f" split '{split}', so results there are not of unseen images alone")


def radius(pairs: Sequence[PairPoints], full: Buckets) -> float | None:
    """Of `SELECTED`, in cells of the maps: the median over targets; None where none has one."""
    return radius_in_cells([p.target for p in pairs], full.resolution)


def hints(full: Buckets, baseline: str, pairs: Sequence[PairPoints]) -> Iterator[str]:
    """What to say of points: a radius below a cell, and few channels that decide.

    Parameters
    ----------
    full : buckets of all features
    baseline : the single feature's group
    pairs : that are judged
    """
    cells = radius(pairs, full)
    if cells is not None and cells < 1:
        yield (f"the radius of {metric_name(SELECTED)} is {cells:.2f} cells of the"
               f" {full.resolution.height} × {full.resolution.width} maps (median): less than"
               f" one, so look at {metric_name(BROADER)} first")
    if full.spec.standardise == "none" and (heaviest := _heaviest(full, baseline, pairs)):
        yield (f"{heaviest}: cosine similarity sees little else; standardise: image, an option of"
               " the head, gives every channel the same say")


def _heaviest(full: Buckets, group: str, pairs: Sequence[PairPoints]) -> str:
    """The level that holds most of a feature's squared length, if one does by few channels."""
    alone = full.of((group,))
    ids = list(dict.fromkeys(p.pair.source for p in pairs))[:LOOKED_AT]
    energy = torch.stack([alone.named(i).conv[0].square().sum((1, 2)) for i in ids]).sum(0)
    parts = torch.split(energy / energy.sum(), list(alone.levels.values()))
    share, name, count = max((float(part.sum()), name, len(part))
                             for name, part in zip(alone.levels, parts, strict=True))
    if not share > MOST or 2 * count >= alone.channels:
        return ""
    return (f"{name} ({count} of {alone.channels} channels) holds {100 * share:.0f} % of the"
            " squared length of the single feature's descriptors")
