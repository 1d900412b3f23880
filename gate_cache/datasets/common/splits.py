"""Splits that a data set does not publish: seeded shares, and folders called after splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from gate_cache.datasets.common.base import SPLITS, Split

Shares = Mapping[Literal["val", "test"], float]


def order(seed: int, key: str) -> str:
    """A place in a seeded order that does not depend on what else is ordered."""
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()


def deal(groups: Iterable[Sequence[str]], shares: Shares, seed: int) -> dict[str, Split]:
    """Split every group of ids: its shares of ``test`` and ``val``, the rest is ``train``."""
    found: dict[str, Split] = {}
    for ids in groups:
        ranked = sorted(ids, key=lambda i: order(seed, i))
        test, val = (round(shares.get(s, 0) * len(ranked)) for s in ("test", "val"))
        found |= dict.fromkeys(ranked, "train")
        found |= dict.fromkeys(ranked[:test], "test")
        found |= dict.fromkeys(ranked[test:test + val], "val")
    return found


def with_val(train: Sequence[str], test: Iterable[str], val: float,
             seed: int) -> dict[str, Split]:
    """Published train and test images, with a share of the former as ``val``."""
    return {**deal([train], {"val": val}, seed), **dict.fromkeys(test, "test")}


class Tree:
    """What the paths of a tree of images say: the split and the class of each.

    Where there is a folder ``train``, the first folder of a path is its split; the folder after
    that, or the first one, is its class. A split without a folder is a seeded share of the images
    of ``train``, class by class.

    Parameters
    ----------
    ids : paths with ``/`` between parts
    """

    def __init__(self, ids: Sequence[str], shares: Shares, seed: int) -> None:
        named = {i.split("/")[0] for i in ids if "/" in i}
        self._folders = named & set(SPLITS) if "train" in named else set()
        self.class_of = {i: self._class(i) for i in ids}
        self.split_of = self._splits({s: n for s, n in shares.items() if s not in self._folders},
                                     seed)

    def _class(self, sample_id: str) -> str | None:
        folders = sample_id.split("/")[:-1]
        if folders and folders[0] in self._folders:
            del folders[0]
        return folders[0] if folders else None

    def _splits(self, shares: Shares, seed: int) -> dict[str, Split]:
        fixed: dict[str, Split] = {}
        groups: dict[str | None, list[str]] = defaultdict(list)
        for i, name in self.class_of.items():
            split = next((s for s in self._folders if i.startswith(f"{s}/")), "train")
            if split == "train":
                groups[name].append(i)
            else:
                fixed[i] = "val" if split == "val" else "test"
        return {**deal(groups.values(), shares, seed), **fixed}
