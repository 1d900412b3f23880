"""Baselines of a sweep: trained ones run in the stream of the trials, others are only judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gate_cache.learn.metrics.roles import Method
from gate_cache.manifest.heads import head_of
from gate_cache.manifest.sweep_file import Point
from gate_cache.manifest.train_spec import SEEDS
from gate_cache.training.inputs import TrainingInputs
from gate_cache.training.methods import Make, baselines, untrained
from gate_cache.training.run_files import items_file
from gate_cache.training.sweep_tables import SCHEDULE, TrialRow

if TYPE_CHECKING:
    from gate_cache.training.inputs import Study


@dataclass(frozen=True)
class BaselinePoint(Point):
    """A baseline as one more trial.

    Attributes
    ----------
    method : what it is
    make : its model
    number : of the study it stands in
    """

    method: Method
    make: Make
    number: int = 0

    @property
    def key(self) -> str:
        """What its files are called after: no title, and no name that a trial has."""
        return baseline_key(self.method, self.settings, self.number)


def baseline_key(method: Method, settings: Mapping[str, Any], number: int) -> str:
    """Unique in a sweep: no trial has a setting ``role``."""
    parts = {"role": method.key, "head": method.head, "study": number, **settings}
    return ",".join(f"{k}={v}" for k, v in parts.items())


def baseline_name(method: Method, settings: Mapping[str, Any], number: int = 0) -> str:
    """What tables call it, with the settings it shares with the trials beside it."""
    head = f"head {method.head}, " if method.head and head_of(method.head).learns else ""
    return f"{head}{method.title}" + f" ({number + 1})" * bool(number) + "".join(
        f",{k}={v}" for k, v in settings.items())


def baseline_points(study: Study, stream: Sequence[Point],
                    number: int = 0) -> list[BaselinePoint]:
    """Baselines of each head and seed of a stream, with the settings of the first such trial.

    Those that learn nothing are judged elsewhere: a head that learns nothing has none here.

    Parameters
    ----------
    number : of the study; those of later ones say it
    """
    first: dict[tuple[str, int], Point] = {}
    for point in stream:
        if head_of(point.spec.head.name).learns:
            first.setdefault((point.spec.head.name, point.spec.seed), point)
    points = []
    for point in first.values():
        settings = {k: v for k, v in point.settings.items() if k in (*SEEDS, *SCHEDULE)}
        seedless = {k: v for k, v in settings.items() if k not in SEEDS}
        spec = point.spec.model_copy(update={"combos": None})  # all that any trial mixes
        points += [BaselinePoint(baseline_name(method, settings, number), settings, spec,
                                 baseline_name(method, seedless, number), method, make, number)
                   for method, make in baselines(study, spec).items()]
    return points


def model_of(study: Study, point: Point) -> nn.Module:
    """The model of a trial, or of a baseline."""
    return point.make(point.spec) if isinstance(point, BaselinePoint) else study.gate(point.spec)


def judge_untrained(folder: Path, study: Study, number: int) -> dict[str, TrialRow]:
    """What learns nothing, judged once for all trials of a study.

    Parameters
    ----------
    folder : of the sweep
    study : what its trials are trained from
    number : of the study; names of later ones say it
    """
    rows = {}
    judged = {Method(role): result for role, result in study.task.floors().items()}
    if isinstance(study, TrainingInputs):
        candidates = untrained(study)
        models = [c.model.to(study.device).eval() for c in candidates]
        results = study.task.judge(models, "test")
        judged |= {c.method: r for c, r in zip(candidates, results, strict=True)}
    for method, result in judged.items():
        name, key = baseline_name(method, {}, number), baseline_key(method, {}, number)
        if result.items:
            result.items.save(items_file(folder, key))
        rows[name] = TrialRow(name, {}, method, False, "", dict(result.values), {}, 0,
                              list(result.each), key, name)
    return rows
