"""A model's results over images, with what its assigners weigh.

Apart from `dense`, which a report reads without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.learn.metrics.dense import (
    Counts,
    accuracy,
    by_name,
    class_accuracy,
    counts,
    iou,
    mean_accuracy,
    mean_iou,
    mean_scarce_iou,
    scarce_counts,
)
from gate_cache.learn.metrics.intervals import Metric, bootstrap
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.mixing.amalgamator import by_map
from gate_cache.learn.mixing.weight_stats import weight_stats
from gate_cache.learn.tasks.task import Scores

SCARCE = "mIoU/ddpm-segmentation"
MOST_WEIGHTS = 100_000
"""Weights kept for statistics at most."""


class ImageScores:
    """One model's results over images.

    Parameters
    ----------
    classes : names, by number
    scarce : whether to count as ddpm-segmentation, too
    """

    def __init__(self, classes: Sequence[str], scarce: bool = False) -> None:
        self.classes = classes
        self._scarce = scarce
        self._images: list[Counts] = []
        self._weights: list[torch.Tensor] = []
        self._weighed = 0
        self._more: dict[str, list[float]] = {}
        self._noted: dict[str, list[float]] = {}

    def image(self, true: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> None:
        """Count one image's pixels, or the one label of a classified image."""
        tally = counts(true, predicted, len(self.classes))
        if self._scarce:
            more = scarce_counts(true, predicted, len(self.classes))
            tally = np.concatenate([tally, more])
        self._images.append(tally)

    def weigh(self, weights: torch.Tensor) -> None:
        """Keep (N, n, b[, C]) weights for statistics, as long as there are not too many."""
        if self._weighed < MOST_WEIGHTS:
            self._weights.append(by_map(weights).float().cpu())
            self._weighed += len(weights)

    def add(self, name: str, value: float) -> None:
        """Note a number of one image, whose mean over images is told."""
        self._more.setdefault(name, []).append(value)

    def note(self, **values: float) -> None:
        """Note numbers of one image, which are told image by image alone."""
        for name, value in values.items():
            self._noted.setdefault(name, []).append(value)

    def segmentation(self, interval: bool, ids: Sequence[str] = ()) -> Scores:
        """mIoU, aAcc and mAcc over all pixels; mIoU of each image that has any counted pixel.

        Parameters
        ----------
        interval : whether to tell the metrics' intervals
        ids : of the images in their order, where results are wanted image by image
        """
        values: dict[str, Metric] = {"mIoU": mean_iou, "aAcc": accuracy, "mAcc": mean_accuracy,
                                     **({SCARCE: mean_scarce_iou} if self._scarce else {})}
        total = self._total()
        per_image = [float(mean_iou(c)) for c in self._images]
        return self._scores(values, "mIoU", per_image, interval,
                            {"IoU": by_name(iou(total), self.classes)}, ids)

    def classification(self, interval: bool, ids: Sequence[str] = ()) -> Scores:
        """Top-1 accuracy over all images, and the mean over classes; as `segmentation`."""
        values: dict[str, Metric] = {"accuracy": accuracy, "class accuracy": mean_accuracy}
        per_image = [float(accuracy(c)) for c in self._images]
        return self._scores(values, "accuracy", per_image, interval,
                            {"accuracy": by_name(class_accuracy(self._total()), self.classes)},
                            ids)

    def _scores(self, metrics: dict[str, Metric], select: str, per_image: list[float],
                interval: bool, details: dict[str, Any], ids: Sequence[str]) -> Scores:
        total = self._total()
        values = {name: value for name, metric in metrics.items()
                  if not math.isnan(value := float(metric(total)))}
        details |= {"images": len(self._images),
                    **{name: float(np.mean(v)) for name, v in self._more.items()}}
        if interval:
            units = np.stack(self._images or [total])  # without images there is no value either
            details["interval"] = {name: list(bootstrap(units, metrics[name])) for name in values}
        if self._weights:
            details["weights"] = weight_stats(torch.cat(self._weights)).to_json()
        return Scores(values, values.get(select, math.nan),
                      [v for v in per_image if not math.isnan(v)], details,
                      self._items(ids, per_image) if ids else None)

    def _items(self, ids: Sequence[str], per_image: list[float]) -> Items:
        return Items(np.array(ids, np.str_)[:, None], np.array(per_image), np.stack(self._images),
                     {name: np.array(values) for name, values in self._noted.items()})

    def _total(self) -> Counts:
        empty = np.zeros((3 + 3 * self._scarce, len(self.classes)), np.int64)
        return np.asarray(sum(self._images, empty))
