"""A sweep's results as tables: one line a trial, and mean ± std over seeds."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gate_cache.training.run_files import RESULTS, write_json

SEEDS = ("seed", "shuffle")


@dataclass(frozen=True)
class Row:
    """One trial, or a baseline.

    Attributes
    ----------
    settings : what differs between the trials
    failed : why it has no results; empty where it has
    test, val : metrics by name; on ``val`` those of the best checkpoint
    best_at : step of the best checkpoint
    each : the metric that chooses, for every unit of ``test`` (pair, image)
    """

    name: str
    settings: dict[str, Any]
    method: str
    trained: bool
    failed: str
    test: dict[str, float]
    val: dict[str, float]
    best_at: int = 0
    each: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """Back from plain data."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Mean:
    """Trials that differ in their seeds alone.

    Attributes
    ----------
    test : metric to (mean, standard deviation over seeds; NaN for one seed)
    """

    name: str
    seeds: int
    failed: int
    trained: bool
    test: dict[str, tuple[float, float]]


def over_seeds(rows: Sequence[Row]) -> list[Mean]:
    """Mean ± standard deviation (n − 1) over the trials that differ in their seeds alone."""
    groups: dict[tuple[bool, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.trained, seedless(row.name, row.trained)), []).append(row)
    return [_mean(name, group) for (_, name), group in groups.items()]


def seedless(name: str, trained: bool) -> str:
    """A trial's name without its seeds; trials that share it are seeds of one configuration."""
    parts = [p for p in name.split(",") if p.split("=")[0] not in SEEDS]
    return ",".join(parts) or "default" if trained else name


def _mean(name: str, group: list[Row]) -> Mean:
    sound = [r for r in group if not r.failed]
    return Mean(name, len(sound), len(group) - len(sound), group[0].trained,
                {m: _moments([r.test[m] for r in sound]) for m in (sound[0].test if sound else ())})


def _moments(values: list[float]) -> tuple[float, float]:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread


def write_tables(folder: Path, rows: Sequence[Row], **more: Any) -> None:
    """``results.csv`` and ``results.json``; the latter with means over seeds, and with `more`."""
    settings = list(dict.fromkeys(k for r in rows for k in r.settings))
    metrics = list(dict.fromkeys(m for r in rows for m in r.test))
    draft = folder / "results.csv.partial"
    with draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", *settings, "trained", "failed", "best_at",
                        *(f"test {m}" for m in metrics), *(f"val {m}" for m in metrics)])
        for r in rows:
            table.writerow([r.name, *(r.settings.get(k, "") for k in settings), r.trained,
                            r.failed, r.best_at, *(r.test.get(m, "") for m in metrics),
                            *(r.val.get(m, "") for m in metrics)])
    draft.replace(folder / "results.csv")
    means = [{"name": m.name, "seeds": m.seeds, "failed": m.failed, "trained": m.trained,
              "test": {k: [a, None if math.isnan(s) else s] for k, (a, s) in m.test.items()}}
             for m in over_seeds(rows)]
    plain = [{k: v for k, v in r.to_json().items() if k != "each"} for r in rows]
    write_json(folder / RESULTS, {**more, "rows": plain, "means": means})
