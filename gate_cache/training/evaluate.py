"""``evaluate``: trained weights on another manifest's data, or on the same once more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import UserError
from gate_cache.learn.metrics.intervals import Interval
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.training.members import seen_before
from gate_cache.training.trained import find_trained

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import Split
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class Evaluated:
    """A trained model's results.

    Attributes
    ----------
    run, manifest : its folder, and the manifest whose data it was judged on
    head, split, protocol : what was judged, where and how
    values : metrics by name
    select, interval : the metric that chose its checkpoint, and its 95 % interval over images
    notes : what to know of them, a line each: images that the run has seen, say
    """

    run: str
    manifest: str
    head: str
    split: str
    protocol: str
    values: dict[str, float]
    select: str
    interval: Interval
    notes: tuple[str, ...] = ()


def evaluate(work: Workspace, run: Path, *, trial: str | None = None, last: bool = False,
             split: Split = "test") -> Evaluated:
    """Judge trained weights on a split of a manifest's data set.

    Parameters
    ----------
    work : the manifest on this machine
    run : folder of a training, or of a sweep
    trial : which one of a sweep
    last : the weights of the last step, not the best ones on ``val``
    split : whose images, or pairs, are judged

    Raises
    ------
    UserError
        There is no such run or trial, or it does not fit the manifest's features.
    """
    trained = find_trained(run, trial, last)
    trained.check(work)
    spec = trained.spec
    study = open_any(work.with_manifest(train=spec))
    model = study.gate(spec)
    trained.load(model, work.name)
    judged: Any = study.pairs if isinstance(study, TrainingInputs) else study.ids
    task = study.task.of({"test": judged[split]})  # whose metrics have intervals
    with torch.random.fork_rng():
        (scores,) = task.judge([model.to(study.device).eval()], "test")
    if not scores.values:
        raise UserError(f"{work.name}: split '{split}' has nothing to evaluate on")
    bounds = scores.details.get("interval", {}).get(study.select, (math.nan, math.nan))
    return Evaluated(str(run), str(work.loaded.path), spec.head.name, split, study.protocol,
                     dict(scores.values), study.select, Interval(*bounds),
                     tuple(seen_before(run, study.members, split)))

