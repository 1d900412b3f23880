"""Classified images: those that are taken for something else most confidently, and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.report.figures.pictures import data_uri
from gate_cache.report.html.page import Column, PageCell, PageRow, paragraph, table
from gate_cache.report.html.tags import Html, join, tag

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import ClassifiedDataset
    from gate_cache.learn.metrics.items import Items

SHOWN, MANY = 12, 20
"""Images of wrong answers; classes that a table of confusions has at most."""


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
