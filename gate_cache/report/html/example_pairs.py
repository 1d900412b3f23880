"""A pair of images with predicted key points, right and wrong ones told apart by shape too."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import counted
from gate_cache.datasets.common.base import CorrespondenceDataset, Keypoints
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import SELECT, Prediction, correct
from gate_cache.report.figures.pictures import data_uri
from gate_cache.report.html.page import Html, render
from gate_cache.report.html.svg import digest

SIDE = 240
"""Width of a picture in its own units: marks are of one size on all of them."""
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
    points_of = {method: matches.predicted(method, number) for method in matches.methods}
    uri = data_uri(matches.data.image(b))
    views = [_view(here, title="source", alt=f"Source: {counted(both.sum(), 'point')}", matches=(),
                   uri=data_uri(matches.data.image(a)), points=here.xy[both] * _scale(here))]
    scores = []
    for method, points in points_of.items():
        prediction = Prediction(points, there.xy[both], there)
        hits = correct(prediction, SELECT[0], SELECT[1])
        scores.append(f"{method} {int(hits.sum())} of {len(hits)}")
        views.append(_target(prediction, hits, title=f"target, {method}", uri=uri, target=True,
                             alt=f"Target: {scores[-1]}", again=len(views) > 1))
    name = f"pair-{digest(a, uri, *(str(points) for points in points_of.values()))}"
    return render("pair", name=name, side=SIDE, views=views, source=a, target=b,
                  category=str(matches.categories[number]), scores=", ".join(scores))


def _view(picture: Keypoints, **about: Any) -> dict[str, Any]:
    return {"height": SIDE * picture.size[0] / picture.size[1], "again": False, "target": False,
            **about}


def _target(prediction: Prediction, hits: npt.NDArray[np.bool_], **about: Any) -> dict[str, Any]:
    """A view in which predicted points stay inside the picture, so that their marks are seen."""
    view = _view(prediction.target, **about)
    scale, (right, bottom) = _scale(prediction.target), (SIDE - 5, view["height"] - 5)
    points = np.clip(prediction.predicted * scale, 5, [right, bottom])
    matches = list(zip(points, prediction.true * scale, hits, strict=True))
    return {**view, "points": points, "matches": matches}


def pairs_legend() -> Html:
    alpha, radius, _ = SELECT
    return render("pair_legend", alpha=alpha, radius=radius)


def _scale(points: Keypoints) -> float:
    return SIDE / points.size[1]
