"""What a sweep tried: the grid of both regularisers, each setting's effect, every trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gate_cache.learn.metrics.pck import metric_name
from gate_cache.manifest.train_spec import SEEDS
from gate_cache.report.html.charts import Labels, effect, heat_map
from gate_cache.report.html.compare import Group, Verdict, grouped
from gate_cache.report.html.page import (
    Column,
    Html,
    PageCell,
    PageRow,
    Section,
    bullets,
    figure,
    join,
    panels,
    paragraph,
    section,
    table,
)
from gate_cache.report.html.record import Record, number, step_unit
from gate_cache.report.html.results import SHOWN

GAMMAS = ("gamma1", "gamma2")
GREEK = {"gamma1": "γ1 (sparsity)", "gamma2": "γ2 (diversity)"}
MOST_MAPS = 6
"""Heat maps that are drawn one by one; more are averaged into one."""


def trials(record: Record, verdict: Verdict | None) -> list[Section]:
    """Of a sweep: its grid, its trials; nothing of a training."""
    if record.kind != "sweep":
        return []
    groups = grouped(record, record.trials)
    return [s for s in (_grid(record, groups), _every(record, groups, verdict)) if s]


def varying(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Settings that differ between configurations, with their values in order; no seeds."""
    values: dict[str, dict[str, Any]] = {}
    for group in groups:
        for key, value in group.first.settings.items():
            if key not in SEEDS:
                values.setdefault(key, {}).setdefault(json.dumps(value), value)  # of lists too
    missing = {k for k in values if any(k not in g.first.settings for g in groups)}
    return {k: _ordered(list(v.values())) for k, v in values.items()
            if len(v) + (k in missing) > 1}


def _ordered(values: list[Any]) -> list[Any]:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return sorted(values) if numbers else values


def _grid(record: Record, groups: Sequence[Group]) -> Section | None:
    changed = varying(groups)
    parts: list[Html] = []
    if all(len(changed.get(g, ())) > 1 for g in GAMMAS):
        parts.append(panels(_maps(groups, changed)))
    rest = {k: v for k, v in changed.items() if len(v) > 1 and not (parts and k in GAMMAS)}
    if rest:
        parts.append(panels(_effect(groups, key, values) for key, values in rest.items()))
    if not parts:
        return None
    note = (f"{metric_name(record.select)} on test, percent, mean over seeds. A choice among these"
            " belongs on val: see the table of trials.")
    return section("Grid", paragraph(note, note=True), *parts)


def _maps(groups: Sequence[Group], changed: dict[str, list[Any]]) -> list[Html]:
    """γ1 over γ2 (paper, Figure 11): one map for each choice of the other settings."""
    others: dict[str, list[Group]] = {}
    for group in groups:
        rest = {k: v for k, v in group.first.settings.items()
                if k in changed and k not in GAMMAS}
        title = ", ".join(f"{k} = {spelled(v)}" for k, v in rest.items())
        others.setdefault(title, []).append(group)
    if len(others) > MOST_MAPS:
        others = {"mean over all other settings": list(groups)}
    return [_map(title, of_one, changed, number) for number, (title, of_one)
            in enumerate(others.items())]


def _map(title: str, groups: Sequence[Group], changed: dict[str, list[Any]], at: int) -> Html:
    columns, rows = (changed[g] for g in GAMMAS)
    cells = [[[g for g in groups if [g.first.settings.get(k) for k in GAMMAS] == [x, y]]
              for x in columns] for y in rows]
    values = [[_mean([g.mean() for g in cell]) for cell in row] for row in cells]
    notes = [[f"± {number(cell[0].spread())}" if len(cell) == 1 and
              not math.isnan(cell[0].spread()) else "" for cell in row] for row in cells]
    alt = "; ".join(f"γ1 {spelled(x)}, γ2 {spelled(y)}: {number(v)}"
                    for y, row in zip(rows, values, strict=True)
                    for x, v in zip(columns, row, strict=True))
    drawn = heat_map(Labels(f"gammas-{at}", alt, title, GREEK["gamma1"], GREEK["gamma2"]),
                     [spelled(y) for y in rows], [spelled(x) for x in columns], values, notes)
    return figure(drawn, "Weights of both regularisers (Eq. 5; the paper's Figure 11).")


def _mean(values: Sequence[float]) -> float:
    valid = [v for v in values if not math.isnan(v)]
    return sum(valid) / len(valid) if valid else math.nan


def _effect(groups: Sequence[Group], key: str, values: Sequence[Any]) -> Html:
    results = [[g.mean() for g in groups if g.results and g.first.settings.get(key) == v]
               for v in values]
    names = [spelled(v) for v in values]
    alt = f"{key}: " + "; ".join(f"{n}: {number(_mean(f))}"
                                 for n, f in zip(names, results, strict=True))
    return figure(effect(Labels(f"effect-{key}", alt, GREEK.get(key, key)), names, results),
                  "A dot a configuration; the line is their mean.")


def spelled(value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, list):
        return "+".join(map(spelled, value))
    if isinstance(value, dict):  # a head with its options
        return ", ".join(spelled(v) if k == "name" else f"{k} {spelled(v)}"
                         for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _every(record: Record, groups: Sequence[Group], verdict: Verdict | None) -> Section:
    changed = list(varying(groups))
    metrics = [record.select, *_others(record)]
    several = any(len(g.results) + len(g.failed) > 1 for g in groups)
    parts: list[Html | None] = [_means(groups, metrics, changed, verdict) if several else None]
    parts.append(_single(record, metrics, changed, verdict))
    baselines = [g for g in grouped(record, record.results) if g.first.role != "gate"]
    if baselines:
        rows = [PageRow([broken(g.name), *(_moments(g, m) for m in metrics)]) for g in baselines]
        parts.append(table([Column("Baseline"), *_columns(metrics)], rows,
                           "What they are compared with; percent on test"))
    return section("Trials", _failed(record), *parts)


def _others(record: Record) -> list[str]:
    """More metrics that have a place beside the one that chooses."""
    if not record.select.startswith("pck@"):
        return [m for m in record.metrics if m != record.select]
    return [m for m in record.metrics if m != record.select and SHOWN.fullmatch(m)
            and m.startswith("pck@0.10") and m.endswith("point")]


def _columns(metrics: Sequence[str]) -> list[Column]:
    columns = []
    for metric in metrics:
        name, _, rest = metric_name(metric).partition(" (")
        columns.append(Column(name, f"test, {rest.rstrip(')')}" if rest else "test"))
    return columns


def _moments(group: Group, metric: str) -> PageCell:
    return _measured(group.mean(metric), group.spread(metric))


def _measured(value: float | None, spread: float = math.nan, missing: str = "") -> PageCell:
    """A number with its spread, which sorts by its value; `missing` where there is none."""
    if value is None or math.isnan(value):
        return PageCell(missing, "")
    return PageCell(number(value) + ("" if math.isnan(spread) else f" ± {number(spread)}"), value)


def _means(groups: Sequence[Group], metrics: Sequence[str], changed: Sequence[str],
           verdict: Verdict | None) -> Html:
    chosen = verdict.gate.name if verdict and verdict.chosen else None
    rows = []
    for g in groups:
        seeds = f"{len(g.results)}" + (f" ({len(g.failed)} failed)" if g.failed else "")
        rows.append(PageRow([broken(g.name), *_values(g.first.settings, changed), seeds,
                             _measured(g.mean(split="val")), *(_moments(g, m) for m in metrics)],
                            strong=g.name == chosen))
    columns = [Column("Configuration"), *(Column(k) for k in changed), Column("seeds"),
               Column("val", "chooses"), *_columns(metrics)]
    return table(columns, rows, "Mean ± standard deviation over seeds, percent; the one chosen on"
                                " val stands out", sortable=True)


def _single(record: Record, metrics: Sequence[str], changed: Sequence[str],
            verdict: Verdict | None) -> Html:
    keys = [*changed, *(s for s in SEEDS if any(s in t.settings for t in record.trials))]
    rows = [PageRow([broken(trial.name), *_values(trial.settings, keys),
                     _measured(trial.val.get(record.select)),
                     *(_measured(trial.test.get(m), missing="failed") for m in metrics),
                     trial.best_at], strong=bool(verdict and trial in verdict.gate.results))
            for trial in record.trials]
    columns = [Column("Trial"), *(Column(k) for k in keys),
               Column("val", "chooses"), *_columns(metrics),
               Column("best at", step_unit(record.results))]
    return table(columns, rows, "Every trial; percent", sortable=True)


def broken(name: str) -> PageCell:
    """A trial's name, which may go on in another line after each comma."""
    return PageCell(join(name.split(","), ",<wbr>"), name)


def _values(settings: Any, keys: Sequence[str]) -> list[PageCell]:
    return [PageCell(spelled(settings[k]) if k in settings else "",
                     settings[k] if isinstance(settings.get(k), int | float) else None)
            for k in keys]


def _failed(record: Record) -> Html | None:
    failed = [r for r in record.results if r.failed]
    if not failed:
        return None
    items = (Html("<strong>{}</strong>: {}").format(r.name, r.failed) for r in failed)
    return join([paragraph(f"{len(failed)} of {len(record.results)} failed:"), bullets(items)])
