"""`gate-cache guideline`: Img2Img with and without techniques, as a table and as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.analysis.guideline import MEASURES, Guideline, TriedTechnique
from gate_cache.report.figures.marks import Canvas, cut, wrapped
from gate_cache.report.figures.pictures import Picture, fitted
from gate_cache.report.figures.show import written
from gate_cache.report.terminal.tables import console, grid, say

if TYPE_CHECKING:
    from gate_cache.learn.metrics.intervals import Spread

SIDE, GAP, EDGE, LINE, ROWS = 128, 14, 12, 17, 8
"""Side of a picture, space between, margin, height of a line, images shown at most; pixels."""
SHOWN = ("SSIM", "edges")
"""Measures below every picture."""


def show_guideline(found: Guideline) -> None:
    """A row a technique: how like the input its results are, and what it gains."""
    out = console()
    say(out, f"Img2Img, {found.manifest}, model {found.model}, {len(found.inputs)} images x"
        f" {found.seeds} seeds", "bold")
    table = grid("combo", "techniques", *MEASURES, "gain in SSIM", "95 % of mean",
                 "gain in edges", "closer", left=2)
    for row in found.rows:
        table.add_row(escape(row.name), escape(row.techniques), *_figures(row.mean), *_gains(row),
                      style=None if row.gain else "dim")
    table.add_row("autoencoder", "no denoising", *_figures(found.bound), style="dim")
    out.print(table)
    for line in _protocol(found):
        say(out, line)


def _figures(mean: dict[str, Spread]) -> list[str]:
    return [f"{mean[m].mean:.1f}" if m == "PSNR" else f"{mean[m].mean:.3f}" for m in MEASURES]


def _gains(row: TriedTechnique) -> list[str]:
    if row.gain is None or row.closer is None:
        return [""] * 4
    low, high = row.gain["SSIM"].interval
    return [f"{row.gain['SSIM'].mean:+.3f}", f"{low:+.3f} – {high:+.3f}",
            f"{row.gain['edges'].mean:+.3f}", f"{row.closer:.0f} %"]


def _protocol(found: Guideline) -> list[str]:
    return [f"strength {found.strength:g}: noised to t = {found.start}, {found.steps} DDIM steps;"
            f" reference: no technique, prompt '{found.prompt}'; the same noise for all",
            "SSIM; edges: F1 of Canny edges within a pixel; PSNR in dB; all against the input."
            " closer: share of results with a higher SSIM than the reference's"]


def draw_guideline(found: Guideline, folder: Path) -> Path:
    """Write the picture as a PNG file.

    Raises
    ------
    UserError
        It cannot be written.
    """
    return written(page(found), folder, f"{Path(found.manifest).stem}-guideline")


def page(found: Guideline) -> Picture:
    """A row an image: the input, the reference's result, then each technique's."""
    columns = 1 + len(found.rows)
    shown = list(found.inputs)[:ROWS]
    heads = [_head(row, found) for row in found.rows]
    names = max(len(h) for h in heads)
    top = EDGE + 2 * LINE + 8 + names * LINE + 6
    high = SIDE + len(SHOWN) * LINE + 6
    width = 2 * EDGE + columns * (SIDE + GAP) - GAP
    notes = [line for text in _notes(found) for line in wrapped(text, width - 2 * EDGE, 12)]
    bottom = top + high * len(shown) + 8
    canvas = Canvas(width, bottom + LINE * len(notes) + EDGE)
    canvas.text(f"Img2Img at strength {found.strength:g}, {Path(found.manifest).name}",
                (EDGE, EDGE - 2), 15)
    for i, lines in enumerate([["input"], *heads]):
        for j, line in enumerate(lines):
            canvas.text(line, (_x(i), EDGE + LINE + 12 + j * LINE), 13 if not j else 12)
    for j, name in enumerate(shown):
        _row(canvas, found, name, j, top + j * high)
    for j, line in enumerate(notes):
        canvas.text(line, (EDGE, bottom + j * LINE), 12)
    return canvas.done()


def _x(column: int) -> int:
    return EDGE + column * (SIDE + GAP)


def _head(row: TriedTechnique, found: Guideline) -> list[str]:
    about = wrapped(row.techniques if row.gain else f"'{found.prompt}'", SIDE, 12)
    gain = [f"SSIM {row.mean['SSIM'].mean:.3f} ({row.gain['SSIM'].mean:+.3f})"] if row.gain else \
        [f"SSIM {row.mean['SSIM'].mean:.3f}"]
    return [cut(row.name, SIDE), *(cut(a, SIDE, 12) for a in about), *gain]


def _row(canvas: Canvas, found: Guideline, name: str, number: int, y: int) -> None:
    canvas.picture(_cell(found.inputs[name]), (_x(0), y))
    for j, line in enumerate(wrapped(name.replace("/", "/ "), SIDE, 12)[:2]):
        canvas.text(cut(line.replace("/ ", "/"), SIDE, 12), (_x(0), y + SIDE + 2 + j * LINE), 12)
    for i, row in enumerate(found.rows, 1):
        canvas.picture(_cell(row.pictures[name]), (_x(i), y))
        for j, measure in enumerate(SHOWN):
            mean = row.values[measure][number].mean()
            canvas.text(f"{measure} {mean:.3f}", (_x(i), y + SIDE + 2 + j * LINE), 12)


def _cell(picture: Picture) -> Picture:
    return fitted(picture, SIDE, smooth=max(picture.shape) > SIDE)


def _notes(found: Guideline) -> list[str]:
    more = len(found.inputs) - ROWS
    hidden = [f"{more} more images are in the figures"] if more > 0 else []
    return ["Pictures: the first seed. Figures: means over seeds" +
            "".join(f"; {h}" for h in hidden) + f". The autoencoder alone has SSIM"
            f" {found.bound['SSIM'].mean:.3f}.", *_protocol(found)[:1]]
