"""Examples of single images: true and predicted masks; classes and their confusions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import ClassifiedDataset, SegmentationDataset
from gate_cache.learn.metrics.items import Items
from gate_cache.report.figures.masks import (
    IGNORE,
    SWATCH,
    Style,
    areas,
    enlarged,
    figure,
    painted,
    styles,
)
from gate_cache.report.figures.pictures import data_uri
from gate_cache.report.html.page import Column, PageCell, PageRow, paragraph, table
from gate_cache.report.html.record import number
from gate_cache.report.html.tags import Child, Html, join, tag

SHOWN, MANY = 12, 20
"""Images of wrong answers; classes that a table of confusions has at most."""
SIDE = 256
"""Longer side of a picture, in pixels."""
Mask = npt.NDArray[np.uint8]


def masks(data: SegmentationDataset, items: Items, other: Items | None) -> list[Child]:
    """The images whose masks were kept, the best ones first."""
    scores = {str(i[0]): float(s) for i, s in zip(items.ids, items.scores, strict=True)}
    theirs = {str(i[0]): float(s) for i, s in zip(other.ids, other.scores, strict=True)} \
        if other else {}
    order = sorted(items.masks, key=lambda i: scores[i])
    half = (len(order) + 1) // 2
    true = {i: data.mask(i) for i in order}
    look = styles(data.classes)
    pixels = areas([*true.values(), *items.masks.values()])
    classes = sorted(pixels, key=lambda k: (-pixels[k], k))
    parts: list[Child] = [_legend(classes, data.classes, look)]
    for title, ids in (("Best", order[half:][::-1]), ("Worst", order[:half])):
        figures = []
        for sample_id in ids:
            by_method = {"truth": true[sample_id], "GATE": items.masks[sample_id]}
            lines = [f"GATE {number(scores[sample_id])}"]
            if other and sample_id in other.masks:
                by_method["single feature"] = other.masks[sample_id]
                lines.append(f"single feature {number(theirs[sample_id])}")
            figures.append(_figure(data, sample_id, by_method, look, lines))
        if figures:
            parts += [tag("h3", title), tag("div", *figures, class_="examples two")]
    return parts


def _figure(data: SegmentationDataset, sample_id: str, by_method: dict[str, Mask],
            look: Mapping[int, Style], words: Sequence[str]) -> Html:
    image = data_uri(data.image(sample_id), SIDE)
    panels = [tag("div", tag("b", "input"), tag("img", src=image, alt=f"Input {sample_id}"))]
    for name, mask in by_method.items():
        shown = painted(enlarged(mask, SIDE), look, enlarged(by_method["truth"], SIDE))
        uri = data_uri(shown, SIDE, smooth=False)
        panels.append(tag("div", tag("b", name), tag("img", src=uri, alt=f"Classes: {name}",
                                                     class_="pixels")))
    return tag("figure", tag("div", *panels, class_="three four"),
               tag("figcaption", f"mIoU of the image: {', '.join(words)}. ",
                   tag("small", sample_id)))


def _legend(frequent: Iterable[int], classes: Sequence[str], look: Mapping[int, Style]) -> Html:
    return tag("ul", *(tag("li", tag("img", src=data_uri(figure(style, (SWATCH, SWATCH)),
                                                         smooth=False), alt="", class_="swatch"),
                           name)
                       for name, style in ((classes[k], look[k]) if k in look else
                                           ("ignored", IGNORE) for k in frequent)),
               class_="legend")


def tiles(data: ClassifiedDataset, items: Items) -> Html:
    """The most confidently wrong answers, and a few of the least sure right ones."""
    true, predicted = items.more["true"].astype(int), items.more["predicted"].astype(int)
    order = np.argsort(-items.more["confidence"], kind="stable")
    wrong = [int(i) for i in order if true[i] != predicted[i]]
    right = [int(i) for i in order[::-1] if true[i] == predicted[i]]
    parts = [tag("h3", "Most confidently wrong"),
             _tiles(data, items, wrong[:SHOWN]) if wrong else
             paragraph("No answer on test is wrong.")]
    if right:
        parts += [tag("h3", "Right, but least sure"), _tiles(data, items, right[:SHOWN // 3])]
    return join(parts)


def _tiles(data: ClassifiedDataset, items: Items, chosen: Sequence[int]) -> Html:
    figures = []
    for i in chosen:
        sample_id = str(items.ids[i, 0])
        true, predicted = (data.classes[int(items.more[k][i])] for k in ("true", "predicted"))
        sure = f"{100 * items.more['confidence'][i]:.0f}\u00a0%"
        words = ["taken for ", tag("strong", predicted), f" ({sure}), is ", tag("strong", true)] \
            if true != predicted else [tag("strong", true), f" ({sure})"]
        figures.append(tag("figure", tag("img", src=data_uri(data.image(sample_id), 192),
                                         alt=f"Test image {sample_id}"),
                           tag("figcaption", *words, tag("br"), tag("small", sample_id))))
    return tag("div", *figures, class_="tiles")


def confusions(items: Items, names: Sequence[str]) -> Html:
    """How often each class was taken for each; nothing where there are many classes."""
    if not 1 < len(names) <= MANY:
        return Html("")
    true, predicted = items.more["true"].astype(int), items.more["predicted"].astype(int)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (true, predicted), 1)
    rows = [PageRow([name, *(PageCell(int(n) or "·", int(n), strong=i == j)
                             for j, n in enumerate(row))])
            for i, (name, row) in enumerate(zip(names, counts, strict=True))]
    return join([tag("h3", "Confusions"), table(
        [Column("True class"), *(Column(n) for n in names)], rows,
        "Images of test: true classes in rows, answers in columns")])
