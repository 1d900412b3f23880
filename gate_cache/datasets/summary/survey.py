"""Reading all of a data set once: splits, classes, labels, points, pairs; and what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from threading import Lock
from typing import Any

from gate_cache.core.errors import DataError, counted, listed
from gate_cache.core.progress import Progress
from gate_cache.datasets.common.base import (
    IGNORED,
    SPLITS,
    ClassifiedDataset,
    CorrespondenceDataset,
    ImageDataset,
    NoClass,
    SegmentationDataset,
    Split,
    ids_of,
)
from gate_cache.datasets.common.labelled import LabelledImages
from gate_cache.datasets.pairs import LOOKS, alike
from gate_cache.datasets.summary.summary import Summary, grouped, read_all, tell_classes


def summarise(dataset: ImageDataset, show: Progress, read: bool = True) -> Summary:
    """Count what a data set holds, and collect everything that is wrong with it.

    Without `read`, only splits are counted. A `DataError` where it cannot be listed.
    """
    ids = ids_of(dataset)
    summary = Summary(dataset.name)
    try:
        splits: list[Split] = dataset.splits() if hasattr(dataset, "splits") else \
            list(map(dataset.split_of, ids)) if hasattr(dataset, "split_of") else \
            ["train"] * len(ids)
    except DataError as error:  # folders that may be splits or not
        return Summary(dataset.name, faults=[str(error)])
    counts = Counter(splits)
    summary.images = {s: counts[s] for s in SPLITS if counts[s] or hasattr(dataset, "split_of")}
    if not read:
        return summary
    summary.read = True
    if isinstance(dataset, SegmentationDataset):
        LabelCounts(dataset, summary).count(dict(zip(ids, splits, strict=True)), show)
    if isinstance(dataset, ClassifiedDataset):
        _classes(dataset, ids, splits, summary)
    if isinstance(dataset, CorrespondenceDataset):
        PointCounts(dataset, summary).count(ids, show)
    if summary.classes or summary.pairs:
        summary.notes += [f"split '{s}' has no images" for s in ("train", "test")
                          if not summary.images[s]]
    if not isinstance(dataset, ClassifiedDataset):
        _turned(dataset, ids, summary)
    summary.passed_over = dataset.passed_over() if hasattr(dataset, "passed_over") else {}
    if not summary.faults and hasattr(dataset, "notes"):
        summary.notes[:0] = dataset.notes()
    return summary


def _classes(dataset: ClassifiedDataset, ids: Sequence[str], splits: Sequence[Split],
             summary: Summary) -> None:
    """Classes of whole images, each with its split; of a data set with masks, theirs are told
    already."""
    counts = Counter[tuple[int, Split]]()
    lacking, damaged = list[DataError](), list[DataError]()
    names = dataset.classes
    try:
        counts = Counter(zip(map(dataset.label, ids), splits, strict=True))  # in C
    except DataError:
        for i, split in zip(ids, splits, strict=True):
            try:
                counts[dataset.label(i), split] += 1
            except NoClass as error:
                lacking.append(error)
            except DataError as error:
                damaged.append(error)
    summary.faults += grouped(damaged)
    if summary.pixels:
        return
    summary.classes = {name: of for number, name in enumerate(names)
                       if (of := {str(s): counts[number, s] for s in SPLITS if counts[number, s]})}
    summary.unclassed = grouped(lacking)
    summary.unclassed += [f"classes {listed(map(repr, group))} differ by {LOOKS}: call"
                          " their folders alike" for group in alike(names)]
    tell_classes(summary)


def _turned(dataset: Any, ids: Sequence[str], summary: Summary) -> None:
    from gate_cache.datasets.common.images import turned

    path = getattr(dataset, "path", None)
    count = sum(turned(path(i)) for i in ids) if path else 0
    if count:
        summary.notes.append(counted(count, "image is", "images are") + " turned as their EXIF"
                             " orientation says: labels and points must be those of the upright"
                             " picture")


MOSTLY = 0.5
"""A share above which labels are mostly ignored, and below which points are outside a box."""
ODD = 0.1
"""A share of a split's masks above which it is told that they show one class, and what is not."""


class LabelCounts:
    """Counts the pixels of a data set's masks into a summary."""

    def __init__(self, dataset: SegmentationDataset, summary: Summary) -> None:
        self.dataset, self.summary = dataset, summary
        self._raw: Counter[int] = Counter()
        self._lock = Lock()

    def count(self, of_split: dict[str, str], show: Progress) -> None:
        import numpy as np

        summary = self.summary
        if isinstance(self.dataset, LabelledImages):
            with suppress(DataError):  # which every image will raise
                self.dataset.table(next(iter(of_split)))  # once, not in every thread
        read, wrong = read_all(list(of_split), "reading labels", show, self._read)
        summary.faults += grouped(wrong)
        if isinstance(self.dataset, LabelledImages):
            summary.faults += self.dataset.faults_of(self._raw)
        names = self.dataset.classes if read else ()
        none = np.zeros((0, 256), np.int64)
        counts = {s: np.array([read[i][0] for i in read if of_split[i] == s] or none)
                  for s in SPLITS}  # (images, 256) of each split
        for k, name in enumerate(names):
            summary.classes[name] = {s: int((n[:, k] > 0).sum()) for s, n in counts.items()}
            summary.pixels[name] = {s: int(n[:, k].sum()) for s, n in counts.items()}
        summary.ignored = {s: int(n[:, IGNORED].sum()) for s, n in counts.items()}
        classes = {s: (n[:, :IGNORED] > 0).sum(1) for s, n in counts.items()}
        summary.blank = {s: int((n == 0).sum()) for s, n in classes.items()}
        plain = {s: int(((classes[s] == 1) & (n[:, IGNORED] > 0)).sum())
                 for s, n in counts.items()}
        inside = sum(inner for _, inner in read.values())
        tell_classes(summary)
        self._tell(len(read), plain, [n for k, n in enumerate(names) if not inside[k]])

    def _read(self, sample_id: str) -> tuple[Any, Any]:
        """(256,) pixels of each class, and (256,) those of them inside their class."""
        import numpy as np

        from gate_cache.datasets.common.images import thick
        from gate_cache.datasets.common.labelled import distinct

        if isinstance(self.dataset, LabelledImages):
            labels = self.dataset.labels(sample_id)
            with self._lock:
                self._raw.update(distinct(labels))
            mask = self.dataset.to_mask(sample_id, labels)
        else:
            mask = self.dataset.mask(sample_id)
        return np.bincount(mask.flat, minlength=256), thick(mask)

    def _tell(self, masks: int, plain: Mapping[Split, int], thin: list[str]) -> None:
        summary, notes = self.summary, self.summary.notes
        for split in SPLITS:
            ignored, all_of = summary.ignored[split], summary.images.get(split, 0)
            pixels = ignored + sum(c[split] for c in summary.pixels.values())
            if ignored > MOSTLY * pixels:
                share = f"{100 * ignored / pixels:.1f} %"
                notes.append(f"{share} of the pixels of split '{split}' have no class: is the"
                             " ignored label one?")
            if summary.blank[split]:
                notes.append(f"{summary.blank[split]} of the {all_of} images of split '{split}'"
                             " have no pixel of a class")
            if plain[split] > ODD * all_of:
                notes.append(f"{plain[split]} of the {all_of} masks of split '{split}' show one"
                             " class and what is ignored: is the ignored label the object?")
        small = [n for n in thin if sum(summary.pixels[n].values()) >= masks]
        if small and len(summary.pixels) > 2:
            notes.append(f"class {listed(map(repr, small))} is nowhere wider than two pixels: thin"
                         " lines, or masks that were resized with smoothing (take the nearest"
                         " neighbour)")


class PointCounts:
    """Counts a data set's key points and pairs into a summary."""

    def __init__(self, dataset: CorrespondenceDataset, summary: Summary) -> None:
        self.dataset, self.summary = dataset, summary
        self._of: Counter[str] = Counter()

    def count(self, ids: Sequence[str], show: Progress) -> None:
        """Read all key points; count pairs that share one."""
        import numpy as np

        from gate_cache.datasets.common.points import has_extent, in_box, within

        summary = self.summary
        read, wrong = read_all(ids, "reading key points", show, self.dataset.keypoints)
        summary.faults += grouped(wrong)
        outside = {i: int((np.isfinite(k.xy).all(1) & ~within(k.xy, k.size)).sum())
                   for i, k in read.items()}
        odd = [i for i, n in outside.items() if n]
        summary.points = {"visible": int(sum(k.visible.sum() for k in read.values())),
                          "outside": sum(outside.values())}
        if odd:
            summary.notes.append(counted(summary.points["outside"], "point outside its picture is",
                                         "points outside their picture are")
                                 + f" not visible (of {listed(odd, 3)})")
        places = [k.xy[np.isfinite(k.xy).all(1)] for k in read.values()]
        if any(map(len, places)) and np.concatenate(places).max() <= 1:
            summary.notes.append("all points lie in the first pixel of their picture: are they"
                                 " shares of its width and height? x and y are in pixels")
        if astray := [i for i, k in read.items() if k.visible.any() and not np.isnan(k.box).any()
                      and in_box(k.xy[k.visible], k.box).mean() < MOSTLY]:
            summary.notes.append(f"most points lie outside their object's box in"
                                 f" {counted(len(astray), 'image')} ({listed(astray, 3)}): is it"
                                 " another object's?")
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
