"""Curves of training, and what the assigners weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gate_cache.learn.metrics.pck import metric_name
from gate_cache.report.html.charts import Curve, Labels, bars, curves, density
from gate_cache.report.html.compare import Verdict
from gate_cache.report.html.page import (
    Column,
    Html,
    PageRow,
    Section,
    figure,
    fold,
    heading,
    panels,
    paragraph,
    render,
    section,
    table,
)
from gate_cache.report.html.record import Record, Result, number, step_of, step_unit
from gate_cache.report.html.results import COLOURS
from gate_cache.report.html.svg import DASHES, SERIES, STROKES
from gate_cache.report.html.trials import broken

FEW, LISTED = 4, 24
"""Lines that get colours of their own; trainings whose validations are listed."""


def training(record: Record, verdict: Verdict | None) -> Section:
    """Loss and the metric that chooses, over what training has seen."""
    fitted = [r for r in record.results if r.history]
    if not fitted:
        return section("Training", paragraph("The folder tells nothing of the course of training."))
    unit = step_unit(fitted)
    looks = {r.name: _look(r, fitted, verdict) for r in fitted}
    losses = [_curve(r, "loss", *looks[r.name]) for r in fitted]
    scores = [c for r in fitted if (c := _curve(r, record.select, *looks[r.name]))]
    drawn = [c for c in losses if c]
    parts = [figure(curves(Labels("loss", _alt("loss", drawn), "Loss", unit), drawn),
                    "Mean loss of the task since the last validation.")]
    name = metric_name(record.select)
    if scores:
        parts.append(figure(curves(Labels("validation", _alt(name, scores), f"{name} on val, %",
                                          unit), scores, least=2),
                            "The ring marks the checkpoint that was kept: the best one on val."))
    else:
        parts.append(paragraph("There is no val split: the last checkpoint was kept.", note=True))
    return section("Training", legend(looks), panels(parts), _history(record, fitted, unit))


def legend(looks: Mapping[str, tuple[str, bool]]) -> Html:
    """Names of coloured lines; all faint ones are one entry."""
    named = [(n, colour) for n, (colour, faint) in looks.items() if not faint]
    if len(named) < len(looks):
        named.append((f"the other {len(looks) - len(named)}", SERIES[7]))
    return render("lines", lines=[(name, SERIES.index(colour), STROKES[DASHES[colour]])
                                  for name, colour in named])


def _look(result: Result, fitted: Sequence[Result], verdict: Verdict | None) -> tuple[str, bool]:
    """Colour, and whether it stays behind the others."""
    if len(fitted) <= FEW and len({r.role for r in fitted}) == len(fitted):
        return COLOURS[result.role], False
    if len(fitted) <= FEW:
        return SERIES[list(fitted).index(result)], False
    chosen = verdict and result in [*verdict.gate.results, *(
        r for g in verdict.baselines.values() for r in g.results)]
    return (COLOURS[result.role], False) if chosen else (SERIES[7], True)


def _curve(result: Result, what: str, colour: str, faint: bool) -> Curve | None:
    points = [(step_of(h), h["loss"] if what == "loss" else (h.get("val") or {}).get(what))
              for h in result.history]
    measured = [(x, y) for x, y in points if y is not None]
    if not measured:
        return None
    seen = [x for x, _ in measured]
    # no ring at a step without a value on val: the last weights were kept then
    best = seen.index(result.best_at) if what != "loss" and result.best_at in seen else None
    return Curve(result.name, seen, [y for _, y in measured], colour, best, faint)


def _alt(what: str, lines: Sequence[Curve]) -> str:
    spans = "; ".join(f"{c.name} from {number(c.y[0], 2)} to {number(c.y[-1], 2)}"
                      for c in lines[:8])
    return f"{what} over training: {spans}"


def _history(record: Record, fitted: Sequence[Result], unit: str) -> Html:
    rows = [PageRow([broken(r.name), step_of(h), number(h["loss"], 4),
                     number((h.get("val") or {}).get(record.select), 2),
                     "kept" if step_of(h) == r.best_at else ""])
            for r in fitted[:LISTED] for h in r.history]
    columns = [Column("Training"), Column(unit), Column("loss"),
               Column("val", metric_name(record.select)), Column("checkpoint", words=True)]
    some = f" of the first {LISTED} of {len(fitted)}" if len(fitted) > LISTED else ""
    return fold(f"Every validation{some} as a table", table(columns, rows, "Validations"))


def weights(record: Record, verdict: Verdict | None) -> Section | None:
    """Distribution and overlap of the assigners' weights (paper, Figure 12)."""
    result = next((r for r in (verdict.gate.results if verdict else ()) if r.weights), None)
    if not result:
        return None
    note = f"Of {result.name}, over the test items. " if record.kind == "sweep" else ""
    parts = [paragraph(f"{note}Each assigner's weights sum to 1; the nearer the largest one is to"
                       " 1, the sparser they are.", note=True), _panels(result, "weights")]
    plain = next((r for r in record.trials if r.weights and r is not result
                  and r.spec.get("gamma1") == r.spec.get("gamma2") == 0), None)
    if plain:
        parts += [heading(f"Without regularisers: {plain.name}"), _panels(plain, "plain")]
    return section("Weights", *parts, _all_weights(record))


def _panels(result: Result, key: str) -> Html:
    stats = result.weights
    names = [f"assigner {j + 1}" for j in range(len(stats["mean"]))]
    parts = [figure(_means(result, stats, names, key),
                    "Mean weight of every combo over the test images.")]
    counts = stats.get("histogram") or {}
    for j, name in enumerate(names if counts else ()):
        alt = (f"{name.capitalize()}: largest weight {_moments(stats, 'top1', j)}, second largest"
               f" {_moments(stats, 'top2', j)}")
        drawn = density(Labels(f"{key}-density-{j}", alt, name.capitalize()),
                        {k: v[j] for k, v in counts.items()})
        parts.append(figure(drawn, f"{alt}."))
    if stats["overlap"]:
        parts.append(_overlap(stats["overlap"], key))
    return panels(parts)


def _moments(stats: Mapping[str, Any], top: str, assigner: int) -> str:
    mean, spread = (number(stats[k][assigner], 2) for k in (top, f"{top}_std"))
    return f"{mean}\u00a0±\u00a0{spread}"


def _means(result: Result, stats: Mapping[str, Any], names: Sequence[str], key: str) -> Html:
    combos = list(result.combos) if len(result.combos) == len(stats["mean"][0]) else \
        [f"feature {i + 1}" for i in range(len(stats["mean"][0]))]
    values = dict(zip(names, stats["mean"], strict=True))
    alt = "; ".join(f"{n}: " + ", ".join(f"{c} {w:.2f}" for c, w in zip(combos, v, strict=True))
                    for n, v in values.items())
    return bars(Labels(f"{key}-means", f"Mean weights. {alt}", "Mean weights", "weight"), combos,
                values)


def _overlap(shares: Mapping[str, float], key: str) -> Html:
    words = {"none": "none", "top2": "in top 2", "top1": "same top 1"}
    values = [100 * shares[key] for key in words]
    alt = ", ".join(f"{w}: {number(v, 0)} %" for w, v in zip(words.values(), values, strict=True))
    drawn = bars(Labels(f"{key}-overlap", f"Overlap of assigners. {alt}", "Overlap of assigners",
                        "share of images, %"), list(words.values()), {"images": values}, 0)
    return figure(drawn,
                  "Two assigners on one image: none of their two largest weights is for the same"
                  " combo; one is, but not the largest of both; their largest is for the same.")


def _all_weights(record: Record) -> Html | None:
    """Sparsity and overlap of all trials of a sweep, one line each."""
    weighted = [(r, r.weights) for r in record.trials if r.weights]
    if len(weighted) < 2:
        return None
    columns = [Column("Trial"), Column("largest", "mean"), Column("second", "mean"),
               Column("no overlap", "%"), Column("in top 2", "%"), Column("same top 1", "%")]
    rows = []
    for result, stats in weighted:
        top = [sum(stats[k]) / len(stats[k]) for k in ("top1", "top2")]
        overlap = [f"{100 * stats['overlap'][k]:.0f}" if stats["overlap"] else ""
                   for k in ("none", "top2", "top1")]
        rows.append(PageRow([broken(result.name), *(number(v, 2) for v in top), *overlap]))
    return fold("Weights of all trials", table(
        columns, rows, "Weights of all trials, mean over assigners", sortable=True))
