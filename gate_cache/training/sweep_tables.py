"""A sweep's results as tables: one line a trial, and mean ± std over seeds."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gate_cache.core.replacing import replacing
from gate_cache.learn.metrics.roles import Method, Role
from gate_cache.manifest.train_spec import COUNTS, SEEDS, head_name
from gate_cache.training.run_files import RESULTS, write_json

SCHEDULE = ("steps", "batch", "validate_steps", *COUNTS)
"""Settings of a sweep that a trained baseline shares with the trials beside it, as their seeds."""


@dataclass(frozen=True)
class TrialRow:
    """One trial, or a baseline.

    Attributes
    ----------
    settings : what differs between the trials
    method : its role, and what was judged
    failed : why it has no results; empty where it has
    test, val : metrics by name; on ``val`` those of the best checkpoint
    best_at : step of the best checkpoint
    each : the metric that chooses, for every unit of ``test`` (pair, image)
    key : what its files are called after
    configuration : trials that share it differ in their seeds alone
    """

    name: str
    settings: dict[str, Any]
    method: Method
    trained: bool
    failed: str
    test: dict[str, float]
    val: dict[str, float]
    best_at: int = 0
    each: list[float] = field(default_factory=list)
    key: str = ""
    configuration: str = ""

    def to_json(self) -> dict[str, Any]:
        """A row of ``results.json``, and the beginning of a trial's file."""
        return {**asdict(self), **self.method.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRow:
        """Back from `to_json`, the first release's too.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is no such row.
        """
        plain: dict[str, Any] = {"method": method_of(data, data.get("spec") or {}),
                                 "key": key_of(data), "configuration": configuration_of(data)}
        return cls(**{name: plain[name] if name in plain else data[name]
                      for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Mean:
    """Trials that differ in their seeds alone.

    Attributes
    ----------
    method : of all of them
    settings : without seeds
    test : metric to (mean, standard deviation over seeds; NaN for one seed)
    """

    name: str
    seeds: int
    failed: int
    trained: bool
    test: dict[str, tuple[float, float]]
    method: Method
    settings: dict[str, Any]


def over_seeds(rows: Sequence[TrialRow]) -> list[Mean]:
    """Mean ± standard deviation (n − 1) over the trials that differ in their seeds alone."""
    groups: dict[tuple[bool, str], list[TrialRow]] = {}
    for row in rows:
        groups.setdefault((row.trained, row.configuration), []).append(row)
    return [_mean(name, group) for (_, name), group in groups.items()]


def _mean(name: str, group: list[TrialRow]) -> Mean:
    sound = [r for r in group if not r.failed]
    return Mean(name, len(sound), len(group) - len(sound), group[0].trained,
                {m: _moments([r.test[m] for r in sound]) for m in (sound[0].test if sound else ())},
                group[0].method,
                {k: v for k, v in group[0].settings.items() if k not in SEEDS})


def _moments(values: list[float]) -> tuple[float, float]:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread


def write_tables(folder: Path, rows: Sequence[TrialRow], **more: Any) -> None:
    """``results.csv`` and ``results.json``; the latter with means over seeds, and with `more`."""
    settings = list(dict.fromkeys(k for r in rows for k in r.settings))
    metrics = list(dict.fromkeys(m for r in rows for m in r.test))
    with replacing(folder / "results.csv") as draft, \
            draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "role", *settings, "trained", "failed", "best_at",
                        *(f"test {m}" for m in metrics), *(f"val {m}" for m in metrics)])
        for r in rows:
            table.writerow([r.name, r.method.role, *(r.settings.get(k, "") for k in settings),
                            r.trained, r.failed, r.best_at, *(r.test.get(m, "") for m in metrics),
                            *(r.val.get(m, "") for m in metrics)])
    means = [{"name": m.name, "seeds": m.seeds, "failed": m.failed, "trained": m.trained,
              "test": {k: [a, None if math.isnan(s) else s]  # JSON has no NaN
                       for k, (a, s) in m.test.items()}}
             for m in over_seeds(rows)]
    plain = [{k: v for k, v in r.to_json().items() if k != "each"} for r in rows]
    write_json(folder / RESULTS, {**more, "rows": plain, "means": means})


_FIRST_TITLES: tuple[tuple[str, Role], ...] = (
    ("GATE", "gate"), ("single feature", "baseline"), ("all features, uniform weights", "uniform"),
    ("the same + attention", "uniform"), ("the same, head nn, untrained", "untrained"),
    ("best single on val", "best-single"), ("copy the position", "floor"))


def method_of(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Method:
    """What a row stands for: it says so itself, or the first release's title does.

    Parameters
    ----------
    row : of ``metrics.json`` or ``results.json``, or a trial's file
    spec : settings that it was trained with, or the training it stands beside

    Raises
    ------
    KeyError, TypeError, ValueError
        It says neither.
    """
    return Method.from_json(row) if "role" in row else _of_first_title(row, spec)


def _of_first_title(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Method:
    """Rows of gate-cache 0.1 had a title and no role: this is the one place that reads it.

    These are the titles as that release wrote them, and stay so whatever tables say now.
    """
    title = str(row["method"])
    role = next((role for begin, role in _FIRST_TITLES if title.startswith(begin)), None)
    if role is None:
        raise ValueError(f"no row of a table is called '{title}'")
    learnt = bool(row.get("trained", True))
    head = "" if role == "floor" else head_name(dict(spec)) if learnt else "nn"
    names = [title.partition(": ")[2]] if role in ("baseline", "untrained", "best-single") else \
        row.get("combos") or spec.get("combos") or ()
    return Method(role, head, tuple(names), title.endswith("+ attention"),
                  int(spec.get("assigners", 1)) if role == "gate" else 0)


def key_of(row: Mapping[str, Any]) -> str:
    """What a row's files are called after; in the first release it was its name or title."""
    return str(row.get("key") or row.get("name") or row["method"])


def configuration_of(row: Mapping[str, Any]) -> str:
    """A sweep's row without its seeds: rows that share it are seeds of one configuration.

    The first release kept the whole name alone, in which settings follow each other by commas.
    """
    if "configuration" in row:
        return str(row["configuration"])
    parts = [p for p in str(row["name"]).split(",") if p.split("=")[0] not in SEEDS]
    return ",".join(parts) or "default" if row["trained"] else str(row["name"])
