"""Reading all of a data set once: splits, classes, labels, points, pairs; and what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from gate_cache.core.errors import DataError, listed
from gate_cache.core.progress import Progress
from gate_cache.datasets.common.base import (
    SPLITS,
    ClassifiedDataset,
    CorrespondenceDataset,
    ImageDataset,
    NoClass,
    SegmentationDataset,
)
from gate_cache.datasets.common.point_table import same_but_case
from gate_cache.datasets.summary.label_counts import LabelCounts
from gate_cache.datasets.summary.point_counts import PointCounts
from gate_cache.datasets.summary.summary import Summary, grouped, tell_classes


def summarise(dataset: ImageDataset, show: Progress, read: bool = True) -> Summary:
    """Count what a data set holds, and collect everything that is wrong with it.

    Parameters
    ----------
    read : all labels and points; else only splits are counted

    Raises
    ------
    DataError
        It cannot be listed.
    """
    ids = [s.id for s in dataset.samples()]
    summary = Summary(dataset.name)
    try:
        split_of = {i: dataset.split_of(i) for i in ids} if hasattr(dataset, "split_of") else {}
    except DataError as error:  # folders that may be splits or not
        return Summary(dataset.name, faults=[str(error)])
    counts = Counter(split_of.values())
    summary.images = {s: counts[s] for s in SPLITS} if split_of else {"train": len(ids)}
    if not read:
        return summary
    summary.read = True
    of_split = split_of or dict.fromkeys(ids, "train")
    if isinstance(dataset, SegmentationDataset):
        LabelCounts(dataset, summary).count(of_split, show)
    if isinstance(dataset, ClassifiedDataset):
        _classes(dataset, of_split, summary)
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


def _classes(dataset: ClassifiedDataset, of_split: dict[str, str], summary: Summary) -> None:
    """Classes of whole images; of a data set with masks, theirs are told already."""
    counts = defaultdict[str, Counter[str]](Counter)
    lacking, damaged = list[DataError](), list[DataError]()
    names = dataset.classes
    for i, split in of_split.items():
        try:
            counts[names[dataset.label(i)]][split] += 1
        except NoClass as error:
            lacking.append(error)
        except DataError as error:
            damaged.append(error)
    summary.faults += grouped(damaged)
    if summary.pixels:
        return
    summary.classes = {name: dict(counts[name]) for name in names if name in counts}
    summary.unclassed = grouped(lacking)
    summary.unclassed += [f"classes {listed(map(repr, alike))} differ by case alone: call their"
                          " folders alike" for alike in same_but_case(names)]
    tell_classes(summary)


def _turned(dataset: Any, ids: Sequence[str], summary: Summary) -> None:
    from gate_cache.datasets.common.label_pictures import turned

    path = getattr(dataset, "path", None)
    count = sum(turned(path(i)) for i in ids) if path else 0
    if count:
        summary.notes.append(f"{count} images are turned as their EXIF orientation says: labels and"
                             " points must be those of the upright picture")
