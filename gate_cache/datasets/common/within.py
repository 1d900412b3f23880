"""Ordered pairs inside groups of images, none of which is held: there are as many as squares."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import overload

from gate_cache.datasets.common.base import Pair


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
        found = range(len(self))[index]
        if isinstance(found, range):
            return [self[i] for i in found]
        number = bisect_right(self._ends, found) - 1
        name, ids = self.groups[number]
        source, target = divmod(found - self._ends[number], len(ids) - 1)
        return Pair(ids[source], ids[target + (target >= source)], name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and \
            all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
