"""Whole samples of a store: read by threads as they are stored, decoded on the training device.

Threads of this process read ranges of shards straight into memory (pinned where there is a GPU),
which goes to the device in one copy and is decoded there. Fresh memory costs more than reading
does, so it is used again, up to a bound in bytes; within that bound a row is not read twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch

from gate_cache.learn.features.layout import Layout, Maps, Views

HELD_BYTES = 2 * 2**30
"""Stored rows held in this machine's memory at most."""
_SMALL = 2**19
_TASK_BYTES = 4 * 2**20
"""What one task of a reading thread reads at least, where samples are small."""
_TASK_ROWS = 16
_AHEAD_BYTES = 2**28
_AHEAD = 4, 256
"""Samples read ahead: those of so many bytes, at least and at most so many."""


class SampleBuffer:
    """Memory for one sample.

    Attributes
    ----------
    row : that it holds, or will when `read` is done
    users : that it was given to and have not released it
    """

    def __init__(self, layout: Layout, pin: bool) -> None:
        self.row, self.users = -1, 0
        self.read: Future[None] | None = None
        self.copies: Sequence[torch.cuda.Event] = ()
        self._layout = layout
        self._memory = torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=pin)
        self._reads = layout.reads(self._memory)
        self._combos = {id(view.combo): view.combo for view, _ in self._reads}.values()
        self._maps = layout.maps(self._memory, 0) if layout.one_view else None

    def fill(self) -> None:
        """Read the row, once the copies that may still read the memory are done."""
        for event in self.copies:
            event.synchronize()
        for combo in self._combos:
            combo.check(np.array([self.row]))
        for view, buffers in self._reads:
            view.read_row(self.row, buffers)

    def ready(self) -> None:
        """Be sure that it is read: wait for the thread that does, or do it now."""
        if self.read is not None:
            with contextlib.suppress(CancelledError):  # the stream that asked for it has ended
                self.read.result()
                return
        self.read = Future()
        try:
            self.fill()
            self.read.set_result(None)
        except BaseException as error:
            self.read.set_exception(error)
            raise

    @property
    def sound(self) -> bool:
        """Whether it holds its row, or will."""
        read = self.read
        return read is None or not (read.cancelled() or (read.done() and read.exception()))

    def maps(self, device: torch.device | None = None) -> Maps:
        """Its values on a device: one copy, which is not waited for."""
        if device is None or device.type == "cpu":
            return self._maps or self._layout.maps(self._memory, self.row)
        return self._layout.maps(self._memory.to(device, non_blocking=True), self.row)


class SampleReader:
    """Samples of a store, for any number of threads.

    Parameters
    ----------
    views : the maps of a sample
    held : bytes of samples that are kept for later; 0: each has memory of its own
    threads : that read ahead; 0 reads when a sample is asked for; by default as many as the place
        of the store is worth, and none where handing over costs more than reading
    ahead : samples read ahead, by default `_AHEAD_BYTES` of them
    pin : page-locked memory; by default where there is a CUDA device
    """

    def __init__(self, views: Views, held: int = HELD_BYTES, *, threads: int | None = None,
                 ahead: int | None = None, pin: bool | None = None) -> None:
        self.layout = Layout(views)
        self._pin = torch.cuda.is_available() if pin is None else pin
        size = max(self.layout.nbytes, 1)
        self._threads = _threads(views, size) if threads is None else threads
        self._ahead = ahead or min(max(_AHEAD_BYTES // size, _AHEAD[0]), _AHEAD[1])
        self._size, self._held, self._most = size, held, held // size
        self._samples: OrderedDict[int, SampleBuffer] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    @contextmanager
    def sample(self, row: int) -> Iterator[SampleBuffer]:
        """One sample, valid inside.

        Raises
        ------
        RowNotDone
            It is not extracted.
        StoreError
            It is damaged.
        """
        sample = self._at_once(row)
        try:
            yield sample
        finally:
            self.release(sample)

    def stream(self, rows: Iterable[int], skip: Callable[[int], bool] = lambda _: False,
               ) -> Generator[SampleBuffer | None]:
        """Samples in this order, read ahead; each is to be given to `release`.

        Parameters
        ----------
        skip : asked of a row before it is read; None stands for one that is skipped
        """
        order = iter(rows)
        if not self._threads:
            yield from (None if skip(row) else self._at_once(row) for row in order)
            return
        waiting: deque[SampleBuffer | None] = deque()
        pool = ThreadPoolExecutor(self._threads, "samples")
        try:
            while self._ask(waiting, order, skip, pool):
                if (sample := waiting[0]) is not None:
                    sample.ready()
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
            for left in waiting:
                if left is not None:
                    self.release(left)

    def release(self, sample: SampleBuffer) -> None:
        """Its memory may be used again, after the copies that were asked for by now."""
        if not self._held:
            return
        sample.copies = copies_so_far()
        with self._lock:
            sample.users -= 1
            if not sample.users and (self._count > self._most or not sample.sound):
                self._drop(sample)

    def _at_once(self, row: int) -> SampleBuffer:
        sample = self._take(row)
        try:
            sample.ready()
        except BaseException:
            self.release(sample)
            raise
        return sample

    def _ask(self, waiting: deque[SampleBuffer | None], order: Iterator[int],
             skip: Callable[[int], bool], pool: ThreadPoolExecutor) -> bool:
        """Have the next rows read, a group of them a task; whether any are waited for."""
        group = max(min(_TASK_BYTES // self._size, _TASK_ROWS), 1)
        while len(waiting) < max(self._ahead, group * self._threads):
            rows = list(islice(order, group))
            samples = [None if skip(row) else self._take(row) for row in rows]
            new = list(dict.fromkeys(s for s in samples if s is not None and s.read is None))
            task = pool.submit(_fill, new) if new else None
            for sample in new:
                sample.read = task
            waiting.extend(samples)
            if len(rows) < group:
                break
        return bool(waiting)

    def _take(self, row: int) -> SampleBuffer:
        """The sample that holds a row, or memory that is to be filled with it."""
        with self._lock:
            sample = self._samples.get(row)
            if sample is None or not sample.sound:
                sample = self._samples[row] = self._memory()
                sample.row, sample.users, sample.read = row, 0, None
            self._samples.move_to_end(row)
            sample.users += 1
            if not self._held:
                del self._samples[row]
            return sample

    def _memory(self) -> SampleBuffer:
        """Memory that nobody uses; of its own, or beyond the bound, where all is in use."""
        if self._held and self._count >= self._most:
            for old in self._samples.values():
                if not old.users and old.read is not None and old.read.done():
                    del self._samples[old.row]
                    return old
        self._count += 1
        return SampleBuffer(self.layout, self._pin)

    def _drop(self, sample: SampleBuffer) -> None:
        self._count -= 1
        if self._samples.get(sample.row) is sample:
            del self._samples[sample.row]


def _threads(views: Views, size: int) -> int:
    """That read ahead, by default: more where a server is waited for, none for small samples."""
    folders = [view.combo.store.folder for maps in views.values() for view in maps]
    server = max((folder.at_a_time for folder in folders), default=1)
    return server if server > 1 else 0 if size < _SMALL else min(4, max(2, os.cpu_count() or 1))


def copies_so_far() -> Sequence[torch.cuda.Event]:
    """The point up to which each GPU in use has been given work, by this thread's streams."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ()
    devices = [d for d in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(d)]
    return [torch.cuda.current_stream(d).record_event() for d in devices]


def _fill(samples: Sequence[SampleBuffer]) -> None:
    for sample in samples:
        sample.fill()
