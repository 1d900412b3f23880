"""Pairs of images: as published lists name them, and all inside groups."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import overload

from gate_cache.core.errors import DataError, counted
from gate_cache.datasets.common.base import SPLITS, Pair, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder


class PairsWithin(Sequence[Pair]):
    """All ordered pairs inside each group, in the order of `itertools.permutations`.

    Parameters
    ----------
    groups : category and samples of each group
    """

    def __init__(self, groups: Iterable[tuple[str, Sequence[str]]]) -> None:
        self.groups = [(name, list(ids)) for name, ids in groups if len(ids) > 1]
        self._ends = [0, *accumulate(len(ids) * (len(ids) - 1) for _, ids in self.groups)]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        place = range(len(self))[index]  # which knows slices, negative indices and IndexError
        if isinstance(place, range):
            return [self[i] for i in place]
        number = bisect_right(self._ends, place) - 1
        name, ids = self.groups[number]
        source, target = divmod(place - self._ends[number], len(ids) - 1)
        return Pair(ids[source], ids[target + (target >= source)], name)  # none with itself

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and \
            all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def notes_on(table: str, pairs: Sequence[Pair]) -> Iterator[str]:
    """What is improbable in a list of pairs: images with themselves, and what is there again."""
    if itself := sum(p.source == p.target for p in pairs):
        yield (f"{table}: of an image with itself: {counted(itself, 'pair')}, whose points are"
               " easily found")
    if again := len(pairs) - len(set(pairs)):
        yield f"{table}: listed again: {counted(again, 'pair')}, counted as often"


class ListedPairs(ImageFiles):
    """Base: images are those of the lists, each with one file of key points.

    An image that several lists name belongs to the last of train, val and test.
    """

    expected: str

    def annotation(self, sample_id: str) -> Path:
        """The file with an image's key points."""
        raise NotImplementedError

    def list_file(self, split: Split) -> Path:
        """The published list of a split's pairs."""
        raise NotImplementedError

    @property
    def tables(self) -> tuple[Path, ...]:
        return tuple(self.list_file(split) for split in SPLITS)

    def read_list(self, split: Split) -> list[Pair]:
        """The published pairs of a split, in their order."""
        raise NotImplementedError

    @cached_property
    def _lists(self) -> dict[Split, list[Pair]]:
        return {split: self.read_list(split) for split in SPLITS}

    @cached_property
    def _splits(self) -> dict[str, Split]:
        return {i: split for split, pairs in self._lists.items() for p in pairs
                for i in (p.source, p.target)}

    def samples(self) -> Sequence[Sample]:
        need_folder(self.root, self.name, self.expected)
        ids = sorted(self._splits)
        if not ids:
            raise DataError(f"{self.root}: the lists name no pair; {self.expected}")
        for paths, what in ((map(self.path, ids), "image"),
                            (map(self.annotation, ids), "file of key points")):
            lacking = [p for p in dict.fromkeys(paths) if not p.is_file()]
            if lacking:
                more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
                raise DataError(f"{lacking[0]}: {what} not found{more}; {self.expected}")
        return [Sample(i) for i in ids]

    def sources(self, sample_id: str) -> tuple[Path, ...]:
        return self.path(sample_id), self.annotation(sample_id)

    def notes(self) -> list[str]:
        """What is improbable in the lists, a line for each kind."""
        uses = Counter(i for pairs in self._lists.values()
                       for i in {i for p in pairs for i in (p.source, p.target)})
        several = sum(n > 1 for n in uses.values())
        return [*(n for s, pairs in self._lists.items()
                  for n in notes_on(self.list_file(s).name, pairs)),
                *([f"in the lists of several splits: {several} of {len(uses)} images, so results"
                   " are not of unseen images alone"] if several else [])]

    def split_of(self, sample_id: str) -> Split:
        return self._splits[sample_id]

    def pairs(self, split: Split | None) -> list[Pair]:
        return [p for s in SPLITS if split in (None, s) for p in self._lists[s]]
