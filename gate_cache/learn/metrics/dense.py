"""Metrics of dense prediction and of classification, from counts of each class.

Pixels whose true class is `IGNORED` are counted nowhere. A class that is neither in the truth nor
in the predictions has no IoU and is left out of mIoU; one that is not in the truth has no accuracy
and is left out of mAcc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.datasets.common.base import IGNORED
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.mixing.amalgamator import by_map
from gate_cache.learn.mixing.weight_stats import weight_stats
from gate_cache.learn.tasks.task import Scores

Labels = npt.NDArray[Any]
Counts = npt.NDArray[Any]
"""(3, classes): found, true and predicted pixels of each class; those of images add up.

Three more rows may follow: those of `scarce_counts`."""
SCARCE_SIDE = 256
"""Pixels along each side at which ddpm-segmentation, and GATE's released code, count."""
Floats = npt.NDArray[np.float64]


def counts(true: Labels, predicted: Labels, classes: int, ignored: int = IGNORED) -> Counts:
    """How often each class was found, is true and was predicted: all that the metrics take.

    Parameters
    ----------
    true, predicted : integers of one shape
    ignored : the true class that never counts

    Returns
    -------
    (3, classes)

    Raises
    ------
    ValueError
        A number that counts is no class.
    """
    counted = true != ignored
    a, b = (np.asarray(x)[counted].astype(np.int64) for x in (true, predicted))
    for values in (a, b):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"classes {values.min()} to {values.max()}, and there are {classes}")
    return np.stack([np.bincount(x, minlength=classes) for x in (a[a == b], a, b)])


def scarce_counts(true: Labels, predicted: Labels, classes: int) -> Counts:
    """(3, classes) of one image as ddpm-segmentation counts them.

    Both label maps are brought to `SCARCE_SIDE` by cv2's nearest neighbour, which takes the pixel
    at ``floor(i · size / SCARCE_SIDE)``. Predictions on ignored pixels are among the predicted.
    """
    a, b = (_sampled(labels) for labels in (true, predicted))
    sizes = [np.bincount(x.ravel(), minlength=256)[:classes] for x in (a[a == b], a, b)]
    return np.stack(sizes)


def _sampled(labels: Labels) -> Labels:
    rows, columns = (np.arange(SCARCE_SIDE) * length // SCARCE_SIDE for length in labels.shape)
    return labels[np.ix_(rows, columns)]


def mean_scarce_iou(found: Counts) -> float:
    """mIoU in percent as ddpm-segmentation has it: a class that is nowhere counts as 0."""
    return float(np.nan_to_num(iou(found[3:])).mean())


def iou(found: Counts) -> Floats:
    """(classes,) intersection over union in percent; NaN where a class is nowhere."""
    return _percent(found[0], found[1] + found[2] - found[0])


def class_accuracy(found: Counts) -> Floats:
    """(classes,) share of each true class that was found, in percent; NaN where there is none."""
    return _percent(found[0], found[1])


def mean_iou(found: Counts) -> float:
    """mIoU in percent; NaN where nothing counts."""
    return _mean(iou(found))


def mean_accuracy(found: Counts) -> float:
    """mAcc in percent; NaN where nothing counts."""
    return _mean(class_accuracy(found))


def accuracy(found: Counts) -> float:
    """aAcc (of pixels), or top-1 accuracy (of images), in percent; NaN where nothing counts."""
    return float(_percent(found[0].sum(), found[1].sum()))


def by_name(values: Floats, names: Sequence[str]) -> dict[str, float | None]:
    """Values of classes by name; NaN becomes None."""
    return {name: None if math.isnan(v) else float(v)
            for name, v in zip(names, values.tolist(), strict=True)}


def _percent(part: Any, whole: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) > 0, 100 * np.true_divide(part, whole), np.nan)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


Metric = Callable[[Counts], float]
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
        self._kept = 0
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
        if self._kept < MOST_WEIGHTS:
            self._weights.append(by_map(weights).float().cpu())
            self._kept += len(weights)

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
        per_image = list(map(mean_iou, self._images))
        return self._scores(values, "mIoU", per_image, interval,
                            {"IoU": by_name(iou(total), self.classes)}, ids)

    def classification(self, interval: bool, ids: Sequence[str] = ()) -> Scores:
        """Top-1 accuracy over all images, and the mean over classes; as `segmentation`."""
        values: dict[str, Metric] = {"accuracy": accuracy, "class accuracy": mean_accuracy}
        per_image = [accuracy(c) for c in self._images]
        return self._scores(values, "accuracy", per_image, interval,
                            {"accuracy": by_name(class_accuracy(self._total()), self.classes)},
                            ids)

    def _scores(self, metrics: dict[str, Metric], select: str, per_image: list[float],
                interval: bool, details: dict[str, Any], ids: Sequence[str]) -> Scores:
        total = self._total()
        values = {name: value for name, metric in metrics.items()
                  if not math.isnan(value := metric(total))}
        details |= {"images": len(self._images),
                    **{name: float(np.mean(v)) for name, v in self._more.items()}}
        if interval:
            units = np.stack(self._images) if self._images else np.zeros((0, 6, 1))
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
