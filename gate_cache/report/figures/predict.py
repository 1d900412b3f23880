"""`gate-cache predict`: input, truth, prediction and uncertainty, some images a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.report.figures.marks import LINE, Canvas, width_of
from gate_cache.report.figures.masks import Style, areas, enlarged, legend, painted, styles
from gate_cache.report.figures.pictures import (
    EDGE,
    GAP,
    Picture,
    PictureCell,
    PictureRow,
    fitted,
    heat,
    sheet,
)
from gate_cache.report.figures.show import need_folder, written

if TYPE_CHECKING:
    from gate_cache.training.predict import Predicted, Predictions

ROWS, SIDE, STRIP = 6, 196, 90
"""Images a sheet; longer side of a picture and of the scale of uncertainty, in pixels."""
COLUMNS = ("input", "truth", "prediction", "uncertainty")


def draw_predictions(predictions: Predictions, folder: Path) -> Iterator[Path]:
    """Write PNG files of a few images each; yields their paths; raises as `written`."""
    need_folder(folder)
    sheets = iter(lambda: list(islice(predictions.images, ROWS)), [])
    for number, rows in enumerate(sheets, 1):
        yield written(page(predictions, rows), folder, f"predictions-{number}")


def page(about: Predictions, rows: Sequence[Predicted]) -> Picture:
    """A row an image: input, truth, prediction, uncertainty; the classes that are seen below."""
    seen = areas([m for r in rows for m in (r.true, r.painted.classes)])
    style_of = styles(about.classes)
    names = legend(about.classes, seen, style_of, len(COLUMNS) * (SIDE + GAP) + GAP, EDGE)
    foot = names.height + LINE + EDGE
    canvas = sheet([PictureRow("", _cells(row, style_of)) for row in rows],
                   f"{about.run}, head {about.head}", COLUMNS, SIDE, foot)
    names.draw(canvas, canvas.height - foot)
    _scale(canvas, rows[0], canvas.height - LINE - EDGE)
    return canvas.done()


def _cells(row: Predicted, style_of: Mapping[int, Style]) -> list[PictureCell]:
    painting = row.painted
    true, classes = (enlarged(m, SIDE) for m in (row.true, painting.classes))
    # enlarged pictures keep their pixels, as masks do beside them; photographs are made smaller
    return [PictureCell(fitted(row.image, SIDE, smooth=max(row.image.shape) > SIDE), row.id),
            PictureCell(painted(true, style_of)),
            PictureCell(painted(classes, style_of, true),
                        f"accuracy {row.accuracy:.1f} %, mIoU {row.iou:.1f} %"),
            PictureCell(heat(painting.uncertainty, 0, painting.most),
                        f"mean {painting.uncertainty.mean():.3f}")]


def _scale(canvas: Canvas, row: Predicted, y: float) -> None:
    words = f"uncertainty: {row.painted.measure}, 0"
    most = f"{row.painted.most:.2f} nats" if row.painted.measure == "entropy" else "all"
    x = EDGE + width_of(words) + 8
    canvas.text(words, (EDGE, y))
    canvas.picture(heat(np.linspace(0, 1, STRIP)[None].repeat(12, 0)), (x, y + 2))
    canvas.text(most, (x + STRIP + 8, y))
