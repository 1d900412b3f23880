"""One report of several recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gate_cache.report.html.charts import Labels, Mark, bars, cut, forest, heat_map
from gate_cache.report.html.page import (
    Column,
    Html,
    PageRow,
    code,
    document,
    figure,
    fold,
    panels,
    paragraph,
    section,
    table,
)
from gate_cache.training.sweep_tables import Mean
from pipelines.recipe import (
    Outcome,
    Recipe,
    cells,
    command,
    gain_heads,
    named,
    reused,
    sentence,
    spread,
    times,
)

GAMMAS = ("gamma1", "gamma2")
MOST = 44
"""Letters of a row's name in a chart."""


def write_page(to: Path, found: Sequence[tuple[Recipe, Sequence[Outcome]]]) -> Path:
    """The report as one file."""
    sections = [section(recipe.title, paragraph(recipe.about),
                        *(part(f"{recipe.name}-{i}", o) for i, o in enumerate(outcomes)))
                for recipe, outcomes in found]
    settings = sorted({o.setting for _, outcomes in found for o in outcomes})
    about = f"{len(found)} recipes on {'; '.join(settings)}"
    lead = paragraph("Mean ± standard deviation over seeds, and over splits where a data set has"
                     " several. Every row that was trained says how often (n). Figures of the paper"
                     " stand beside ours where its data and model were used.")
    to.write_text(document("The paper's results, again", sections, lead=lead, about=about),
                  encoding="utf-8")
    return to


def part(name: str, outcome: Outcome) -> Html:
    """One table with its chart."""
    made = panels([figure(chart, caption) for chart, caption in charts(name, outcome)])
    folders = ", ".join(str(f) for f in outcome.folders)
    below = [paragraph(f"{reused(outcome.extracted)}. {outcome.seconds:.0f} s of processor"
                       f" time. Everything of it is in {folders}.", note=True),
             fold("Run it by hand", code("\n".join(command(outcome))))]
    return Html("".join([paragraph(sentence(outcome)), _table(outcome), made, *below]))


def _table(outcome: Outcome) -> Html:
    heads = list(outcome.part.columns.values())
    paper = outcome.part.paper if outcome.paper else {}
    columns = [Column(""), *(Column(h) for h in [*heads, *gain_heads(outcome)]),
               *(Column(h, "paper") for h in heads if paper)]
    rows = [PageRow([f"{name}{times(mean)}", *(c.strip("*") for c in cells(outcome, i))],
                    strong=mean.name in outcome.part.full)
            for i, (name, mean) in enumerate(named(outcome))]
    return table(columns, rows, f"{outcome.part.title}: {outcome.setting}")


def charts(name: str, outcome: Outcome) -> list[tuple[Html, str]]:
    """What is best seen as a picture: a grid over γ, weights, else the first metric of each row."""
    if len({tuple(r.settings.get(g) for g in GAMMAS) for r in outcome.rows
            if r.trained}) > 2 and any(GAMMAS[0] in r.settings for r in outcome.rows):
        return [(_grid(f"{name}-{i}", outcome, metric, head), f"{head} over γ1 and γ2")
                for i, (metric, head) in enumerate(outcome.part.columns.items())]
    weights = {m: h for m, h in outcome.part.columns.items() if m.startswith("weights/")}
    if weights:
        return [(_weights(name, outcome, weights), "Weights of the assigners, percent")]
    metric, head = next(iter(outcome.part.columns.items()))
    means = [(name, m) for name, m in named(outcome) if metric in m.test]
    marks = [Mark(cut(name, MOST), value, *_between(value, deviation)) for name, m in means
             for value, deviation in [m.test[metric]]]
    told = "; ".join(f"{name} {spread(m, metric)}" for name, m in means)
    return [(forest(Labels(name, told, x=head), marks), f"{head}: mean and standard deviation")]


def _between(value: float, deviation: float) -> tuple[float, float]:
    return (math.nan, math.nan) if math.isnan(deviation) else (value - deviation, value + deviation)


def _grid(name: str, outcome: Outcome, metric: str, head: str) -> Html:
    rows = [r for r in outcome.rows if r.trained and GAMMAS[0] in r.settings]
    first, second = (sorted({float(r.settings[g]) for r in rows}) for g in GAMMAS)
    found: dict[tuple[float, float], list[float]] = {}
    for row in rows:
        key = float(row.settings["gamma1"]), float(row.settings["gamma2"])
        found.setdefault(key, []).append(row.test[metric])
    values = [[sum(v := found.get((a, b), [math.nan])) / len(v) for b in second] for a in first]
    told = "; ".join(f"γ1 {a:g}, γ2 {b:g}: {v:.1f}" for a, line in zip(first, values, strict=True)
                     for b, v in zip(second, line, strict=True))
    return heat_map(Labels(name, told, head, "γ2 (diversity)", "γ1 (sparsity)"),
                    [f"{a:g}" for a in first], [f"{b:g}" for b in second], values)


def _weights(name: str, outcome: Outcome, columns: dict[str, str]) -> Html:
    means: list[Mean] = [m for m in outcome.means if any(c in m.test for c in columns)]
    values = {m.name: [m.test[c][0] for c in columns] for m in means}
    told = "; ".join(f"{m.name}: " + ", ".join(f"{h} {m.test[c][0]:.0f}"
                                               for c, h in columns.items()) for m in means)
    labels = Labels(name, told, "What assigners weigh", "percent")
    return bars(labels, list(columns.values()), values, 0)
