"""Who is compared with whom, and by how much: groups over seeds, intervals, paired gains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.learn.metrics.dense import accuracy, mean_iou
from gate_cache.learn.metrics.intervals import Interval, Metric, bootstrap, gain
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import share
from gate_cache.learn.metrics.roles import Role
from gate_cache.report.html.record import Record, Result
from gate_cache.training.sweep_tables import SCHEDULE


@dataclass(frozen=True)
class Group:
    """Trials that differ in their seeds alone, or one method; `results` did not fail."""

    name: str
    select: str
    results: Sequence[Result]
    failed: Sequence[Result]

    @property
    def first(self) -> Result:
        """One that stands for all, a sound one where there is any."""
        return [*self.results, *self.failed][0]

    def values(self, metric: str, split: str = "test") -> list[float]:
        """Of each seed that has it."""
        values = [getattr(r, split).get(metric) for r in self.results]
        return [v for v in values if v is not None]

    def mean(self, metric: str = "", split: str = "test") -> float:
        """Over seeds; NaN without any."""
        values = self.values(metric or self.select, split)
        return statistics.fmean(values) if values else math.nan

    def spread(self, metric: str = "", split: str = "test") -> float:
        """Standard deviation over seeds (n − 1); NaN for fewer than two."""
        values = self.values(metric or self.select, split)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    @cached_property
    def units(self) -> list[npt.NDArray[Any]]:
        """Counts of each seed's items; empty where they were not kept."""
        units = [units_of(r.items, self.select) for r in self.results if r.items]
        return units if len(units) == len(self.results) else []

    @cached_property
    def interval(self) -> Interval:
        """95 % over items of the metric that chooses, mean over seeds; NaN where not known."""
        if not self.units:
            stored = self.first.details.get("interval") or {}
            bounds = stored.get(self.select) if len(self.results) == 1 else None
            return Interval(*bounds) if bounds else Interval(math.nan, math.nan)
        metric = metric_of(self.select)
        return bootstrap(np.stack(self.units, 1),
                         lambda totals: np.asarray(metric(totals).mean(-1)),
                         ids=self.first.items.ids if self.first.items else None)


@dataclass(frozen=True)
class Gain:
    """How much better GATE is than a baseline, over the same items."""

    over: Group
    points: float
    interval: Interval

    @property
    def clear(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0

    @property
    def images(self) -> int:
        """That were drawn for the interval."""
        items = self.over.results[0].items
        return len(np.unique(items.ids)) if items else 0


@dataclass(frozen=True)
class Verdict:
    """GATE beside its baselines.

    Attributes
    ----------
    gate : of a sweep, the configuration with the best mean on ``val``
    chosen : whether ``val`` chose it; else it is the first, or the only one
    gains : over the single feature and uniform weights, where they are known
    rival : the best of all rows that are not GATE, floors too
    against : GATE's gain over that one, where it is known
    """

    gate: Group
    chosen: bool
    baselines: dict[Role, Group]
    gains: dict[Role, Gain]
    rival: Group | None = None
    against: Gain | None = None


def units_of(items: Items, select: str) -> npt.NDArray[Any]:
    """Counts of items from which a metric follows."""
    return np.asarray(items.more.get(select, items.units))


def metric_of(select: str) -> Metric:
    """The metric that chooses, from counts summed over items."""
    if select.startswith("pck@"):
        return share
    return mean_iou if select == "mIoU" else accuracy


def grouped(record: Record, results: Sequence[Result]) -> list[Group]:
    groups: dict[tuple[bool, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.trained, result.configuration), []).append(result)
    sweep = record.kind == "sweep"  # a training's rows are called by their titles
    return [Group(name if sweep else group[0].name, record.select,
                  [r for r in group if not r.failed], [r for r in group if r.failed])
            for (_, name), group in groups.items()]


def verdict(record: Record) -> Verdict | None:
    """GATE, chosen on ``val`` where there is a choice; None where no trial has a result."""
    trials = [g for g in grouped(record, record.trials) if g.results]
    if not trials:
        return None
    judged = [g for g in trials if g.values(record.select, "val")]
    best = max(judged, key=lambda g: g.mean(split="val")) if judged else trials[0]
    rows = _rows(record)
    baselines = _baselines_of(best, rows)
    rivals = [g for g in rows if not g.first.trained or _beside(g, best)]
    rival = max(rivals, key=Group.mean, default=None)
    return Verdict(best, bool(judged) and len(trials) > 1, baselines,
                   _gains(best, baselines), rival, _gain(best, rival) if rival else None)


def _rows(record: Record) -> list[Group]:
    """All that GATE is compared with."""
    return [g for g in grouped(record, record.results)
            if g.results and g.first.role != "gate" and g.values(record.select)]


def _baselines_of(gate: Group, rows: Sequence[Group]) -> dict[Role, Group]:
    """The single feature and uniform weights that were treated as GATE was."""
    roles: tuple[Role, ...] = ("baseline", "uniform")
    groups = [g for g in rows if _beside(g, gate)]
    return {role: of_role[-1] for role in roles  # the last one has attention, where GATE has it
            if (of_role := [g for g in groups if g.first.role == role])}


def gains_of(record: Record, over: Sequence[str]) -> list[dict[str, Gain]]:
    """Of every group of `grouped`, in its order; empty for what is not GATE.

    Parameters
    ----------
    over : roles of baselines, and names of trials
    """
    rows, groups = _rows(record), grouped(record, record.results)
    trials: dict[str, Group] = {g.name: g for g in groups if g.results and g.first.role == "gate"}

    def bases(group: Group) -> dict[str, Group]:
        every = trials | dict(_baselines_of(group, rows))
        return {name: base for name, base in every.items() if name in over and base is not group}

    return [_gains(group, bases(group)) if group.name in trials else {} for group in groups]


def _gains(gate: Group, bases: Mapping[Any, Group]) -> dict[Any, Gain]:
    return {name: points for name, base in bases.items() if (points := _gain(gate, base))}


def _beside(base: Group, gate: Group) -> bool:
    """Whether a baseline has GATE's head and schedule, and attention only where GATE has it."""
    ours, theirs = gate.first, base.first
    if ours.method.head != theirs.method.head:
        return False
    if theirs.method.attention and not ours.method.attention:
        return False
    return all(theirs.spec.get(k) == ours.spec.get(k) for k in SCHEDULE if theirs.trained)


def _gain(gate: Group, base: Group) -> Gain | None:
    ours, theirs = gate.results[0].items, base.results[0].items
    if not (gate.units and base.units and ours and theirs
            and np.array_equal(ours.ids, theirs.ids)):  # paired: the same items alone
        return None
    return Gain(base, *gain(gate.units, base.units, metric_of(gate.select), ours.ids))
