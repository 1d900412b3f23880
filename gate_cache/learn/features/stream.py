"""Whole samples of a store as a torch data set, streamed at the speed of memory.

A DataLoader's worker processes, in which it works all the same, copy every sample through shared
memory; threads of this process need not. A loop that is done with a sample before it takes the
next may ask for memory that is used again (``reuse``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from gate_cache.core.errors import UserError, did_you_mean
from gate_cache.learn.features.layout import Layout, Maps, views_of
from gate_cache.learn.features.samples import SampleBuffer, SampleReader

if TYPE_CHECKING:
    from gate_cache.store.reader import FeatureStore


class StreamedSample(NamedTuple):
    """One image's maps.

    Attributes
    ----------
    row : of the store; its id is ``store.samples[row]``
    maps : in the stored dtype (float32 of int8); memory of the sample's own, unless the stream is
        to use it again
    """

    row: int
    maps: Maps


class FeatureStream(IterableDataset[StreamedSample]):
    """All samples once an epoch, in seeded order.

    Parameters
    ----------
    store : an open store; its ``check`` says when checksums are compared
    combos : combo names, or combo name to the maps wanted of it
    rows : rows of the store; all by default
    order : ``window``, ``random`` or ``sequential``, see `epoch_order`
    window : shards whose rows are shuffled together
    seed : of the order
    threads : that read ahead; 0 reads when a sample is asked for; by default 2 to 4, more for a
        server, and 0 for samples of less than half a megabyte, where handing over costs more than
        reading
    ahead : samples read ahead
    reuse : use memory again, for speed: a sample is valid until `keep` later ones were taken; clone
        what has to live longer. Copies to a GPU that were asked for by then, on the current stream
        of the thread that iterates, are waited for
    keep : samples that stay valid under `reuse`, at least 1
    pin : page-locked memory; by default where there is a CUDA device

    Raises
    ------
    UserError
        An argument cannot be, such as a row that the store does not have.
    RowNotDone
        At the start of an epoch, where a row is not extracted.
    StoreError
        Where a row turns out to be damaged.

    Examples
    --------
    >>> stream = FeatureStream(store, ["prompt-0", "prompt-1"])   # doctest: +SKIP
    >>> for epoch in range(3):                                    # doctest: +SKIP
    ...     stream.set_epoch(epoch)
    ...     for sample in stream:
    ...         maps = sample.maps["prompt-0"]["up2"].to(device, non_blocking=True)
    """

    def __init__(self, store: FeatureStore,
                 combos: Sequence[str] | Mapping[str, Sequence[str] | None],
                 rows: Sequence[int] | None = None, *, order: Order = "window", window: int = 8,
                 seed: int = 0, threads: int | None = None, ahead: int = 4, reuse: bool = False,
                 keep: int = 1, pin: bool | None = None) -> None:
        self.store = store
        self.rows = range(len(store.samples)) if rows is None else rows
        self._views = views_of(store, combos)
        self._order: Order = order
        self._window, self._seed, self._epoch = window, seed, 0
        self._threads, self._ahead, self._pin = threads, ahead, pin
        self._reuse, self._keep = reuse, keep
        for name, value, least in (("window", window, 1), ("threads", threads or 0, 0),
                                   ("ahead", ahead, 1), ("keep", keep, 1), ("seed", seed, 0)):
            if value < least:
                raise UserError(f"FeatureStream: {name}={value}: must be at least {least}")
        if order not in get_args(Order):
            raise UserError(f"FeatureStream: order='{order}'{did_you_mean(order, get_args(Order))};"
                            f" there are {', '.join(get_args(Order))}")
        count = len(store.samples)
        if wrong := [row for row in self.rows if not 0 <= row < count] \
                if rows is not None else []:
            raise UserError(f"FeatureStream: rows: {store.path} has no row {wrong[0]}; it has rows"
                            f" 0 to {count - 1}")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def order(self) -> list[int]:
        """The rows of this epoch, in order."""
        return epoch_order(self.rows, self.store.block, self._order, self._window, self._seed,
                           self._epoch)

    def __iter__(self) -> Iterator[StreamedSample]:
        rows = self.order()
        for views in self._views.values():
            views[0].combo.check(np.asarray(rows, np.int64))
        worker = get_worker_info()
        if worker is not None:  # a DataLoader takes from its workers in turn: the order stays
            mine = rows[worker.id :: worker.num_workers]  # no GPU sees a worker's memory
            return self._samples(mine, SampleReader(self._views, 0, threads=0, pin=False))
        room = Layout(self._views).nbytes * (self._ahead + self._keep + 1) if self._reuse else 0
        return self._samples(rows, SampleReader(self._views, room, threads=self._threads,
                                                ahead=self._ahead, pin=self._pin))

    def _samples(self, rows: Sequence[int], reader: SampleReader) -> Iterator[StreamedSample]:
        valid: deque[SampleBuffer] = deque()
        with closing(reader.stream(rows)) as stream:
            for row in rows:
                if len(valid) == self._keep:
                    reader.release(valid.popleft())
                sample = next(stream)
                assert sample is not None
                valid.append(sample)
                yield StreamedSample(row, sample.maps())


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
