"""Examples from ``test``, as pictures: where GATE is best, and where it is worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gate_cache.core.errors import GateCacheError
from gate_cache.core.places import parse_place
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import (
    ClassifiedDataset,
    CorrespondenceDataset,
    ImageDataset,
    SegmentationDataset,
)
from gate_cache.learn.metrics.items import Items
from gate_cache.manifest.specs import OF_A_RUN, Manifest
from gate_cache.report.html.compare import Verdict
from gate_cache.report.html.example_images import confusions, masks, tiles
from gate_cache.report.html.example_pairs import ExamplePairs, marks_legend, pair
from gate_cache.report.html.page import Section, paragraph, section
from gate_cache.report.html.record import Record, Result
from gate_cache.report.html.tags import Child, tag
from gate_cache.workspace.data_root import dataset_near

EACH, MOST = 2, 200
"""Pairs shown of every kind, and those that are looked at for different ones."""


def examples(record: Record, verdict: Verdict | None, roots: Roots) -> Section | None:
    """The best and the worst items of test, as far as there are images of them."""
    gate = next((r for r in (verdict.gate.results if verdict else ()) if r.items), None)
    if not verdict or not gate or not gate.items:
        return section("Examples", paragraph("This run kept no results item by item: it was made by"
                                             " an earlier version.")) if verdict else None
    single = _beside(verdict, gate)
    try:
        spec = Manifest.model_validate(dict(record.manifest), context=OF_A_RUN).dataset
        data, _ = dataset_near(parse_place(str(record.config.get("store", ""))), spec, roots)
        parts = _parts(data, gate, single)
    except (GateCacheError, ValueError, OSError, KeyError, LookupError) as error:
        why = " ".join(str(error).split())[:200]
        parts = [paragraph(f"The data set's images are not here: {why}."
                           f" 'gate-cache report {record.folder.name} --data …' draws them.")]
    of_trial = paragraph(f"Of {gate.name}.", note=True) if record.kind == "sweep" else None
    return section("Examples", of_trial, *parts)


def _beside(verdict: Verdict, gate: Result) -> Result | None:
    """The single feature, of the same seed where there are several."""
    base = verdict.baselines.get("baseline")
    with_items = [r for r in (base.results if base else ()) if r.items]
    of_seed = [r for r in with_items if r.spec.get("seed") == gate.spec.get("seed")]
    return next(iter(of_seed or with_items), None)


def _parts(data: ImageDataset, gate: Result, single: Result | None) -> list[Child]:
    items, other = gate.items, single.items if single else None
    assert items is not None
    if "points" in items.more and isinstance(data, CorrespondenceDataset):
        return _pairs(data, items, other)
    if "predicted" in items.more and isinstance(data, ClassifiedDataset):
        return [tiles(data, items), confusions(items, list(gate.details.get("accuracy") or ()))]
    if isinstance(data, SegmentationDataset) and items.masks:
        return masks(data, items, other)
    return [paragraph("The folder holds nothing that could be drawn.")]


def _pairs(data: CorrespondenceDataset, items: Items, other: Items | None) -> list[Child]:
    matches = ExamplePairs(data, items, other)
    best, worst, gained = _chosen(data, items, other)
    parts: list[Child] = [marks_legend(matches)]
    for title, numbers in (("Best", best), ("Worst", worst),
                           ("Where GATE and the single feature differ most", gained)):
        if numbers:
            parts += [tag("h3", title),
                      tag("div", *(pair(matches, i) for i in numbers), class_="examples")]
    return parts


def _chosen(data: ImageDataset, items: Items,
            other: Items | None) -> tuple[list[int], list[int], list[int]]:
    """Of equal scores those with more points; of different categories and images where it goes."""
    scores, counts = items.scores, items.units[:, 1]

    def keys(number: int) -> set[str]:
        contents = {data.sha256(str(i)) for i in items.ids[number]}  # there are copies of files
        return {str(items.more["category"][number]), *contents}

    usable = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    worst = varied(sorted(usable, key=lambda i: scores[i]), keys, EACH)
    best = varied([i for i in sorted(usable, key=lambda i: -scores[i]) if i not in worst], keys,
                  EACH)
    if other is None or len(other.scores) != len(scores):
        return best, worst, []
    apart = np.abs(items.units[:, 0] - other.units[:, 0])
    rest = [i for i in sorted(usable, key=lambda i: -apart[i])
            if apart[i] and i not in (*best, *worst)]
    return best, worst, varied(rest, keys, 2)


def varied(order: Sequence[int], keys: Callable[[int], set[str]], count: int) -> list[int]:
    """The first of an order that share no key; filled up with the next ones where they run out."""
    chosen: list[int] = []
    used: set[str] = set()
    for i in order[:MOST]:
        if len(chosen) < count and not used & (own := keys(i)):
            chosen.append(i)
            used |= own
    return [*chosen, *(i for i in order if i not in chosen)][:count]


