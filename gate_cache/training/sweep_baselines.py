"""Baselines of a sweep whose head must be trained: they run in the stream of the trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gate_cache.manifest.first_release import COUNTS
from gate_cache.manifest.heads import head_of
from gate_cache.manifest.sweep_file import Point
from gate_cache.training.inputs import Study
from gate_cache.training.inputs_dense import DenseStudy
from gate_cache.training.methods import Make, baselines
from gate_cache.training.sweep_tables import SEEDS
from gate_cache.training.tasks import matches

OF_STREAM = (*SEEDS, "steps", "batch", "validate_steps", *COUNTS)
"""Settings that a baseline shares with the trials it stands beside."""


@dataclass(frozen=True)
class BaselinePoint(Point):
    """A baseline as one more trial.

    Attributes
    ----------
    method : what a table calls it
    make : its model
    """

    method: str
    make: Make


def baseline_points(study: Study | DenseStudy, stream: Sequence[Point],
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
    found, several = [], len({head for head, _ in first}) > 1
    for point in first.values():
        settings = {k: v for k, v in point.settings.items() if k in OF_STREAM}
        told = f" ({number + 1})" * bool(number) + "".join(
            f",{k}={v}" for k, v in settings.items())
        head = f"head {point.spec.head.name}, " if several or matches(point.spec) else ""
        spec = point.spec.model_copy(update={"combos": None})
        found += [BaselinePoint(f"{head}{name}{told}", settings, spec, name, make)
                  for name, make in baselines(study, spec).items()]
    return found


def model_of(study: Study | DenseStudy, point: Point) -> nn.Module:
    """The model of a trial, or of a baseline."""
    return point.make(point.spec) if isinstance(point, BaselinePoint) else study.gate(point.spec)
