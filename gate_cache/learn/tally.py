"""Counting what a model gets right, image by image, and the scores that follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.learn.intervals import bootstrap
from gate_cache.learn.metrics_dense import (
    Counts,
    accuracy,
    by_name,
    class_accuracy,
    confusion,
    counts,
    iou,
    mean_accuracy,
    mean_iou,
)
from gate_cache.learn.task import Scores
from gate_cache.learn.weight_stats import weight_stats

Metric = Callable[[Counts], float]
MOST_WEIGHTS = 100_000
"""Weights kept for statistics at most."""


class Tally:
    """One model's results over images.

    Parameters
    ----------
    classes : names, by number
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._images: list[Counts] = []
        self._weights: list[torch.Tensor] = []
        self._kept = 0
        self._more: dict[str, list[float]] = {}

    def image(self, true: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> None:
        """Count one image's pixels, or the one label of a classified image."""
        self._images.append(counts(confusion(true, predicted, len(self.classes))))

    def weigh(self, weights: torch.Tensor) -> None:
        """Keep (N, n, b) weights for statistics, as long as there are not too many."""
        if self._kept < MOST_WEIGHTS:
            self._weights.append(weights.float().cpu())
            self._kept += len(weights)

    def add(self, name: str, value: float) -> None:
        """Note a number of one image, whose mean over images is told."""
        self._more.setdefault(name, []).append(value)

    def segmentation(self, interval: bool) -> Scores:
        """mIoU, aAcc and mAcc over all pixels; mIoU of each image that has any counted pixel."""
        values: dict[str, Metric] = {"mIoU": mean_iou, "aAcc": accuracy, "mAcc": mean_accuracy}
        total = self._total()
        each = [v for v in map(mean_iou, self._images) if not math.isnan(v)]
        return self._scores(values, "mIoU", each, interval,
                            {"IoU": by_name(iou(total), self.classes)})

    def classification(self, interval: bool) -> Scores:
        """Top-1 accuracy over all images, and the mean over classes."""
        values: dict[str, Metric] = {"accuracy": accuracy, "class accuracy": mean_accuracy}
        each = [accuracy(c) for c in self._images]
        return self._scores(values, "accuracy", each, interval,
                            {"accuracy": by_name(class_accuracy(self._total()), self.classes)})

    def _scores(self, metrics: dict[str, Metric], select: str,
                each: list[float], interval: bool, details: dict[str, Any]) -> Scores:
        total = self._total()
        values = {name: found for name, metric in metrics.items()
                  if not math.isnan(found := metric(total))}
        details |= {"images": len(self._images),
                    **{name: float(np.mean(v)) for name, v in self._more.items()}}
        if interval:
            units = np.stack(self._images) if self._images else np.zeros((0, 3, 1))
            details["interval"] = {name: list(bootstrap(units, metrics[name])) for name in values}
        if self._weights:
            details["weights"] = weight_stats(torch.cat(self._weights)).to_json()
        return Scores(values, values.get(select, -math.inf), each, details)

    def _total(self) -> Counts:
        empty = np.zeros((3, len(self.classes)), np.int64)
        return np.asarray(sum(self._images, empty))
