"""What a data set holds, as plain data, and what those share who count it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from gate_cache.core.errors import DataError, listed
from gate_cache.core.progress import Progress

Value = TypeVar("Value")
Counts = dict[str, int]
THREADS = 4


@dataclass
class Summary:
    """What a data set holds; plain data.

    Attributes
    ----------
    images : of each split
    read : whether labels and points were read; without, only `images` is known
    classes : class to the images of each split that are of it, or show it
    pixels : class to its pixels in each split
    ignored : pixels of each split that have no class
    blank : images of each split without a pixel of a class
    categories : category to its images; key points mean the same inside one
    category_pairs : category to its pairs, over all splits
    point_names : category to the names or the number of its points
    points : how many are ``visible`` and ``outside`` their picture
    boxless : images whose box has no extent, so that there is no PCK of the box
    pairs, shared : of each split; how many of them share a visible point
    passed_over : files that are not read, by suffix
    notes : what to know, a line each
    faults : what is wrong, a line each with how often it occurs
    unclassed : what is wrong only for a training of classes
    """

    name: str
    images: Counts = field(default_factory=dict)
    read: bool = False
    classes: dict[str, Counts] = field(default_factory=dict)
    pixels: dict[str, Counts] = field(default_factory=dict)
    ignored: Counts = field(default_factory=dict)
    blank: Counts = field(default_factory=dict)
    categories: Counts = field(default_factory=dict)
    category_pairs: Counts = field(default_factory=dict)
    point_names: dict[str, list[str]] = field(default_factory=dict)
    points: Counts = field(default_factory=dict)
    boxless: int = 0
    pairs: Counts = field(default_factory=dict)
    shared: Counts = field(default_factory=dict)
    passed_over: Counts = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unclassed: list[str] = field(default_factory=list)


def grouped(errors: Iterable[DataError]) -> list[str]:
    """Errors of one kind as one line: the first of them, and how many more there are."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for error in errors:
        text = str(error)
        kinds[re.sub(r"[\d#][0-9a-f]*", "#", text.partition(": ")[2] or text)].append(text)
    return [f"{lines[0]}{f' ({len(lines)} files)' if len(lines) > 1 else ''}"
            for lines in kinds.values()]


def read_all(ids: Sequence[str], label: str, show: Progress,
          read: Callable[[str], Value]) -> tuple[dict[str, Value], list[DataError]]:
    """Read something of every sample, in threads: values by id, and the errors of the others."""
    def tried(sample_id: str) -> Value | DataError:
        try:
            return read(sample_id)
        except DataError as error:
            return error

    values: dict[str, Value] = {}
    errors: list[DataError] = []
    with show.task(label, len(ids), "images") as task, ThreadPoolExecutor(THREADS) as pool:
        for sample_id, value in zip(ids, pool.map(tried, ids), strict=True):
            if isinstance(value, DataError):
                errors.append(value)
            else:
                values[sample_id] = value
            task.advance()
    return values, errors


def tell_classes(summary: Summary) -> None:
    """Classes that cannot be learnt, or that do not occur."""
    nowhere = [n for n, counts in summary.classes.items() if not any(counts.values())]
    if nowhere:
        summary.notes.append(f"{len(nowhere)} of {len(summary.classes)} classes never occur:"
                             f" {listed(nowhere)}")
    unseen = {name: {s: n for s, n in counts.items() if n} for name, counts in
              summary.classes.items() if any(counts.values()) and not counts.get("train")}
    if 0 < len(unseen) < len(summary.classes) - len(nowhere):
        names = (f"{name} ({', '.join(f'{n} in {s}' for s, n in counts.items())})"
                 for name, counts in unseen.items())
        summary.notes.append("in no training image, so they cannot be learnt: classes"
                             f" {listed(names, 8)}")


def labelled_pixels(summary: Summary) -> tuple[int, int]:
    """How many pixels have a class, and how many are ignored."""
    return (sum(sum(c.values()) for c in summary.pixels.values()), sum(summary.ignored.values()))
