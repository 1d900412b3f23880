"""The fit loop for one correspondence model: a stream with one trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gate_cache.core.errors import UserError
from gate_cache.learn.fit.trials import Fitted, Trial, fit_trials
from gate_cache.learn.tasks.matching import CorrespondenceTask

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.learn.features.bucket import Buckets
    from gate_cache.learn.features.pairs import PairPoints
    from gate_cache.learn.mixing.model import CorrespondenceModel
    from gate_cache.manifest.specs import TrainSpec


def fit(model: CorrespondenceModel, spec: TrainSpec, buckets: Buckets,
        train: Sequence[PairPoints], val: Sequence[PairPoints], show: Progress, label: str,
        log: Callable[[str], None] = lambda _: None) -> Fitted:
    """Train with AdamW on the correspondence loss and both regularisers (Eq. 5).

    The model is left with its best weights on ``val`` (its last ones without a ``val`` split).

    Parameters
    ----------
    label : what progress and log call this training
    log : called with a line at every validation

    Raises
    ------
    UserError
        The loss is not finite any more.
    """
    task = CorrespondenceTask(buckets, {"train": list(train), "val": list(val)})
    trial = Trial(label, spec, lambda: model, task, buckets.device)
    fit_trials([trial], task, bool(val), show, label, log)
    if trial.failed:
        raise UserError(trial.failed)
    return trial.fitted
