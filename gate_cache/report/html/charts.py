"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from gate_cache.report.html.record import number
from gate_cache.report.html.svg import (
    DASHES,
    GATE,
    INK,
    LINE,
    MARKS,
    MUTED,
    SERIES,
    SINGLE,
    Chart,
)

if TYPE_CHECKING:
    from gate_cache.report.html.page import Html

WIDTH = 380
"""Of a panel, in pixels: on a telephone too, letters are as large as the page's."""


@dataclass(frozen=True)
class Mark:
    """A value with its interval, which may be NaN."""

    name: str
    value: float
    low: float
    high: float
    colour: str = SERIES[6]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes
    ----------
    best : number of the point to mark, if any
    faint : whether it is one of many behind the others
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    best: int | None = None
    faint: bool = False


@dataclass(frozen=True)
class Labels:
    """The words of a chart.

    Attributes
    ----------
    key : of the chart on its page, unique
    alt : what a reader hears who does not see it
    title : above the chart
    x, y : under and beside the axes
    """

    key: str
    alt: str
    title: str = ""
    x: str = ""
    y: str = ""


def forest(labels: Labels, marks: Sequence[Mark]) -> Html:
    """Values with their intervals, one below the other, each under its name."""
    with Chart(labels.key, (WIDTH, 56 + 36 * len(marks))) as (chart, axes):
        for y, mark in enumerate(marks):
            axes.plot([mark.low, mark.high], [y, y], color=mark.colour, linewidth=2.4,
                      solid_capstyle="round")
            axes.plot([mark.value], [y], "o", color=mark.colour, markersize=7.5)
            beside = mark.value if math.isnan(mark.high) else mark.high
            axes.annotate(number(mark.value), (beside, y), (8, 0), textcoords="offset points",
                          va="center", color=INK)
            axes.annotate(mark.name, (0, y - 0.32), xycoords=("axes fraction", "data"),
                          va="bottom", color=INK, fontsize=11)
        axes.set(ylim=(len(marks) - 0.45, -1), xlabel=labels.x)
        axes.set_yticks([])
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _quiet(axes, "x")
        return chart.svg(labels.alt)


def curves(labels: Labels, lines: Sequence[Curve], least: float = 0.0) -> Html:
    """Lines over what training has seen, faint ones behind; a filled ring is the best checkpoint.

    The value axis spans `least` at least, so that noise does not look like news.
    """
    with Chart(labels.key, (WIDTH, 270)) as (chart, axes):
        for line in sorted(lines, key=lambda c: not c.faint):
            axes.plot(line.x, line.y, DASHES[line.colour], color=line.colour,
                      linewidth=0.9 if line.faint else 1.9,
                      alpha=0.55 if line.faint else 1, zorder=1 if line.faint else 3,
                      marker="o" if len(line.x) == 1 else None, markersize=4)
            if line.best is not None:
                axes.plot([line.x[line.best]], [line.y[line.best]], "o", color=line.colour,
                          markersize=4 if line.faint else 8, zorder=2 if line.faint else 4,
                          markeredgecolor=INK, markeredgewidth=0 if line.faint else 1.2)
        axes.set(title=labels.title, xlabel=labels.x)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}".replace(",", "\u202f"))
        axes.margins(x=0.04, y=0.1)
        _no_narrower(axes, least)
        _quiet(axes, "y")
        return chart.svg(labels.alt)


def density(labels: Labels, counts: Mapping[str, Sequence[int]]) -> Html:
    """Densities of the largest and second largest weights (paper, Figure 12)."""
    with Chart(labels.key, (WIDTH, 230)) as (chart, axes):
        looks = {"top1": (GATE, "-", "largest"), "top2": (SINGLE, "--", "second largest")}
        for key, (colour, dash, words) in looks.items():
            bins = np.asarray(counts[key], float)
            shares = bins * len(bins) / max(bins.sum(), 1)
            edges = np.linspace(0, 1, len(bins) + 1)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
            axes.stairs(shares, edges, color=colour, linestyle=dash, linewidth=1.8, label=words)
        axes.set(xlabel="weight", ylabel="density", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        _headed(axes, labels.title, legend=True)
        _quiet(axes, "y")
        return chart.svg(labels.alt)


def bars(labels: Labels, rows: Sequence[str], values: Mapping[str, Sequence[float]],
         digits: int = 2) -> Html:
    """Horizontal bars from top to bottom: a row a name, with a bar of each series of `values`."""
    thickness = max(0.8 / len(values), 0.1)
    height = 74 + len(rows) * (14 + 13 * len(values))
    with Chart(labels.key, (WIDTH, height)) as (chart, axes):
        for j, (words, lengths) in enumerate(values.items()):
            at = [i + (j - (len(values) - 1) / 2) * thickness for i in range(len(rows))]
            axes.barh(at, lengths, thickness * 0.86, color=SERIES[(0, 4, 2, 3, 1)[j % 5]],
                      label=words)
            for y, value in zip(at, lengths, strict=True):
                axes.annotate(number(value, digits), (value, y), (4, 0), textcoords="offset points",
                              va="center", fontsize=10, color=INK)
        axes.set_yticks(range(len(rows)), [cut(r, 26) for r in rows])
        axes.set(xlabel=labels.x, ylim=(len(rows) - 0.5, -0.5),
                 xlim=(0, 1.16 * max((max(v) for v in values.values()), default=1) or 1))
        _headed(axes, labels.title, legend=len(values) > 1)
        _quiet(axes, "x")
        return chart.svg(labels.alt)


def heat_map(labels: Labels, rows: Sequence[str], columns: Sequence[str],
             values: Sequence[Sequence[float]],
             notes: Sequence[Sequence[str]] | None = None) -> Html:
    """(rows, columns) numbers as colours (cividis), with `notes` below them; NaN stays empty."""
    grid = np.ma.masked_invalid(np.asarray(values, float))
    wide = max(56, 46 + 9 * max(len(c) for c in columns) // 2)
    size = (110 + wide * len(columns), 90 + 44 * len(rows))
    with Chart(labels.key, size) as (chart, axes):
        room = max(0.0, 1 - (grid.max() - grid.min())) / 2  # noise should not look like news
        norm = Normalize(grid.min() - room, grid.max() + room)
        axes.pcolormesh(grid, cmap="cividis", norm=norm, edgecolors="none")
        for y, x in np.argwhere(~np.ma.getmaskarray(grid)):
            dark = norm(grid[y, x]) < 0.5
            more = f"\n{notes[y][x]}" if notes and notes[y][x] else ""
            axes.text(x + 0.5, y + 0.5, f"{number(float(grid[y, x]))}{more}", ha="center",
                      va="center", fontsize=12, color="#ffffff" if dark else "#00132b",
                      linespacing=1.25)
        axes.set_xticks([i + 0.5 for i in range(len(columns))], columns)
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
        axes.set(xlabel=labels.x, ylabel=labels.y, title=labels.title)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return chart.svg(labels.alt)


def effect(labels: Labels, values: Sequence[str], results: Sequence[Sequence[float]]) -> Html:
    """Results by the value of one setting: a dot a configuration, and their mean."""
    size = (max(200, min(WIDTH, 90 + 62 * len(values))), 240)
    with Chart(labels.key, size) as (chart, axes):
        for x, scores in enumerate(results):
            axes.plot([x] * len(scores), scores, "o", color=SERIES[6], markersize=4.5, alpha=0.7)
        means = [float(np.mean(scores)) if scores else math.nan for scores in results]
        axes.plot(range(len(values)), means, "-D", color=GATE, markersize=6)
        axes.set_xticks(range(len(values)), values)
        axes.set(title=labels.title, xlim=(-0.5, len(values) - 0.5))
        axes.margins(y=0.12)
        if max(map(len, values)) > 7:
            axes.tick_params(axis="x", rotation=35)
        _quiet(axes, "y")
        return chart.svg(labels.alt)


def dumbbells(labels: Labels, rows: Sequence[str], ours: Sequence[float],
              theirs: Sequence[float], names: tuple[str, str]) -> Html:
    """Two values a row, from top to bottom, with the way between; `names` are their legend."""
    with Chart(labels.key, (WIDTH, 84 + 25 * len(rows))) as (chart, axes):
        for y, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            axes.plot([a, b], [y, y], color=LINE, linewidth=3, zorder=1)
        axes.plot(ours, range(len(rows)), MARKS[0], color=GATE, label=names[0], linestyle="",
                  markersize=7)
        axes.plot(theirs, range(len(rows)), MARKS[1], color=SINGLE, label=names[1], linestyle="",
                  fillstyle="none", markersize=6.5, markeredgewidth=1.8)
        axes.set_yticks(range(len(rows)), [cut(r, 22) for r in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=labels.x)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2,
                    handletextpad=0.3)
        _quiet(axes, "x")
        return chart.svg(labels.alt)


def cut(words: str, most: int) -> str:
    """As many letters as there is room for."""
    return words if len(words) <= most else words[:most - 1] + "…"


def _headed(axes: Axes, title: str, legend: bool) -> None:
    """A title, and below it the legend, outside of what is drawn."""
    axes.set_title(title, pad=24 if legend else 6)
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=4, borderaxespad=0,
                    handlelength=1.6, columnspacing=1.2, handletextpad=0.5)


def _no_narrower(axes: Axes, least: float) -> None:
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _quiet(axes: Axes, grid: str) -> None:
    axes.grid(True, axis=grid)  # type: ignore[arg-type]
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(grid != "x")
    axes.spines["left"].set_color(MUTED)
