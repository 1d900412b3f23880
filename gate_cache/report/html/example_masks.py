"""Images with true and predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import IGNORED, SegmentationDataset
from gate_cache.report.figures.pictures import data_uri
from gate_cache.report.html.record import number
from gate_cache.report.html.tags import Child, Html, tag

if TYPE_CHECKING:
    from gate_cache.learn.metrics.items import Items

COLOURS = ("#4a5160", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
           "#9c9c9c", "#882255", "#44aa99", "#ddcc77", "#332288", "#117733", "#aa4499", "#661100")
"""Of classes, the most frequent first: Okabe and Ito's, then Tol's."""
Mask = npt.NDArray[np.uint8]


def masks(data: SegmentationDataset, items: Items, other: Items | None) -> list[Child]:
    """The images whose masks were kept, the best ones first."""
    scores = {str(i[0]): float(s) for i, s in zip(items.ids, items.scores, strict=True)}
    theirs = {str(i[0]): float(s) for i, s in zip(other.ids, other.scores, strict=True)} \
        if other else {}
    order = sorted(items.masks, key=lambda i: scores[i])
    half = (len(order) + 1) // 2
    true = {i: data.mask(i) for i in order}
    classes = _frequent([*true.values(), *items.masks.values()])
    parts: list[Child] = [_legend(classes, data.classes)]
    for title, ids in (("Best", order[half:][::-1]), ("Worst", order[:half])):
        figures = []
        for sample_id in ids:
            kinds = {"truth": true[sample_id], "GATE": items.masks[sample_id]}
            scores_of = [f"GATE {number(scores[sample_id])}"]
            if other and sample_id in other.masks:
                kinds["single feature"] = other.masks[sample_id]
                scores_of.append(f"single feature {number(theirs[sample_id])}")
            figures.append(_figure(data, sample_id, kinds, classes, scores_of))
        if figures:
            parts += [tag("h3", title), tag("div", *figures, class_="examples two")]
    return parts


def _figure(data: SegmentationDataset, sample_id: str, kinds: dict[str, Mask],
            classes: Sequence[int], words: Sequence[str]) -> Html:
    image = data_uri(data.image(sample_id), 256)
    panels = [tag("div", tag("b", "input"), tag("img", src=image, alt=f"Input {sample_id}"))]
    for name, mask in kinds.items():
        uri = data_uri(_coloured(mask, classes), 256, smooth=False)
        panels.append(tag("div", tag("b", name), tag("img", src=uri, alt=f"Classes: {name}",
                                                     class_="pixels")))
    return tag("figure", tag("div", *panels, class_="three four"),
               tag("figcaption", f"mIoU of the image: {', '.join(words)}. ",
                   tag("small", sample_id)))


def _coloured(mask: Mask, classes: Sequence[int]) -> Mask:
    """(H, W, 4) colours; where no class counts nothing is drawn."""
    table = np.zeros((256, 4), np.uint8)
    for place, value in enumerate(classes):
        colour = COLOURS[place % len(COLOURS)]
        table[value] = [*bytes.fromhex(colour[1:]), 255]
    table[IGNORED] = 0
    return np.asarray(table[mask])


def _frequent(masks: Sequence[Mask]) -> list[int]:
    """Classes of these masks, the most frequent first."""
    counts = sum(np.bincount(m.ravel(), minlength=256) for m in masks)
    order = np.argsort(-np.asarray(counts), kind="stable")
    return [int(i) for i in order if np.asarray(counts)[i] and i != IGNORED]


def _legend(frequent: Sequence[int], classes: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", tag("span", class_="swatch", style="background: "
                                     + COLOURS[place % len(COLOURS)]), classes[value])
                       for place, value in enumerate(frequent[:len(COLOURS)])
                       if value < len(classes)), class_="legend")
