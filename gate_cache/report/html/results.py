"""The verdict, and tables of results."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from gate_cache.learn.metrics.pck import SELECTED, metric_name
from gate_cache.learn.metrics.roles import ROLES, Method, Role
from gate_cache.report.html.charts import Labels, Mark, cut, dumbbells, forest
from gate_cache.report.html.compare import Gain, Group, Verdict, grouped, metric_of, units_of
from gate_cache.report.html.page import (
    Column,
    Html,
    PageCell,
    PageRow,
    Section,
    bullets,
    figure,
    fold,
    join,
    panels,
    paragraph,
    section,
    table,
)
from gate_cache.report.html.record import Record, Result, number
from gate_cache.report.html.svg import GATE, SERIES, SINGLE, UNIFORM

COLOURS: dict[Role, str] = {**dict.fromkeys(ROLES, SERIES[6]), "gate": GATE, "baseline": SINGLE,
                            "uniform": UNIFORM}
WORDS: dict[Role, str] = {"baseline": "the single feature", "uniform": "uniform weights"}
SHOWN = re.compile(r"pck@0\.(10/radius=\w+/average=(point|image)|05/radius=\w+/average=point)")
"""PCK's variants that have a place in the first table."""
STRONG = Html("<strong>{}</strong>{}")
LEVEL = "95\u00a0%"
FEW = 30
"""Categories that a chart shows."""


def lead(record: Record, verdict: Verdict | None) -> Html:
    """The verdict in a sentence or two."""
    if not verdict:
        return paragraph("No trial has a result.")
    gate = verdict.gate
    seeds = f" (mean of {len(gate.results)} seeds, ± {number(gate.spread())})" \
        if len(gate.results) > 1 else ""
    first = STRONG.format(f"GATE reaches {percent(gate.mean())}",
                          f" {metric_name(record.select)} on test{seeds},"
                          f" {LEVEL} interval {between(gate.interval)}")
    gains = [STRONG.format(*_gained(role, verdict.gains[role])) if role in verdict.gains
             else _named(role, base) for role, base in verdict.baselines.items()]
    why = "with the best mean on val" if verdict.chosen else \
        "that comes first, since there is no val split to choose on"
    several = verdict.chosen or len(grouped(record, record.trials)) > 1
    notes = f"GATE is the configuration {why}: {gate.name}. " if several else ""
    if record.chooser not in ("", record.select):
        notes += (f"The radius of {metric_name(record.chooser)}, which chooses checkpoints, is less"
                  " than a cell of the maps, if there is one at all: the image's leads here. ")
    listed = bullets(gains) if gains else None
    return join([paragraph(STRONG.format(*_winner(verdict))), paragraph(first), listed, paragraph(
        f"{notes}Intervals are of a bootstrap over the test items, with the same draws for both"
        " sides of a difference; they do not tell what another seed would change.", note=True)])


def findings(verdict: Verdict) -> list[str]:
    """The verdict, and GATE's gains over its baselines, a line each."""
    lines = [_winner(verdict), *(_gained(*gain) for gain in verdict.gains.items())]
    return ["".join(line).replace("\u00a0", " ") for line in lines]


def _winner(verdict: Verdict) -> tuple[str, str]:
    """Which row is best on test, whichever it is, and whether the test decides it; and by what."""
    rival, against = verdict.rival, verdict.against
    if rival is None:
        return "GATE has nothing beside it.", ""
    name, ahead = _called(rival.first.method), verdict.gate.mean() > rival.mean()
    both = f"GATE {percent(verdict.gate.mean())}, {name} {percent(rival.mean())}"
    if against is None:
        best = "GATE" if ahead else name
        return f"Highest: {best}.", f" {both}; no intervals were kept."
    low, high = map(signed, against.interval)
    apart = f" {both}, the best of the rest" if ahead else f" {both}"
    sentence = f"{apart}; difference {signed(against.points)}, {LEVEL} interval {low} to {high}."
    if against.clear:
        return f"{'GATE' if ahead else name[0].upper() + name[1:]} wins.", sentence
    over = verdict.gains.get("baseline")
    if over and over.clear and over.points > 0:
        return f"GATE beats the single feature; not decided against {name}.", sentence
    return "Undecided: no row is clearly the best.", sentence


def _called(method: Method) -> str:
    """A row in a sentence: some titles lean on the row above."""
    if method.role == "uniform":
        return WORDS["uniform"] + " with attention" * method.attention
    single = ", ".join(method.combos)
    return f"untrained single feature: {single}" if method.role == "untrained" else method.title


def _gained(role: Role, gain: Gain) -> tuple[str, str]:
    low, high = map(signed, gain.interval)
    verdict = "" if gain.clear else ": no clear difference"
    way = "over" if gain.points >= 0 else "against"
    over = f"{way} {_named(role, gain.over)}"
    return (f"{signed(gain.points)} points",
            f" {over}, {LEVEL} interval {low} to {high}{verdict}")


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def _named(role: Role, base: Group) -> str:
    method = base.first.method
    detail = ", ".join(method.combos) if role == "baseline" else \
        "with attention" if method.attention else ""
    return f"{WORDS[role]} ({', '.join(filter(None, [detail, percent(base.mean())]))})"


def percent(value: float) -> str:
    """``12.7 %``, in one piece."""
    return f"{number(value)}\u00a0%"


def between(interval: Sequence[float]) -> str:
    """``12.1 to 15.3``; a dash where it is not known."""
    low, high = interval
    return "not known" if math.isnan(low) else f"{number(low)} to {number(high)}"


def overview(record: Record, verdict: Verdict | None) -> Html:
    groups = [g for g in grouped(record, record.results) if g.results]
    if record.kind == "sweep":
        chosen = verdict.gate.name if verdict else None
        groups = [g for g in groups if g.first.role != "gate" or g.name == chosen]
    marks = [Mark(_short(record, g, verdict), g.mean(), *g.interval, COLOURS[g.first.role])
             for g in groups]
    alt = "; ".join(f"{m.name}: {number(m.value)}" for m in marks)
    label = f"{metric_name(record.select)} on test, %"
    return figure(forest(Labels("overview", f"{label}: {alt}", x=label), marks),
                  f"All methods with {LEVEL} intervals over the test items.")


def _short(record: Record, group: Group, verdict: Verdict | None) -> str:
    chosen = verdict and group.name == verdict.gate.name and group.first.role == "gate"
    name = f"GATE: {group.name}" if chosen and record.kind == "sweep" else group.name
    return cut(name, 58)


def results(record: Record, verdict: Verdict | None) -> Section:
    chart, listing = by_category(record, verdict)
    parts = [panels([overview(record, verdict), chart])]
    if record.kind == "training":
        parts += _tables(record, record.results, "On the test split", "test")
        if record.published:
            parts += _tables(record, record.published, "Over all published pairs, methods that"
                             " have not seen any", "published")
    return section("Results", *parts, listing)


def _tables(record: Record, rows: Sequence[Result], caption: str, key: str) -> list[Html]:
    groups = grouped(record, rows)
    pck = record.select.startswith("pck@")
    metrics = [m for m in record.metrics if SHOWN.fullmatch(m)] if pck else record.metrics
    # what the page is about, then others of its α, which is in the first eight letters
    metrics.sort(key=lambda m: (m != record.select, m[:8] != record.select[:8]))
    parts = [table(
        [Column("Method"), *(_column(m, m == record.chooser and key == "test") for m in metrics)],
        [PageRow([g.name, *(_cell(record, g, m, groups, key) for m in metrics)],
                 strong=g.first.role == "gate") for g in groups],
        f"{caption}; percent{_counts(rows)}")]
    if pck:
        parts.append(fold("All variants of PCK", table(
            [Column("Variant"), *(Column(g.name) for g in groups)],
            [PageRow([metric_name(m), *(number(g.mean(m), 2) for g in groups)])
             for m in sorted(record.metrics)], f"{caption}: all variants of PCK, percent")))
    return parts


def _column(metric: str, chooses: bool) -> Column:
    name, _, rest = metric_name(metric).partition(" (")
    notes = [rest.rstrip(")"), "chooses on val" if chooses else ""]
    return Column(name, " · ".join(filter(None, notes)))


def _cell(record: Record, group: Group, metric: str, groups: Sequence[Group], key: str) -> PageCell:
    value = group.mean(metric)
    best = max((g.mean(metric) for g in groups), default=math.nan)
    stored = (group.first.details.get("interval") or {}).get(metric)
    interval = group.interval if metric == record.select and key == "test" else stored
    note = between(interval) if interval and not math.isnan(interval[0]) else None
    return PageCell(number(value), value, note, strong=value == best)


def _counts(rows: Sequence[Result]) -> str:
    details = next((r.details for r in rows if r.details), {})
    counts = [f"{details[k]} {k}" for k in ("pairs", "points", "images") if k in details]
    return f"; {', '.join(counts)}" if counts else ""


def by_category(record: Record, verdict: Verdict | None) -> tuple[Html, Html]:
    """The metric that chooses by category or class, as a chart and as a table."""
    nothing = Html("")
    if not verdict:
        return nothing, nothing
    groups = [verdict.gate, *verdict.baselines.values()]
    values = [categories(g) for g in groups]  # GATE's first: it says which there are
    names = [n for n, v in values[0].items() if v is not None] if values[0] else []
    if not names:
        return nothing, nothing
    what = {"mIoU": "IoU", "accuracy": "Accuracy"}.get(record.select, metric_name(record.select))
    one, many = ("category", "categories") if record.select.startswith("pck") else \
        ("class", "classes")
    heads = ["GATE", *(WORDS[r].removeprefix("the ") for r in verdict.baselines)]
    rows = [PageRow([n, *(number(v.get(n)) for v in values)]) for n in names]
    listing = table([Column(one.capitalize()), *(Column(h) for h in heads)], rows,
                    f"{what} by {one}, percent", sortable=True)
    chart = nothing
    if len(names) <= FEW and len(values) > 1 and len(names) > 1:
        order = sorted(names, key=lambda n: -(values[0][n] or 0))
        ours, theirs = ([v.get(n) or 0.0 for n in order] for v in values[:2])
        chart = figure(dumbbells(
            Labels(many, f"{what} by {one}, GATE and {heads[1]}; the table below has"
                   " the numbers", x=f"{what}, %"),
            order, ours, theirs, (heads[0], heads[1])),
            f"By {one}, GATE's best first.")
    return chart, fold(f"Every {one}", listing, opened=not chart)


def categories(group: Group) -> dict[str, float | None]:
    """The metric that chooses by category, mean over seeds."""
    by_seed = [_categories(r, group.select) for r in group.results]
    return {n: None if any(f.get(n) is None for f in by_seed) else
            float(np.mean([f[n] for f in by_seed])) for n in (by_seed[0] if by_seed else {})}


def _categories(result: Result, select: str) -> dict[str, float | None]:
    by_class = {"mIoU": "IoU", "accuracy": "accuracy", SELECTED: "categories"}
    stored = result.details.get(by_class.get(select, ""))
    if isinstance(stored, dict):
        return stored
    items = result.items
    if not items or "category" not in items.more:
        return {}
    of_item, metric, units = items.more["category"], metric_of(select), units_of(items, select)
    return {str(name): float(metric(units[of_item == name].sum(0)))
            for name in np.unique(of_item)}
