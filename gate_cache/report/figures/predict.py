"""`gate-cache predict`: input, truth, prediction and uncertainty, some images a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.report.figures.marks import Canvas, cut, width_of
from gate_cache.report.figures.masks import Legend, Style, areas, painted, scale, styles
from gate_cache.report.figures.pictures import Picture, fitted, heat
from gate_cache.report.figures.show import need_folder, written

if TYPE_CHECKING:
    from gate_cache.training.predict import Predicted, Predictions

ROWS, SIDE, GAP, EDGE, LINE = 6, 196, 10, 12, 20
"""Images a sheet, longer side of a picture, space between, margin, height of a line; pixels."""
STRIP = 90
COLUMNS = ("input", "truth", "prediction", "uncertainty")


def draw_predictions(found: Predictions, folder: Path) -> Iterator[Path]:
    """Write PNG files of a few images each; yields their paths.

    Raises
    ------
    UserError
        They cannot be written.
    """
    need_folder(folder)
    sheets = iter(lambda: list(islice(found.each, ROWS)), [])
    for number, rows in enumerate(sheets, 1):
        yield written(sheet(found, rows), folder, f"predictions-{number}")


def sheet(about: Predictions, rows: Sequence[Predicted]) -> Picture:
    """A row an image: input, truth, prediction, uncertainty; the classes that are seen below."""
    seen = areas([m for r in rows for m in (r.true, r.found.classes)])
    known = styles(about.classes, seen)
    width = 2 * EDGE + len(COLUMNS) * (SIDE + GAP) - GAP
    legend = Legend(about.classes, seen, known, width, EDGE)
    heights = [_high(r) + LINE + 4 for r in rows]
    top = EDGE + 2 * LINE + 6
    bottom = top + sum(heights) + 4
    canvas = Canvas(width, bottom + legend.height + LINE + EDGE)
    canvas.text(f"{about.run}, head {about.head}", (EDGE, EDGE - 2), 15)
    for i, name in enumerate(COLUMNS):
        canvas.text(name, (EDGE + i * (SIDE + GAP), EDGE + LINE + 4))
    y = top
    for row, height in zip(rows, heights, strict=True):
        _row(canvas, row, known, y)
        y += height
    legend.draw(canvas, bottom)
    _scale(canvas, rows[0], bottom + legend.height)
    return canvas.done()


def _high(row: Predicted) -> int:
    return int(fitted(row.image, SIDE).shape[0])


def _row(canvas: Canvas, row: Predicted, known: Mapping[int, Style], y: int) -> None:
    found = row.found
    true, classes = (_enlarged(m) for m in (row.true, found.classes))
    pictures = (fitted(row.image, SIDE, smooth=max(row.image.shape) > SIDE),
                painted(true, known), painted(classes, known, true),
                fitted(heat(found.uncertainty, 0, found.most), SIDE))
    captions = (row.id, "", f"accuracy {row.accuracy:.1f} %, mIoU {row.iou:.1f} %",
                f"mean {found.uncertainty.mean():.3f}")
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = EDGE + i * (SIDE + GAP)
        canvas.picture(picture, (x, y))
        canvas.text(cut(caption, SIDE, 12), (x, y + picture.shape[0] + 2), 12)


def _enlarged(mask: np.ndarray) -> np.ndarray:
    """Classes in the pixels of the page, by nearest neighbour."""
    return fitted(np.repeat(mask[..., None], 3, 2), SIDE)[..., 0]


def _scale(canvas: Canvas, row: Predicted, y: float) -> None:
    words = f"uncertainty: {row.found.measure}, 0"
    most = f"{row.found.most:.2f} nats" if row.found.measure == "entropy" else "all"
    x = EDGE + width_of(words) + 8
    canvas.text(words, (EDGE, y))
    canvas.picture(scale(STRIP, 12), (x, y + 2))
    canvas.text(most, (x + STRIP + 8, y))
