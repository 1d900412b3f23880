"""Content shift: what `gate-cache score` and `gate-cache guideline` say and draw."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.markup import escape

from gate_cache.analysis.guideline import MEASURES, Guideline, TriedTechnique
from gate_cache.core.errors import counted
from gate_cache.report.figures.marks import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    LINE,
    PINK,
    SKY,
    Colour,
    cut,
    wrapped,
)
from gate_cache.report.figures.pictures import (
    EDGE,
    GAP,
    Picture,
    PictureCell,
    PictureRow,
    fitted,
    sheet,
)
from gate_cache.report.figures.show import written
from gate_cache.report.terminal.grid import Grid, put, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gate_cache.analysis.score import Scored, ShiftScores
    from gate_cache.learn.metrics.intervals import Spread

MARKERS = "svD^<>ph"
COLOURS = (SKY, AMBER, GREEN, PINK)


def show_scores(scores: ShiftScores) -> None:
    """A row a combo: Score, its spread, its interval, and what the technique gains."""
    say(f"content shift, {scores.manifest}, model {scores.model},"
        f" {counted(len(scores.images), 'image')}", "bold")
    table = Grid("combo", "techniques", "t", "Score", "±", "95 % of mean", "gain",
                 "95 % of mean", left=2)
    for row in scores.rows:
        gain = [f"{row.gain.mean:+.3f}", _interval(row.gain, "+")] if row.gain else ["", ""]
        table.add_row(escape(row.name), escape(row.techniques), str(row.t),
                      f"{row.score.mean:.3f}", f"{row.score.std:.3f}", _interval(row.score), *gain,
                      style=None if row.gain else "dim")
    put(table)
    say("")
    put(_by_map(scores))
    for line in _score_terms(scores):
        say(line)
    if scores.dropped:
        say(f"note: left out: {counted(len(scores.dropped), 'image')} whose anchor has no shift")


def _by_map(scores: ShiftScores) -> Grid:
    names = list(scores.rows[0].maps)
    table = Grid("Score by map", *names)
    for row in scores.rows:
        table.add_row(escape(_label(row)), *(f"{row.maps[m].mean:.3f}" for m in names))
    return table


def _score_terms(scores: ShiftScores) -> list[str]:
    reference = "each combo itself" if scores.own else f"no technique, prompt '{scores.prompt}'"
    return [f"Score (Eq. 2): 1 = as the reference (t = 0, {reference}); 0 = as far from it as the"
            f" anchor (t = {scores.anchor_t}, no technique)",
            "±: standard deviation between images; gain: against no technique at the same t with"
            " the same noise"]


def _interval(value: Spread, sign: str = "") -> str:
    low, high = value.interval
    return f"{low:{sign}.3f} – {high:{sign}.3f}"


def draw_scores(scores: ShiftScores, folder: Path) -> Path:
    """Write the plot as a PNG file; raises as `written`."""
    from matplotlib.figure import Figure

    rows = scores.rows[::-1]  # y grows upwards
    figure = Figure(figsize=(8, 1.9 + 0.42 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        _row(axes, y, row)
    _dress(axes, scores, rows)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return written(drawn(figure), folder, f"{Path(scores.manifest).stem}-score")


def _row(axes: Axes, y: int, row: Scored) -> None:
    for i, (name, value) in enumerate(row.maps.items()):
        axes.plot(value.mean, y + 0.2, MARKERS[i % len(MARKERS)], ms=5, mfc="white",
                  mec=shade(COLOURS[i % len(COLOURS)]), mew=1.4,
                  label=name if not y else None)  # once in the legend, for all rows
    low, high = row.score.interval
    colour = shade(BLUE if row.gain else INK)
    axes.plot([low, high], [y, y], "-", color=colour, lw=3, solid_capstyle="butt",
              label="95 % of the mean" if not y else None)
    axes.plot(row.score.mean, y, "o" if row.gain else "|", color=colour, ms=8 if row.gain else 14,
              mew=2.5)


def _dress(axes: Axes, scores: ShiftScores, rows: list[Scored]) -> None:
    axes.set_yticks(range(len(rows)), [_label(r) for r in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    for row in scores.rows:
        if row.gain is None:
            axes.axvline(row.score.mean, color="0.75", lw=1, zorder=0)
    axes.set_xlabel(f"Score (Eq. 2): 0 = as the anchor (t = {scores.anchor_t}),"
                    " 1 = no content shift")
    axes.set_title(f"Content shift, {Path(scores.manifest).name},"
                   f" {counted(len(scores.images), 'image')}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: Scored) -> str:
    return f"{row.name} ({row.techniques})" if row.techniques else f"{row.name}, t = {row.t}"


def shade(colour: Colour) -> tuple[float, ...]:
    """A colour as matplotlib takes it."""
    return tuple(c / 255 for c in colour)


def drawn(figure: Figure) -> Picture:
    """A matplotlib figure as (H, W, 3)."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


SIDE, ROWS = 128, 8
"""Longer side of a picture in pixels; images shown at most."""
SHOWN = ("SSIM", "edges")
"""Measures below every picture."""


def show_guideline(study: Guideline) -> None:
    """A row a technique: how like the input its results are, and what it gains."""
    say(f"Img2Img, {study.manifest}, model {study.model},"
        f" {counted(len(study.inputs), 'image')} x {counted(study.seeds, 'seed')}", "bold")
    table = Grid("combo", "techniques", *MEASURES, "gain in SSIM", "95 % of mean",
                 "gain in edges", "closer", left=2)
    for row in study.rows:
        table.add_row(escape(row.name), escape(row.techniques), *_figures(row.mean), *_gains(row),
                      style=None if row.gain else "dim")
    table.add_row("autoencoder", "no denoising", *_figures(study.bound), style="dim")
    put(table)
    for line in _protocol(study):
        say(line)


def _figures(mean: dict[str, Spread]) -> list[str]:
    return [f"{mean[m].mean:.1f}" if m == "PSNR" else f"{mean[m].mean:.3f}" for m in MEASURES]


def _gains(row: TriedTechnique) -> list[str]:
    if row.gain is None or row.closer is None:
        return [""] * 4
    return [f"{row.gain['SSIM'].mean:+.3f}", _interval(row.gain["SSIM"], "+"),
            f"{row.gain['edges'].mean:+.3f}", f"{row.closer:.0f} %"]


def _protocol(study: Guideline) -> list[str]:
    return [f"strength {study.strength:g}: noised to t = {study.start}, {study.steps} DDIM steps;"
            f" reference: no technique, prompt '{study.prompt}'; the same noise for all",
            "SSIM; edges: F1 of Canny edges within a pixel; PSNR in dB; all against the input."
            " closer: share of results with a higher SSIM than the reference's"]


def draw_guideline(study: Guideline, folder: Path) -> Path:
    """Write the picture as a PNG file; raises as `written`."""
    return written(page(study), folder, f"{Path(study.manifest).stem}-guideline")


def page(study: Guideline) -> Picture:
    """A row an image: the input, the reference's result, then each technique's."""
    columns = 1 + len(study.rows)
    notes = [line for text in _notes(study)
             for line in wrapped(text, columns * (SIDE + GAP) - GAP, 12)]
    foot = LINE * len(notes) + EDGE
    rows = [PictureRow("", [_cell(study.inputs[name], _two_lines(name)),
                            *(_result(row, name, i) for row in study.rows)])
            for i, name in enumerate(list(study.inputs)[:ROWS])]
    canvas = sheet(rows, f"Img2Img at strength {study.strength:g}, {Path(study.manifest).name}",
                   ["input", *(_head(row, study) for row in study.rows)], SIDE, foot)
    canvas.lines(notes, (EDGE, canvas.height - foot), 12)
    return canvas.done()


def _head(row: TriedTechnique, study: Guideline) -> str:
    about = wrapped(row.techniques if row.gain else f"'{study.prompt}'", SIDE)
    gain = f" ({row.gain['SSIM'].mean:+.3f})" if row.gain else ""
    return "\n".join(cut(line, SIDE) for line in (
        row.name, *about, f"SSIM {row.mean['SSIM'].mean:.3f}{gain}"))


def _two_lines(name: str) -> str:
    """An image's id, broken after a slash."""
    return "\n".join(wrapped(name.replace("/", "/ "), SIDE, 12)[:2]).replace("/ ", "/")


def _result(row: TriedTechnique, name: str, number: int) -> PictureCell:
    return _cell(row.pictures[name], "\n".join(
        f"{measure} {row.values[measure][number].mean():.3f}" for measure in SHOWN))


def _cell(picture: Picture, caption: str) -> PictureCell:
    return PictureCell(fitted(picture, SIDE, smooth=max(picture.shape) > SIDE), caption)


def _notes(study: Guideline) -> list[str]:
    more = len(study.inputs) - ROWS
    hidden = f"; the figures have {counted(more, 'more image')}" if more > 0 else ""
    return [f"Pictures: the first seed. Figures: means over seeds{hidden}. The autoencoder alone"
            f" has SSIM {study.bound['SSIM'].mean:.3f}.", *_protocol(study)[:1]]
