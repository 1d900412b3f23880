"""In which order rows are read in an epoch: the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Order = Literal["window", "random", "sequential"]


def epoch_order(rows: Sequence[int], block: int, order: Order, window: int, seed: int,
                epoch: int) -> list[int]:
    """The rows of one epoch.

    Parameters
    ----------
    rows : numbers of the rows that are read
    block : rows of a shard
    order : ``window``: shards in random order, and their rows shuffled among `window` shards, so
        that a disk or a network reads a few files at a time; ``random``: all rows shuffled;
        ``sequential``: as given
    window : shards whose rows are shuffled together
    seed, epoch : the same pair gives the same order
    """
    if order == "sequential":
        return list(rows)
    generator = np.random.default_rng([seed, epoch])
    if order == "random":
        return [rows[i] for i in generator.permutation(len(rows))]
    blocks: dict[int, list[int]] = {}
    for row in rows:
        blocks.setdefault(row // block, []).append(row)
    groups = list(blocks.values())
    shuffled = [groups[i] for i in generator.permutation(len(groups))]
    ordered: list[int] = []
    for start in range(0, len(shuffled), window):
        near = [row for group in shuffled[start : start + window] for row in group]
        ordered += [near[i] for i in generator.permutation(len(near))]
    return ordered
