"""Whole samples of a store as a torch data set, streamed at the speed of memory.

Threads of this process read ranges of shards straight into memory (pinned where there is a GPU): a
DataLoader's worker processes, in which it works all the same, copy every sample through shared
memory. Fresh memory costs more than reading does, so a loop that is done with a sample before it
takes the next may ask for a ring of buffers that are used again (``reuse``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from gate_cache.learn.features.order import Order, epoch_order

if TYPE_CHECKING:
    from gate_cache.store.format.maps import MapView
    from gate_cache.store.reader import FeatureStore

Maps = dict[str, dict[str, torch.Tensor]]
"""Combo name to map name to one image's map, (C, h, w)."""

_Copies = Sequence[torch.cuda.Event] | None
_ALIGN = 64
_SMALL = 2**19
_TASK_BYTES = 4 * 2**20
"""What one task of a reading thread reads at least, where samples are small."""


class StreamedSample(NamedTuple):
    """One image's maps.

    Attributes
    ----------
    row : of the store; its id is ``store.samples[row]``
    maps : in the stored dtype; memory of the sample's own, unless the stream is to use it again
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
    threads : that read ahead; 0 reads when a sample is asked for; by default 2, and 0 for samples
        of less than half a megabyte, where handing over costs more than reading
    ahead : samples read ahead
    reuse : use memory again, for speed: a sample is valid until `keep` later ones were taken; clone
        what has to live longer. Copies to a GPU that were asked for by then, on the current stream
        of the thread that iterates, are waited for
    keep : samples that stay valid under `reuse`, at least 1
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
                 seed: int = 0, threads: int | None = None, ahead: int = 4, reuse: bool = False,
                 keep: int = 1, pin: bool | None = None) -> None:
        wanted = combos if isinstance(combos, Mapping) else dict.fromkeys(combos)
        self.store = store
        self.rows = range(len(store.samples)) if rows is None else rows
        self._views = {name: [store[name][m] for m in maps or store[name].maps]
                       for name, maps in wanted.items()}
        self._order: Order = order
        self._window, self._seed, self._epoch = window, seed, 0
        small = _Slot.bytes(self._views) < _SMALL
        self._threads = threads if threads is not None else 0 if small else 2
        self._ahead, self._pin = ahead, pin
        self._reuse, self._keep = reuse, keep

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
            return self._at_once(rows[worker.id :: worker.num_workers], iter(self._own, None))
        if self._threads:
            return self._read_ahead(rows)
        ring = [self._slot() for _ in range(min(self._keep, len(rows)))] if self._reuse else []
        return self._at_once(rows, cycle(ring) if ring else iter(self._slot, None))

    def _at_once(self, rows: list[int], slots: Iterator[_Slot]) -> Iterator[StreamedSample]:
        for row in rows:
            slot = next(slots)
            _fill([slot], [row], _copies_so_far() if self._reuse else None)
            yield StreamedSample(row, slot.maps)

    def _read_ahead(self, rows: list[int]) -> Iterator[StreamedSample]:
        size = _Slot.bytes(self._views)
        group = max(min(_TASK_BYTES // max(size, 1), len(rows) // (2 * self._threads)), 1)
        tasks = [rows[i : i + group] for i in range(0, len(rows), group)]
        waiting = max(-(-self._ahead // group), self._threads)
        held = -(-self._keep // group)
        count = min(waiting + held + 1, len(tasks)) if self._reuse else 0
        ring = [[self._slot() for _ in range(group)] for _ in range(count)]
        with ThreadPoolExecutor(self._threads, "feature-stream") as pool:
            under_way: deque[Future[list[_Slot]]] = deque()
            try:
                for i, task in enumerate(tasks):
                    while len(under_way) + i < min(i + waiting, len(tasks)):
                        n = i + len(under_way)
                        again = (ring[n % count], _copies_so_far()) if ring else (None, None)
                        under_way.append(pool.submit(self._filled, tasks[n], *again))
                    for slot, row in zip(under_way.popleft().result(), task, strict=False):
                        yield StreamedSample(row, slot.maps)
            finally:
                pool.shutdown(cancel_futures=True)

    def _filled(self, rows: Sequence[int], slots: list[_Slot] | None,
                copies: _Copies) -> list[_Slot]:
        """Read rows into a ring's slots, or into memory of their own."""
        slots = slots or [self._slot() for _ in rows]
        _fill(slots, rows, copies)
        return slots

    def _slot(self) -> _Slot:
        return _Slot(self._views, self._pinned())

    def _own(self) -> _Slot:
        """For a worker process: its queue takes the memory away later, and no GPU sees it."""
        return _Slot(self._views, pin=False)

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
                # A view of the pinned memory itself: torch then knows what a copy still reads.
                dtype = torch.from_numpy(array[0, :0]).dtype
                self.maps[name][view.name] = flat.view(dtype).view(view.shape[1:])
                start += -(-_bytes(view) // _ALIGN) * _ALIGN

    @staticmethod
    def bytes(views: Mapping[str, Sequence[MapView]]) -> int:
        """Bytes of one sample."""
        return sum(-(-_bytes(v) // _ALIGN) * _ALIGN for combo in views.values() for v in combo)

    def fill(self, row: int) -> None:
        """Read one row of all maps."""
        for view, array, buffer in self._reads:
            view.read_row(row, array, buffer)


def _copies_so_far() -> _Copies:
    """The point up to which each GPU in use has been given work, by this thread's streams."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    devices = [d for d in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(d)]
    return [torch.cuda.current_stream(d).record_event() for d in devices]


def _fill(slots: Sequence[_Slot], rows: Sequence[int], copies: _Copies) -> None:
    """Read rows, once the copies that may still read the memory are done."""
    for event in copies or ():
        event.synchronize()
    for slot, row in zip(slots, rows, strict=False):
        slot.fill(row)


def _bytes(view: MapView) -> int:
    return int(np.prod(view.shape[1:])) * view.dtype.itemsize
