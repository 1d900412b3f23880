"""A pair of images with predicted key points, right and wrong ones told apart by shape too."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import CorrespondenceDataset, Keypoints
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import SELECT, Prediction, correct
from gate_cache.report.figures.pictures import data_uri
from gate_cache.report.html.page import Html, join, tag
from gate_cache.report.html.svg import digest

SIDE = 240.0
"""Width of a picture in its own units: marks are of one size on all of them."""
RIGHT, WRONG, CASE = "#0072b2", "#d55e00", "#ffffff"
Points = npt.NDArray[np.float64]


class ExamplePairs:
    """Predictions of GATE, and of the single feature where it has any, for all pairs."""

    def __init__(self, data: CorrespondenceDataset, items: Items, other: Items | None) -> None:
        same = other is not None and np.array_equal(other.ids, items.ids)
        self.data = data
        self.methods = {"GATE": items, **({"single feature": cast(Items, other)} if same else {})}
        self.ids = [(str(a), str(b)) for a, b in items.ids]
        self.categories = items.more["category"]
        self._counts = items.more.get("counts", items.units[:, 1])  # the latter of older runs
        self._ends = np.cumsum(self._counts)

    def predicted(self, method: str, number: int) -> Points:
        """(K, 2) in the target's pixels."""
        end = int(self._ends[number])
        start = end - int(self._counts[number])
        return np.asarray(self.methods[method].more["points"][start:end], np.float64)


def pair(matches: ExamplePairs, number: int) -> Html:
    """Source, and the target with every method's points."""
    a, b = matches.ids[number]
    here, there = matches.data.keypoints(a), matches.data.keypoints(b)
    both = here.visible & there.visible
    source, true = here.xy[both], there.xy[both]
    points_of = {method: matches.predicted(method, number) for method in matches.methods}
    uri = data_uri(matches.data.image(b))
    name = f"pair-{digest(a, uri, *(str(points) for points in points_of.values()))}"
    picture = tag("image", id=name, href=uri, width=SIDE,
                  height=_height(there), preserveAspectRatio="none")
    again = Html(f'<use href="#{name}"/>')
    panels = [tag("div", tag("b", "source"), _source(matches, a, here, source))]
    scores = []
    for i, (method, points) in enumerate(points_of.items()):
        prediction = Prediction(points, true, there)
        hits = correct(prediction, SELECT[0], SELECT[1])
        scores.append(f"{method} {int(hits.sum())} of {len(hits)}")
        marks = _marks(prediction, hits)
        panels.append(tag("div", tag("b", f"target, {method}"),
                          _picture(there, again if i else picture, marks, f"Target: {scores[-1]}")))
    category = str(matches.categories[number])
    return tag("figure", tag("div", *panels, class_="three"), tag(
        "figcaption", tag("strong", category), f": {', '.join(scores)} right. ",
        tag("small", f"{a} → {b}")))


def _source(matches: ExamplePairs, sample_id: str, points: Keypoints, at: Points) -> Html:
    image = tag("image", href=data_uri(matches.data.image(sample_id)), width=SIDE,
                height=_height(points), preserveAspectRatio="none")
    scaled = at * _scale(points)
    dots = [tag("circle", cx=_n(x), cy=_n(y), r=4.5, fill="#111", stroke=CASE, stroke_width=1.6)
            for x, y in scaled]
    return _picture(points, image, join([*dots, _numbers(scaled)]), f"Source: {len(at)} points")


def _marks(prediction: Prediction, hits: npt.NDArray[np.bool_]) -> Html:
    """A ring where right, a cross where wrong, and the way to the true place."""
    scale = _scale(prediction.target)
    predicted = np.clip(prediction.predicted * scale, 5, [SIDE - 5, _height(prediction.target) - 5])
    marks: list[Html] = []
    for (x, y), (u, v), hit in zip(predicted, prediction.true * scale, hits, strict=True):
        colour = RIGHT if hit else WRONG
        marks += [_line(x, y, u, v, CASE, 3.4), _line(x, y, u, v, colour, 1.7),
                  tag("circle", cx=_n(u), cy=_n(v), r=2.6, fill="#111", stroke=CASE,
                      stroke_width=1.2)]
    for (x, y), hit in zip(predicted, hits, strict=True):
        marks.append(ring(x, y) if hit else cross(x, y))
    return join([*marks, _numbers(predicted)])


def ring(x: float, y: float) -> Html:
    return join([tag("circle", cx=_n(x), cy=_n(y), r=5, fill="none", stroke=CASE, stroke_width=4.2),
                 tag("circle", cx=_n(x), cy=_n(y), r=5, fill="none", stroke=RIGHT,
                     stroke_width=2.4)])


def cross(x: float, y: float) -> Html:
    path = f"M{_n(x - 5)} {_n(y - 5)}l10 10m0-10l-10 10"
    return join([tag("path", d=path, stroke=CASE, stroke_width=5, stroke_linecap="round"),
                 tag("path", d=path, stroke=WRONG, stroke_width=2.8, stroke_linecap="round")])


def marks_legend(matches: ExamplePairs) -> Html:
    def key(mark: Html, words: str) -> Html:
        drawn = tag("svg", mark, viewBox="0 0 18 18", width=18, height=18, aria_hidden="true",
                    style="background: #c5d3de; border-radius: 3px")
        return tag("li", drawn, words)

    dot = tag("circle", cx=9, cy=9, r=3.2, fill="#111", stroke=CASE, stroke_width=1.2)
    alpha, radius, _ = SELECT
    return tag("ul", key(ring(9, 9), f"right: within {alpha:g} × the {radius}'s longer side"),
               key(cross(9, 9), "wrong; the line leads to the true place"),
               key(dot, "true place"), class_="legend")


def _picture(points: Keypoints, image: Html, marks: Html, alt: str) -> Html:
    height = _height(points)
    return tag("svg", image, marks, viewBox=f"0 0 {SIDE:g} {_n(height)}", role="img",
               aria_label=alt, style="overflow: hidden")


def _numbers(at: Points) -> Html:
    """Which point is which: beside each, inside the picture."""
    numbers = []
    for i, (x, y) in enumerate(at):
        left = x > SIDE - 24
        style = {"font_size": 10.5, "font_weight": 600, "text_anchor": "end" if left else "start"}
        place: dict[str, Any] = {"x": _n(x - 8 if left else x + 8), "y": _n(max(y - 4, 10))}
        numbers.append(tag("text", i + 1, **place, **style, fill="#111", stroke=CASE,
                           stroke_width=3,
                           paint_order="stroke", stroke_linejoin="round"))
    return join(numbers)


def _line(x: float, y: float, u: float, v: float, colour: str, width: float) -> Html:
    return tag("line", x1=_n(x), y1=_n(y), x2=_n(u), y2=_n(v), stroke=colour, stroke_width=width)


def _scale(points: Keypoints) -> float:
    return SIDE / points.size[1]


def _height(points: Keypoints) -> float:
    return SIDE * points.size[0] / points.size[1]


def _n(value: float) -> str:
    return f"{value:.1f}"
