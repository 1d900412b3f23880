"""What to know of a training's features and figures before they are believed: a line each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from gate_cache.learn.metrics.pck import BROADER, SELECTED, radius_in_cells

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Buckets
    from gate_cache.learn.features.pairs import PairPoints

LOOKED_AT = 4
"""Images in which channels are weighed."""
MOST = 2 / 3
"""Of the squared length, in less than half of the channels: worth a line."""


def typical_radius(pairs: Sequence[PairPoints], full: Buckets) -> float | None:
    """Median radius of the PCK that chooses, in cells; None where no target has one."""
    radius = radius_in_cells([p.target for p in pairs], full.resolution)
    return None if math.isnan(radius) else radius


def hints(full: Buckets, baseline: str, pairs: Sequence[PairPoints]) -> Iterator[str]:
    """What to say.

    Parameters
    ----------
    baseline : the single feature's group
    pairs : that are judged
    """
    radius = typical_radius(pairs, full)
    if radius is not None and radius < 1:
        yield (f"the radius of {SELECTED} is {radius:.2f} cells of the {full.resolution} ×"
               f" {full.resolution} maps (median): less than one, so look at {BROADER} first")
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
