"""Metrics of dense prediction and of classification, from counts of each class.

Pixels whose true class is `IGNORED` are counted nowhere. A class that is neither in the truth nor
in the predictions has no IoU and is left out of mIoU; one that is not in the truth has no accuracy
and is left out of mAcc.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import IGNORED

Labels = npt.NDArray[Any]
Counts = npt.NDArray[Any]
"""(…, 3, classes): found, true and predicted pixels of each class; those of images add up.

Three more rows may follow: those of `scarce_counts`. Metrics are of each table, (…)."""
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


def mean_scarce_iou(found: Counts) -> Floats:
    """mIoU in percent as ddpm-segmentation has it: a class that is nowhere counts as 0."""
    return np.asarray(np.nan_to_num(iou(found[..., 3:, :])).mean(-1))


def iou(found: Counts) -> Floats:
    """(…, classes) intersection over union in percent; NaN where a class is nowhere."""
    hits, true, predicted = (found[..., i, :] for i in range(3))
    return _percent(hits, true + predicted - hits)


def class_accuracy(found: Counts) -> Floats:
    """(…, classes) share of each true class that was found, in percent; NaN where there is none."""
    return _percent(found[..., 0, :], found[..., 1, :])


def mean_iou(found: Counts) -> Floats:
    """mIoU in percent; NaN where nothing counts."""
    return _mean(iou(found))


def mean_accuracy(found: Counts) -> Floats:
    """mAcc in percent; NaN where nothing counts."""
    return _mean(class_accuracy(found))


def accuracy(found: Counts) -> Floats:
    """aAcc (of pixels), or top-1 accuracy (of images), in percent; NaN where nothing counts."""
    return _percent(found[..., 0, :].sum(-1), found[..., 1, :].sum(-1))


def by_name(values: Floats, names: Sequence[str]) -> dict[str, float | None]:
    """Values of classes by name; NaN becomes None."""
    return {name: None if math.isnan(v) else float(v)
            for name, v in zip(names, values.tolist(), strict=True)}


def _percent(part: Any, whole: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):  # where computes both of its branches
        return np.where(np.asarray(whole) > 0, 100 * np.true_divide(part, whole), np.nan)


def _mean(values: Floats) -> Floats:
    known = (~np.isnan(values)).sum(-1)
    return np.asarray(np.nansum(values, -1) / np.where(known, known, np.nan))
