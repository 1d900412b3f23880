"""What a segmentation model says of an image, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import IGNORED


class Painted(NamedTuple):
    """One model's prediction for one image.

    Attributes
    ----------
    classes : (H, W) class of every pixel
    uncertainty : (H, W) how unsure the model is
    measure : what that is: ``entropy`` of the softmax in nats, or the share of ``members that
        disagree`` with the vote
    most : the largest value that it can have
    """

    classes: npt.NDArray[np.uint8]
    uncertainty: npt.NDArray[np.float32]
    measure: str
    most: float


def agreement(true: npt.NDArray[np.uint8],
              found: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Of one image, percent: pixels that are right, and the mean IoU of the classes seen in it.

    Parameters
    ----------
    true : (H, W) classes, `IGNORED` where none counts
    found : (H, W) classes

    Returns
    -------
    Accuracy and mean IoU; NaN where no pixel counts.
    """
    counted = true != IGNORED
    if not counted.any():
        return float("nan"), float("nan")
    a, b = true[counted], found[counted]
    ious = [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum()
            for k in np.union1d(a, b)]
    return 100 * float((a == b).mean()), 100 * float(np.mean(ious))
