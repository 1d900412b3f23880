"""Counting key points, and the pairs that share them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from gate_cache.core.errors import listed
from gate_cache.core.progress import Progress
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset
from gate_cache.datasets.summary.summary import Summary, grouped, read_all


class PointCounts:
    """Counts a data set's key points and pairs into a summary."""

    def __init__(self, dataset: CorrespondenceDataset, summary: Summary) -> None:
        self.dataset, self.summary = dataset, summary
        self._of: Counter[str] = Counter()

    def count(self, ids: Sequence[str], show: Progress) -> None:
        """Read all key points; count pairs that share one."""
        import numpy as np

        from gate_cache.datasets.common.points import has_extent, within

        summary = self.summary
        read, wrong = read_all(ids, "reading key points", show, self.dataset.keypoints)
        summary.faults += grouped(wrong)
        outside = {i: int((np.isfinite(k.xy).all(1) & ~within(k.xy, k.size)).sum())
                   for i, k in read.items()}
        odd = [i for i, n in outside.items() if n]
        summary.points = {"visible": int(sum(k.visible.sum() for k in read.values())),
                          "outside": sum(outside.values())}
        if odd:
            summary.notes.append(f"{summary.points['outside']} points lie outside their picture and"
                                 f" are not visible (of {listed(odd, 3)})")
        summary.boxless = sum(not has_extent(k.box) for k in read.values())
        if summary.boxless:
            summary.notes.append(f"{summary.boxless} of {len(read)} images have a box without"
                                 " extent: there is no PCK of the box for them as targets")
        if not wrong:
            self._pairs({i: k.visible for i, k in read.items()})

    def _pairs(self, visible: dict[str, Any]) -> None:
        summary, members = self.summary, defaultdict[str, dict[str, None]](dict)
        pairs = {str(split): self.dataset.pairs(split) for split in SPLITS}
        for p in chain.from_iterable(pairs.values()):
            members[p.category].update({p.source: None, p.target: None})
        if uneven := _uneven(visible, members):
            summary.faults += [f"{summary.name}: {line}" for line in uneven]
            return
        for split, those in pairs.items():
            summary.pairs[split] = len(those)
            summary.shared[split] = sum(bool((visible[p.source] & visible[p.target]).any())
                                        for p in those)
            self._of.update(p.category for p in those)
        if sum(summary.pairs.values()) and not sum(summary.shared.values()):
            summary.notes.append("no two images of a pair have a point of one name that is visible"
                                 " in both")
        if category := getattr(self.dataset, "category", None):
            for i in visible:
                members[category(i)][i] = None
        summary.categories = {name: len(of) for name, of in sorted(members.items())}
        summary.category_pairs = dict(self._of)
        names = getattr(self.dataset, "point_names", None)
        summary.point_names = names() if names else {
            name: [str(k) for k in range(len(visible[next(iter(of))]))
                   if any(visible[i][k] for i in of)] for name, of in sorted(members.items())}


def _uneven(visible: Mapping[str, Any], members: Mapping[str, Iterable[str]]) -> list[str]:
    """Categories whose images have different numbers of points, which then mean nothing."""
    lines = []
    for name, of in members.items():
        counts = {len(visible[i]): i for i in of}
        if len(counts) > 1:
            which = listed((f"{n} in {i}" for n, i in sorted(counts.items())), 3)
            lines.append(f"images of category '{name}' have different numbers of points ({which}),"
                         " so which is which is not known; give all as many (NaN for none)")
    return lines
