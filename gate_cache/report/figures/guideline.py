"""`gate-cache guideline`: Img2Img with and without techniques, as a table and as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.analysis.guideline import MEASURES, Guideline, TriedTechnique
from gate_cache.report.figures.marks import LINE, cut, wrapped
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
    from gate_cache.learn.metrics.intervals import Spread

SIDE, ROWS = 128, 8
"""Longer side of a picture in pixels; images shown at most."""
SHOWN = ("SSIM", "edges")
"""Measures below every picture."""


def show_guideline(study: Guideline) -> None:
    """A row a technique: how like the input its results are, and what it gains."""
    say(f"Img2Img, {study.manifest}, model {study.model}, {len(study.inputs)} images x"
        f" {study.seeds} seeds", "bold")
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
    low, high = row.gain["SSIM"].interval
    return [f"{row.gain['SSIM'].mean:+.3f}", f"{low:+.3f} – {high:+.3f}",
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
    hidden = [f"{more} more images are in the figures"] if more > 0 else []
    return ["Pictures: the first seed. Figures: means over seeds" +
            "".join(f"; {h}" for h in hidden) + f". The autoencoder alone has SSIM"
            f" {study.bound['SSIM'].mean:.3f}.", *_protocol(study)[:1]]
