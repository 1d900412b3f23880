"""`gate-cache match`: two pictures side by side with the points that were matched."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gate_cache.core.errors import counted
from gate_cache.report.figures.marks import (
    BLUE,
    INK,
    LINE,
    ORANGE,
    At,
    Canvas,
    Colour,
    Legend,
    cut,
    ink_on,
    wrapped,
)
from gate_cache.report.figures.pictures import Picture, fitted
from gate_cache.report.figures.show import file_name, written
from gate_cache.report.terminal.grid import say
from gate_cache.training.run_files import trial_file

if TYPE_CHECKING:
    from gate_cache.analysis.match import Matches

SIDE, BETWEEN, EDGE = 380, 36, 12
"""Longer side of a picture, space between both, the page's margin; pixels."""
MARK = 6.5
FEW = 12
"""Points that are listed one by one."""
_CORNERS = np.array([[(150, 205, 245), (255, 226, 110)], [(0, 45, 115), (140, 62, 0)]], float)
"""Colours of a grid's corners: blue to yellow across, light to dark down."""


def draw_match(matches: Matches, out: Path) -> Path:
    """Write the PNG file of two images to `out`, a file or its folder; raises as `written`."""
    feature = trial_file(matches.feature.replace(" ", "-"))
    name = f"{file_name(matches.source)}-to-{file_name(matches.target)}-{feature}"
    return written(page(matches), out, name)


def show_match(matches: Matches) -> None:
    say(f"{matches.source} -> {matches.target}, {matches.feature}: {verdict(matches)}")
    if matches.judged is None and len(matches.points) <= FEW:
        for point, match, cosine in zip(matches.points, matches.found, matches.similarity,
                                        strict=True):
            say("{:g}, {:g} -> {:.1f}, {:.1f}  cosine {:.2f}".format(*point, *match, cosine))
    if matches.note:
        say(f"note: {matches.note}; a grid of points instead")


def verdict(matches: Matches) -> str:
    points = counted(len(matches.points), "point")
    if matches.judged is None:
        return f"cycle-consistent: {int(matches.back.sum())} of {points}"
    values = matches.judged.pck
    if math.isnan(values["box"]):
        return (f"PCK@0.1 {values['image']:.1f} % of {points} (radius from the image; the box"
                " has no extent)")
    return (f"PCK@0.1 {values['box']:.1f} % of {points} (radius from the box),"
            f" {values['image']:.1f} % (from the image)")


def page(matches: Matches) -> Picture:
    left, right = (fitted(p, SIDE, smooth=max(p.shape) > SIDE) for p in matches.pictures)
    width = left.shape[1] + right.shape[1] + BETWEEN + 2 * EDGE
    wide = width - 2 * EDGE
    head = [cut(f"{matches.source}  to  {matches.target}", wide, 15),
            *wrapped(f"{matches.feature}: {verdict(matches)}", wide)]
    top = EDGE + LINE * len(head) + 6
    bottom = top + max(left.shape[0], right.shape[0]) + 10
    legend = Legend(_KEYS if matches.judged else _GRID_KEYS, width, EDGE)
    canvas = Canvas(width, bottom + legend.height + 6)
    for i, line in enumerate(head):
        canvas.text(line, (EDGE, EDGE + i * LINE), 13 if i else 15)
    there = (EDGE + left.shape[1] + BETWEEN, top)
    canvas.picture(left, (EDGE, top))
    canvas.picture(right, there)
    scales = [p.shape[0] / o.shape[0] for p, o in zip((left, right), matches.pictures, strict=True)]
    draw = _key_points if matches.judged else _grid
    draw(canvas, matches, _onto((EDGE, top), scales[0]), _onto(there, scales[1]), scales[1])
    legend.draw(canvas, bottom)
    return canvas.done()


Place = Callable[[Any], At]


def _onto(corner: At, scale: float) -> Place:
    return lambda point: (corner[0] + point[0] * scale, corner[1] + point[1] * scale)


def _key_points(canvas: Canvas, matches: Matches, here: Place, there: Place, scale: float) -> None:
    judged = matches.judged
    assert judged is not None
    order = np.argsort(judged.right, kind="stable")  # right ones on top
    for true in judged.true:
        canvas.ring(there(true), judged.radius * scale, INK, 1)
    for k in order:
        colour = BLUE if judged.right[k] else ORANGE
        canvas.line(here(matches.points[k]), there(matches.found[k]), colour,
                    dashed=not judged.right[k])
    for k in order:
        if not judged.right[k]:
            canvas.line(there(matches.found[k]), there(judged.true[k]), INK, 0.8)
    for k in order:
        x, y = there(matches.found[k])
        if judged.right[k]:
            _numbered(canvas, (x, y), k, BLUE, round_=True)
        else:
            canvas.cross((x, y), 5, ORANGE)
            canvas.text(str(k + 1), (x + 11, y - 8), 11, ORANGE, middle=True, rim=True)
    for k in range(len(matches.points)):
        colour = BLUE if judged.right[k] else ORANGE
        _numbered(canvas, here(matches.points[k]), k, colour, round_=bool(judged.right[k]))


def _numbered(canvas: Canvas, at: At, number: int, colour: Colour, round_: bool) -> None:
    (canvas.dot if round_ else canvas.square)(at, MARK, colour)
    canvas.text(str(number + 1), at, 9, ink_on(colour), middle=True)


def _grid(canvas: Canvas, matches: Matches, here: Place, there: Place, _scale: float) -> None:
    span = np.ptp(matches.points, 0)
    shares = (matches.points - matches.points.min(0)) / np.where(span > 0, span, 1)
    for k in np.argsort(matches.back, kind="stable"):
        colour, back = _at(shares[k]), bool(matches.back[k])
        _numbered(canvas, here(matches.points[k]), k, colour, back)
        _numbered(canvas, there(matches.found[k]), k, colour, back)


def _at(share: Any) -> Colour:
    """The colour of a place in the grid."""
    x, y = share
    up, down = _CORNERS
    mixed = (1 - y) * ((1 - x) * up[0] + x * up[1]) + y * ((1 - x) * down[0] + x * down[1])
    r, g, b = (round(float(v)) for v in mixed)
    return r, g, b


Key = tuple[str, Callable[[Canvas, At], None]]
_KEYS: tuple[Key, ...] = (
    ("match, right", lambda c, at: c.dot(at, 5, BLUE)),
    ("match, wrong (a line to the truth)", lambda c, at: c.cross(at, 5, ORANGE)),
    ("truth, with the radius of PCK@0.1 (box)", lambda c, at: c.ring(at, 6, INK, 1)),
)
_GRID_KEYS: tuple[Key, ...] = (
    ("cycle-consistent: the match's match is near the point", lambda c, at: c.dot(at, 6, BLUE)),
    ("not cycle-consistent", lambda c, at: c.square(at, 6, BLUE)),
)
