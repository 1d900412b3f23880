"""``predict``: what a trained segmentation says of images, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import UserError
from gate_cache.datasets.common.base import IGNORED
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.segmentation import SegmentationTask
from gate_cache.learn.tasks.task import Painted
from gate_cache.manifest.heads import heads_of
from gate_cache.training.inputs import DenseInputs, matches, open_any, task_of
from gate_cache.training.trained import find_trained
from gate_cache.workspace.pick import pick

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import SegmentationDataset
    from gate_cache.workspace.workspace import Workspace

IMAGES = 4
"""Pictures of the test split that are shown where none is asked for."""


@dataclass(frozen=True)
class Predicted:
    """One image with its masks.

    Attributes
    ----------
    image : (H, W, 3)
    true : (H, W) classes, 255 where none counts
    painted : what the model says
    accuracy, iou : percent of the pixels that count; mean over the classes seen in the image
    """

    id: str
    image: npt.NDArray[np.uint8]
    true: npt.NDArray[np.uint8]
    painted: Painted
    accuracy: float
    iou: float


@dataclass(frozen=True)
class Predictions:
    """A run's predictions.

    Attributes
    ----------
    run : its folder's name, and the trial
    classes : names, by number
    images : one after the other, predicted when asked for
    """

    run: str
    head: str
    classes: tuple[str, ...]
    images: Iterator[Predicted]


def predict(work: Workspace, run: Path, *, images: Sequence[str] = (), trial: str | None = None,
            last: bool = False) -> Predictions:
    """Predict masks with trained weights, for images of a manifest's data set.

    Parameters
    ----------
    work : the manifest on this machine
    run : folder of a training, or of a sweep
    images : ids, or parts of them, of any split; by default a few of ``test``
    trial : which one of a sweep
    last : the weights of the last step, not the best ones on ``val``

    Raises
    ------
    UserError
        There is no such run, image or trial, or its head predicts no masks.
    """
    trained = find_trained(run, trial, last)
    name = trained.spec.head.name
    if task_of(trained.spec) not in ("segmentation", "pixels"):
        other = "; 'gate-cache match --run' shows its matches" if matches(trained.spec) else ""
        raise UserError(f"{run}: was trained with head '{name}', which predicts no masks; name a"
                        f" run of head {' or '.join(heads_of('segmentation', 'pixels'))}{other}")
    trained.check(work)
    study = open_any(work.with_manifest(train=trained.spec))
    model = study.gate(trained.spec)
    trained.load(model, work.name)
    model.to(study.device).eval()
    task = study.task
    assert isinstance(study, DenseInputs)
    assert isinstance(task, SegmentationTask | PixelTask)
    every = [s.id for s in task.data.samples()] if images else study.ids["test"]
    ids = pick(every, images, IMAGES, work.name, "its data set")
    predicted = (_predicted(task.data, i, task.paint(model, i)) for i in ids)  # as they are drawn
    title = f"{run.resolve().name}{f'/{trial}' if trial else ''}"
    return Predictions(title, name, tuple(task.data.classes), predicted)


def _predicted(data: SegmentationDataset, sample_id: str, painted: Painted) -> Predicted:
    true = data.mask(sample_id)
    return Predicted(sample_id, data.image(sample_id), true, painted,
                     *agreement(true, painted.classes))


def agreement(true: npt.NDArray[np.uint8],
              predicted: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Of one image, percent: pixels that are right, and the mean IoU of the classes seen in it.

    Parameters
    ----------
    true : (H, W) classes, `IGNORED` where none counts
    predicted : (H, W) classes

    Returns
    -------
    Accuracy and mean IoU; NaN where no pixel counts.
    """
    counted = true != IGNORED
    if not counted.any():
        return float("nan"), float("nan")
    a, b = true[counted], predicted[counted]
    ious = [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum()
            for k in np.union1d(a, b)]
    return 100 * float((a == b).mean()), 100 * float(np.mean(ious))
