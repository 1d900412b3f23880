"""What the folder of a finished training or sweep holds, read for a report. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gate_cache.core.errors import UserError
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import BROADER, SELECTED
from gate_cache.learn.metrics.roles import WEIGHTS, Method, Role
from gate_cache.manifest.train_spec import head_name
from gate_cache.training.run_files import (
    CONFIG,
    METRICS,
    RESULTS,
    SWEEP,
    TRIALS,
    items_file,
    trial_file,
    unreadable,
)
from gate_cache.training.sweep_tables import configuration_of, key_of, method_of


@dataclass(frozen=True)
class Result:
    """One method of a training, or one trial or baseline of a sweep.

    Attributes
    ----------
    name : for people; unique in the folder
    method : its role, and what was judged
    key : what its files are called after
    configuration : those that share it are seeds of one configuration
    settings : of a trial, what differs between trials
    combos : names of the amalgamated combos
    history : one entry a validation
    weights : statistics of the assigners' weights
    failed : why it has no results
    """

    folder: Path
    name: str
    method: Method
    trained: bool
    test: Mapping[str, float]
    key: str
    configuration: str
    val: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    combos: Sequence[str] = ()
    best_at: int = 0
    history: Sequence[Mapping[str, Any]] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def role(self) -> Role:
        return self.method.role

    @property
    def weights(self) -> Mapping[str, Any]:
        """Of its assigners; empty where it has none."""
        return dict(self.details.get("weights") or {}) if self.role == "gate" else {}

    @cached_property
    def items(self) -> Items | None:
        """Results item by item, where they were kept."""
        path = items_file(self.folder, self.key)
        try:
            return Items.load(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            raise unreadable(path, error, "delete it to leave these results out") from None


@dataclass(frozen=True)
class Record:
    """A finished training or sweep.

    Attributes
    ----------
    select : the metric that the page is about: the one that chose checkpoints on ``val``, or PCK of
        the image where the radius of that is less than a cell of the maps
    chooser : the one that chose
    results : on ``test``; of a sweep baselines and trials
    published : results over all published pairs, as `results`; empty where there are none
    seconds : that the call which finished it took
    """

    folder: Path
    kind: Literal["training", "sweep"]
    config: Mapping[str, Any]
    head: str
    select: str
    protocol: str
    results: Sequence[Result]
    published: Sequence[Result]
    seconds: float
    chooser: str = ""

    @property
    def title(self) -> str:
        """For people: the data set's manifest, and what was done."""
        stem = str(self.config.get("manifest_file", self.folder.name)).rsplit(".", 1)[0]
        return f"{stem}, {'head ' + self.head if self.kind == 'training' else 'sweep'}"

    @property
    def manifest(self) -> Mapping[str, Any]:
        return dict(self.config.get("manifest") or {})

    @property
    def trials(self) -> list[Result]:
        """Of a sweep, those that its file lists; of a training, GATE."""
        return [r for r in self.results if r.role == "gate"]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the one that chooses first."""
        names = dict.fromkeys(m for r in self.results for m in r.test)
        return [self.select, *(m for m in names if m != self.select)]


def read_record(folder: Path) -> Record:
    """Read a run directory, or a sweep's folder.

    A `UserError` where it is neither, is not finished, or cannot be read.
    """
    sweep = (folder / SWEEP).is_file()
    if not sweep and not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: is not a run's folder; name one that 'gate-cache train' or"
                        " 'gate-cache sweep' made")
    # Both are written last, so a folder without them is one of a training that was interrupted.
    if not (folder / (RESULTS if sweep else METRICS)).is_file():
        raise UserError(f"{folder}: is not finished; run the same command again"
                        f"{'' if sweep else f' with --out {folder}'} to resume")
    try:
        return _sweep(folder) if sweep else _training(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{folder}: its files cannot be read ({type(error).__name__}: {error});"
                        " they were changed, or made by another version") from None


def _training(folder: Path) -> Record:
    config, metrics = _read(folder / CONFIG), _read(folder / METRICS)
    first, *more = metrics["tables"]
    results = [_method(folder, row, config, metrics) for row in first["rows"]]
    published = [_method(folder, row, config, metrics) for row in more[0]["rows"]] if more else []
    chooser = config["select"]
    return Record(folder, "training", config, metrics["head"], _leading(config, chooser),
                  first["protocol"], results, published, float(metrics["seconds"]), chooser)


def _method(folder: Path, row: dict[str, Any], config: dict[str, Any],
            metrics: dict[str, Any]) -> Result:
    details = {**row, **(row.get("details") or {})}
    spec = config["manifest"]["train"]
    combos = spec.get("combos") or config["combos"]
    method = method_of({"combos": combos, **row}, spec)
    test = {k: v for k, v in row.items()  # of pairs, details stand among the metrics
            if isinstance(v, float) and (k.startswith("pck@") or "details" in row)}
    result = Result(folder, row["method"], method, row["trained"], test, key_of(row),
                    key_of(row), spec=spec, combos=method.combos, details=details)
    fit = metrics["fits"].get(WEIGHTS.get(result.role, "")) if result.trained else None
    if not fit:
        return result
    best = {step_of(h): h.get("val") for h in fit["history"]}.get(fit["best_at"])
    return replace(result, val=best or {}, best_at=fit["best_at"], history=fit["history"])


def _sweep(folder: Path) -> Record:
    config, table = _read(folder / SWEEP), _read(folder / RESULTS)
    results = [_trial(folder, row, config) for row in table["rows"]]
    heads = {head_name(dict(r.spec)) for r in results if r.spec}
    chooser = table["select"]
    return Record(folder, "sweep", config, " and ".join(sorted(filter(None, heads))),
                  _leading(config, chooser), str(config["protocol"]), results, [],
                  float(table["seconds"]), chooser)


def _trial(folder: Path, row: dict[str, Any], config: dict[str, Any]) -> Result:
    path = folder / TRIALS / f"{trial_file(key_of(row))}.json"
    more = _read(path) if path.is_file() else {}
    spec = more.get("spec") or {}
    combos = more.get("combos") or config.get("combos") or []
    return Result(folder, row["name"], method_of({"combos": combos, **row}, spec), row["trained"],
                  row["test"], key_of(row), configuration_of(row), row["val"], row["settings"],
                  spec, combos, row["best_at"], more.get("history") or [],
                  more.get("details") or {}, row["failed"])


def step_of(validation: Mapping[str, Any]) -> int:
    """Where in training: the step, or the items seen where the first release counted them."""
    return int(validation.get("step", validation["seen"]))


def step_unit(results: Sequence[Result]) -> str:
    """What `step_of` counts, for people."""
    return "steps" if all("step" in h for r in results for h in r.history) else "items seen"


def _leading(config: Mapping[str, Any], chooser: str) -> str:
    """Runs of earlier versions do not tell the radius; null is where no target has one."""
    small = not (config.get("radius_in_cells", math.inf) or 0) >= 1
    return BROADER if chooser == SELECTED and small else chooser


def _read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return data


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; a true minus sign, nothing for none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{digits}f}".replace("-", "−")
