"""Whole samples of a store as a torch data set, streamed at the speed of memory.

Threads of this process read ranges of shards straight into a ring of reused buffers (pinned where
there is a GPU): fresh memory costs more than reading does, and a DataLoader's worker processes copy
every sample through shared memory. In such a worker it works all the same, with memory of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from gate_cache.learn.features.order import Order, epoch_order
from gate_cache.store.format.maps import MapView
from gate_cache.store.reader import FeatureStore

Maps = dict[str, dict[str, torch.Tensor]]
"""Combo name to map name to one image's map, (C, h, w)."""

_ALIGN = 64
_SMALL = 2**19
_TASK_BYTES = 4 * 2**20
"""What one task of a reading thread reads at least, where samples are small."""


class Sample(NamedTuple):
    """One image's maps.

    Attributes
    ----------
    row : of the store; its id is ``store.samples[row]``
    maps : in the stored dtype, views of a buffer that is used again
    """

    row: int
    maps: Maps


class FeatureStream(IterableDataset[Sample]):
    """All samples once an epoch, in seeded order.

    Parameters
    ----------
    store : an open store; its ``check`` says when checksums are compared
    combos : combo names, or combo name to the maps wanted of it
    rows : rows of the store; all by default
    order : ``window``, ``random`` or ``sequential``, see `epoch_order`
    window : shards whose rows are shuffled together
    seed : of the order
    threads : that read ahead; 0 reads when a sample is asked for; by default 2, and 0 for samples
        of less than half a megabyte, where handing over costs more than reading
    ahead : samples read ahead
    keep : samples that stay valid: a sample's memory is used again once `keep` later ones were
        taken. Clone what has to live longer, or take batches of at most `keep`
    pin : page-locked memory; by default where there is a CUDA device

    Raises
    ------
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
                 seed: int = 0, threads: int | None = None, ahead: int = 4, keep: int = 1,
                 pin: bool | None = None) -> None:
        wanted = combos if isinstance(combos, Mapping) else dict.fromkeys(combos)
        self.store = store
        self.rows = range(len(store.samples)) if rows is None else rows
        self._views = {name: [store[name][m] for m in maps or store[name].maps]
                       for name, maps in wanted.items()}
        self._order: Order = order
        self._window, self._seed, self._epoch = window, seed, 0
        small = _Slot.bytes(self._views) < _SMALL
        self._threads = threads if threads is not None else 0 if small else 2
        self._ahead, self._keep, self._pin = ahead, keep, pin

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def order(self) -> list[int]:
        """The rows of this epoch, in order."""
        return epoch_order(self.rows, self.store.block, self._order, self._window, self._seed,
                           self._epoch)

    def __iter__(self) -> Iterator[Sample]:
        rows = self.order()
        for views in self._views.values():
            views[0].combo.check(np.asarray(rows, np.int64))
        worker = get_worker_info()
        if worker is not None:  # a DataLoader takes from its workers in turn: the order stays
            return self._alone(rows[worker.id :: worker.num_workers])
        return self._read_ahead(rows) if self._threads else self._at_once(rows)

    def _alone(self, rows: list[int]) -> Iterator[Sample]:
        """Each in memory of its own: a DataLoader's queue takes it away later."""
        for row in rows:
            slot = _Slot(self._views, pin=False)
            slot.fill(row)
            yield Sample(row, slot.maps)

    def _at_once(self, rows: list[int]) -> Iterator[Sample]:
        ring = [_Slot(self._views, self._pinned()) for _ in range(min(self._keep, len(rows)))]
        for i, row in enumerate(rows):
            slot = ring[i % len(ring)]
            slot.fill(row)
            yield Sample(row, slot.maps)

    def _read_ahead(self, rows: list[int]) -> Iterator[Sample]:
        size = _Slot.bytes(self._views)
        group = max(min(_TASK_BYTES // max(size, 1), len(rows) // (2 * self._threads)), 1)
        tasks = [rows[i : i + group] for i in range(0, len(rows), group)]
        waiting = max(-(-self._ahead // group), self._threads)
        held = -(-self._keep // group)
        ring = [[_Slot(self._views, self._pinned()) for _ in range(group)]
                for _ in range(min(waiting + held + 1, len(tasks)))]
        with ThreadPoolExecutor(self._threads, "feature-stream") as pool:
            under_way: deque[Future[None]] = deque()
            try:
                for i, task in enumerate(tasks):
                    while len(under_way) + i < min(i + waiting, len(tasks)):
                        n = i + len(under_way)
                        under_way.append(pool.submit(_fill, ring[n % len(ring)], tasks[n]))
                    under_way.popleft().result()
                    for slot, row in zip(ring[i % len(ring)], task, strict=False):
                        yield Sample(row, slot.maps)
            finally:
                pool.shutdown(cancel_futures=True)

    def _pinned(self) -> bool:
        return torch.cuda.is_available() if self._pin is None else self._pin


class _Slot:
    """Memory for one sample, with its maps' tensors over it."""

    def __init__(self, views: Mapping[str, Sequence[MapView]], pin: bool) -> None:
        self._memory = torch.empty(self.bytes(views), dtype=torch.uint8, pin_memory=pin)
        self._reads: list[tuple[MapView, npt.NDArray[Any], memoryview]] = []
        self.maps: Maps = {}
        start = 0
        for name, combo in views.items():
            self.maps[name] = {}
            for view in combo:
                flat = self._memory[start : start + _bytes(view)]
                array = flat.numpy().view(view.dtype).reshape(1, *view.shape[1:])
                self._reads.append((view, array, memoryview(flat.numpy().data)))
                self.maps[name][view.name] = torch.from_numpy(array[0])
                start += -(-_bytes(view) // _ALIGN) * _ALIGN

    @staticmethod
    def bytes(views: Mapping[str, Sequence[MapView]]) -> int:
        """Bytes of one sample."""
        return sum(-(-_bytes(v) // _ALIGN) * _ALIGN for combo in views.values() for v in combo)

    def fill(self, row: int) -> None:
        """Read one row of all maps."""
        for view, array, buffer in self._reads:
            view.read_row(row, array, buffer)


def _fill(slots: Sequence[_Slot], rows: Sequence[int]) -> None:
    for slot, row in zip(slots, rows, strict=False):
        slot.fill(row)


def _bytes(view: MapView) -> int:
    return int(np.prod(view.shape[1:])) * view.dtype.itemsize
