"""Floors: what training labels alone say, whatever an image shows. A feature must be above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.learn.metrics.dense import SCARCE_SIDE
from gate_cache.learn.metrics.image_scores import ImageScores

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import SegmentationDataset, Split
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.learn.tasks.task import Scores

SIDE = SCARCE_SIDE // 2
"""Places along each side at which the prior counts labels: shares of an image's sides."""
Classes = npt.NDArray[np.uint8]


def mask_floors(data: SegmentationDataset, ids: Mapping[Split, Sequence[str]],
                scarce: bool = False) -> dict[Role, Scores]:
    """``majority``: the commonest class; ``prior``: the commonest at each place. On ``test``.

    Parameters
    ----------
    data, ids : masks, and samples of each split; those of ``train`` are counted
    scarce : as of `ImageScores`
    """
    majority, prior = _commonest(data, ids["train"])
    floors: dict[Role, Classes] = {"majority": np.full((1, 1), majority, np.uint8), "prior": prior}
    tallies: dict[Role, ImageScores] = {r: ImageScores(data.classes, scarce) for r in floors}
    for sample_id in ids["test"]:
        true = data.mask(sample_id)
        for role, table in floors.items():
            tallies[role].image(true, at_pixels(table, true.shape))
    return {role: scores.segmentation(True, ids["test"]) for role, scores in tallies.items()}


def label_floor(labels: Mapping[str, int], classes: Sequence[str],
                ids: Mapping[Split, Sequence[str]]) -> dict[Role, Scores]:
    """``majority``: the commonest class of ``train``, said of every image of ``test``."""
    train = [labels[i] for i in ids["train"]]
    shares = np.bincount(train, minlength=len(classes)) / max(len(train), 1)
    commonest, scores = int(shares.argmax()), ImageScores(classes)
    for sample_id in ids["test"]:
        scores.image(np.array([labels[sample_id]]), np.array([commonest]))
        scores.note(true=labels[sample_id], predicted=commonest,
                    confidence=float(shares[commonest]))
    return {"majority": scores.classification(True, ids["test"])}


def _commonest(data: SegmentationDataset, ids: Sequence[str]) -> tuple[int, Classes]:
    """The commonest class, and that of each of SIDE × SIDE places; of equal ones the first.

    A place where no training image has a class has the commonest of all.
    """
    count = len(data.classes)
    places = np.zeros((count, SIDE, SIDE), np.int32)
    totals = np.zeros(count, np.int64)
    for sample_id in ids:
        mask = data.mask(sample_id)
        totals += np.bincount(mask.ravel(), minlength=256)[:count]  # ignored ones are above
        here = at_pixels(mask, (SIDE, SIDE))
        rows, columns = np.nonzero(here < count)
        places[here[rows, columns], rows, columns] += 1
    majority = int(totals.argmax())
    return majority, np.where(places.any(0), places.argmax(0), majority).astype(np.uint8)


def at_pixels(table: Classes, size: tuple[int, ...]) -> Classes:
    """A table of classes read at the centres of (height, width) pixels: the cell they are in."""
    rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side)
                     for side, length in zip(size, table.shape, strict=True))
    return np.asarray(table[np.ix_(rows, columns)])
