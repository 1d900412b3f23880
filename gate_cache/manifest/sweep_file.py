"""A sweep: one YAML file that lists or spans settings of ``train``, tried over one store."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from gate_cache.core.errors import ManifestError
from gate_cache.manifest.base import Spec
from gate_cache.manifest.load import Loaded, checked
from gate_cache.manifest.problems import explain
from gate_cache.manifest.train_spec import SEEDS, TrainSpec
from gate_cache.manifest.yaml_source import dotted, read_yaml

MOST = 10_000
"""Trials of one sweep."""


class SweepSpec(Spec):
    """What is tried: every one of `trials` with every point of `grid`.

    A trial may have a ``name``, which tables show in place of its settings.
    """

    train: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    trials: list[dict[str, Any]] = Field([{}], min_length=1)


@dataclass(frozen=True)
class Point:
    """One trial of a sweep.

    Attributes
    ----------
    name : as the file has it, with the settings that differ between trials: ``gamma1=0.1,seed=2``
    settings : those settings, as the file has them
    configuration : the name without seeds
    """

    name: str
    settings: dict[str, Any]
    spec: TrainSpec
    configuration: str

    @property
    def key(self) -> str:
        """What its files are called after."""
        return self.name


def load_sweep(path: Path, manifest: Loaded) -> list[Point]:
    """Read and check a sweep; every trial is checked as the manifest's ``train`` section is.

    Raises
    ------
    ManifestError
        With every problem found, one line each.
    """
    parsed = read_yaml(path)
    try:
        spec = SweepSpec.model_validate(parsed.data if parsed.data is not None else {})
    except ValidationError as error:
        raise ManifestError([*parsed.problems, *(
            f"{path.name}: {dotted(place)}: {text}"
            for place, text in explain(error, SweepSpec, parsed.data))]) from None
    empty = [f"{path.name}: grid.{key}: must not be empty" for key, v in spec.grid.items() if not v]
    if parsed.problems or empty:
        raise ManifestError([*parsed.problems, *empty])
    return _points(path, spec, manifest)


def _points(path: Path, spec: SweepSpec, manifest: Loaded) -> list[Point]:
    points: dict[str, Point] = {}
    problems: dict[str, None] = {}  # a dict keeps the order, and says once what all trials share
    parsed = read_yaml(manifest.path)  # once: parsing is nine tenths of what checking a trial takes
    # what the command line says, or stands in the file; the sweep goes over it
    base = {**manifest.manifest.train.model_dump(exclude_unset=True), **spec.train}
    for label, settings in _settings(path, spec):
        shown = {k: settings[k] for k in spec.grid} if label else settings
        name = _name(label, shown)
        plain = _name(label, {k: v for k, v in shown.items() if k not in SEEDS})
        try:
            train = checked(manifest.path, parsed, {**base, **settings})
        except ManifestError as error:
            problems |= {f"{path.name}: trial {name}: {line}": None for line in error.problems}
            continue
        if name in points and points[name].settings != settings:
            problems[f"{path.name}: two trials are called '{name}'; give one another name"] = None
        points.setdefault(name, Point(name, settings, train.manifest.train, plain))
    if problems:
        raise ManifestError(list(problems))
    return list(points.values())


def _settings(path: Path, spec: SweepSpec) -> list[tuple[str, dict[str, Any]]]:
    """The name of every trial, if it has one, and its settings, in the file's order."""
    grid = [[(key, value) for value in values] for key, values in spec.grid.items()]
    size = len(spec.trials) * math.prod(map(len, grid))  # before any is made
    if size > MOST:
        raise ManifestError([f"{path.name}: {size} trials; at most {MOST} in one sweep"])
    return [(str(trial.get("name", "")),
             {k: v for k, v in {**trial, **dict(point)}.items() if k != "name"})
            for trial in spec.trials for point in itertools.product(*grid)]


def _name(label: str, settings: dict[str, Any]) -> str:
    parts = [label] * bool(label) + [f"{k}={_short(v)}" for k, v in settings.items()]
    return ",".join(parts) or "default"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_short, value))
    if isinstance(value, dict):  # a head with its options
        options = [f"{k}={_short(v)}" for k, v in value.items() if k != "name"]
        return "+".join([_short(value.get("name", "")), *options])
    return value if isinstance(value, str) else json.dumps(value, default=str)
