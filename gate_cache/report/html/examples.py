"""Examples from ``test``, as pictures: where GATE is best, and where it is worst.

Pairs of images, masks, or single images with their classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

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
from gate_cache.manifest.specs import Manifest
from gate_cache.manifest.train_spec import OF_A_RUN
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
from gate_cache.report.html.compare import Verdict
from gate_cache.report.html.example_pairs import ExamplePairs, pair, pairs_legend
from gate_cache.report.html.page import (
    Child,
    Column,
    Html,
    PageCell,
    PageRow,
    Section,
    heading,
    join,
    paragraph,
    render,
    section,
    table,
)
from gate_cache.report.html.record import Record, Result, number
from gate_cache.workspace.data_root import dataset_near

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
    half = (len(order) + 1) // 2  # kept are as many of the best as of the worst (`keep_items`)
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
            figures.append({"id": sample_id, "panels": _panels(data, sample_id, by_method, look),
                            "words": f"mIoU of the image: {', '.join(lines)}. "})
        if figures:
            parts += [heading(title), render("examples", looks="examples two", figures=figures)]
    return parts


def _panels(data: SegmentationDataset, sample_id: str, by_method: dict[str, Mask],
            look: Mapping[int, Style]) -> list[tuple[str, str, str]]:
    """Title, picture and what it shows of the image and its masks."""
    panels = [("input", data_uri(data.image(sample_id), SIDE), f"Input {sample_id}")]
    for name, mask in by_method.items():
        shown = painted(enlarged(mask, SIDE), look, enlarged(by_method["truth"], SIDE))
        panels.append((name, data_uri(shown, SIDE, smooth=False), f"Classes: {name}"))
    return panels


def _legend(frequent: Iterable[int], names: Sequence[str], look: Mapping[int, Style]) -> Html:
    shown = [(names[k], look[k]) if k in look else ("ignored", IGNORE) for k in frequent]
    return render("classes", classes=[
        (name, data_uri(figure(style, (SWATCH, SWATCH)), smooth=False)) for name, style in shown])


def tiles(data: ClassifiedDataset, items: Items) -> Html:
    """The most confidently wrong answers, and a few of the least sure right ones."""
    true, predicted = items.more["true"].astype(int), items.more["predicted"].astype(int)
    order = np.argsort(-items.more["confidence"], kind="stable")
    wrong = [int(i) for i in order if true[i] != predicted[i]]
    right = [int(i) for i in order[::-1] if true[i] == predicted[i]]
    parts = [heading("Most confidently wrong"),
             _tiles(data, items, wrong[:SHOWN]) if wrong else
             paragraph("No answer on test is wrong.")]
    if right:
        parts += [heading("Right, but least sure"), _tiles(data, items, right[:SHOWN // 3])]
    return join(parts)


def _tiles(data: ClassifiedDataset, items: Items, chosen: Sequence[int]) -> Html:
    figures = []
    for i in chosen:
        sample_id = str(items.ids[i, 0])
        true, predicted = (data.classes[int(items.more[k][i])] for k in ("true", "predicted"))
        right = Html("<strong>{true}</strong> ({sure:.0f}\u00a0%)<br>")
        wrong = Html("taken for <strong>{predicted}</strong> ({sure:.0f}\u00a0%), is"
                     " <strong>{true}</strong><br>")
        words = (right if true == predicted else wrong).format(
            true=true, predicted=predicted, sure=100 * items.more["confidence"][i])
        figures.append({"id": sample_id, "uri": data_uri(data.image(sample_id), 192),
                        "words": words, "panels": ()})
    return render("examples", looks="tiles", figures=figures)


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
    return join([heading("Confusions"), table(
        [Column("True class"), *(Column(n) for n in names)], rows,
        "Images of test: true classes in rows, answers in columns")])


PAIRS, MOST = 2, 200
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
    parts: list[Child] = [pairs_legend()]
    for title, numbers in (("Best", best), ("Worst", worst),
                           ("Where GATE and the single feature differ most", gained)):
        if numbers:
            shown = join(pair(matches, i) for i in numbers)
            parts += [heading(title), Html('<div class="examples">{}</div>').format(shown)]
    return parts


def _chosen(data: ImageDataset, items: Items,
            other: Items | None) -> tuple[list[int], list[int], list[int]]:
    """Of equal scores those with more points; of different categories and images where it goes."""
    scores, counts = items.scores, items.units[:, 1]

    def keys(number: int) -> set[str]:
        contents = {data.sha256(str(i)) for i in items.ids[number]}  # there are copies of files
        return {str(items.more["category"][number]), *contents}

    usable = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    worst = varied(sorted(usable, key=lambda i: scores[i]), keys, PAIRS)
    best = varied([i for i in sorted(usable, key=lambda i: -scores[i]) if i not in worst], keys,
                  PAIRS)
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
