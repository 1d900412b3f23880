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
    found = Summary(dataset.name)
    try:
        split_of = {i: dataset.split_of(i) for i in ids} if hasattr(dataset, "split_of") else {}
    except DataError as error:  # folders that may be splits or not
        return Summary(dataset.name, faults=[str(error)])
    found.images = {s: list(split_of.values()).count(s) for s in SPLITS} if split_of else \
        {"train": len(ids)}
    if not read:
        return found
    found.read = True
    of_split = {i: str(split_of.get(i, "train")) for i in ids}
    if isinstance(dataset, SegmentationDataset):
        LabelCounts(dataset, found).count(of_split, show)
    if isinstance(dataset, ClassifiedDataset):
        _classes(dataset, of_split, found)
    if isinstance(dataset, CorrespondenceDataset):
        PointCounts(dataset, found).count(ids, show)
    if found.classes or found.pairs:
        found.notes += [f"split '{s}' has no images" for s in ("train", "test")
                        if not found.images[s]]
    if not isinstance(dataset, ClassifiedDataset):
        _turned(dataset, ids, found)
    found.passed_over = dataset.passed_over() if hasattr(dataset, "passed_over") else {}
    if not found.faults and hasattr(dataset, "notes"):
        found.notes[:0] = dataset.notes()
    return found


def _classes(dataset: ClassifiedDataset, of_split: dict[str, str], found: Summary) -> None:
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
    found.faults += grouped(damaged)
    if found.pixels:
        return
    found.classes = {name: dict(counts[name]) for name in names if name in counts}
    found.unclassed = grouped(lacking)
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[name.casefold()].append(name)
    found.unclassed += [f"classes {listed(map(repr, same))} differ by case alone: call their"
                        " folders alike" for same in alike.values() if len(same) > 1]
    tell_classes(found)


def _turned(dataset: Any, ids: Sequence[str], found: Summary) -> None:
    from gate_cache.datasets.common.label_pictures import turned

    path = getattr(dataset, "path", None)
    count = sum(turned(path(i)) for i in ids) if path else 0
    if count:
        found.notes.append(f"{count} images are turned as their EXIF orientation says: labels and"
                           " points must be those of the upright picture")
