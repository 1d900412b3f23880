"""Blocks through one device: some are read ahead of it, one is on it, some are written behind it.

Every block's bytes are the same whatever else is under way. At most `IN_FLIGHT` blocks are in
memory: their images, edge maps and latents, and the maps of one block or of what is not written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gate_cache.core.versions import versions
from gate_cache.extraction.block import Block, Helpers, Told
from gate_cache.extraction.work import Work
from gate_cache.store.format.done import Provenance

if TYPE_CHECKING:
    from gate_cache.diffusion.passes.extractor import Extractor

IN_FLIGHT, READERS, WRITERS = 3, 2, 2
"""Blocks under way, and threads that read images and write a combo's blocks."""


class Engine:
    """A loaded model at work on blocks of a store.

    Parameters
    ----------
    threads : of the CPU in a pass; they decide the last bits of its result

    Attributes
    ----------
    extractor : what computes
    """

    def __init__(self, extractor: Extractor, threads: int) -> None:
        import torch

        from gate_cache.extraction.transfer import HostMemory, Transfer
        from gate_cache.workspace.device import described

        device = extractor.model.device
        self.extractor = extractor
        self._made = Provenance(described(device), extractor.batch, device.type == "cuda"
                                and torch.backends.cuda.matmul.allow_tf32, versions())
        self._stop = threading.Event()
        extractor.stopped = self._stop.is_set
        self._device = ThreadPoolExecutor(1, "device", torch.set_num_threads, (threads,))
        self._helpers = Helpers(
            ThreadPoolExecutor(READERS, "readers"), ThreadPoolExecutor(1, "behind"),
            _Writers(WRITERS), self.made, HostMemory(device.type == "cuda"), Transfer(device))

    def made(self, latents: bool = False) -> Provenance:
        """What maps, or latents, are computed with now: batches may have become smaller."""
        batch = self.extractor.coder_batch if latents else self.extractor.batch
        return replace(self._made, batch=batch)

    def stop(self) -> None:
        """Have `run` end after the pass that is under way; what is computed is written."""
        self._stop.set()

    def run(self, work: Work, blocks: Iterable[range], told: Told) -> None:
        """All these blocks; what was written before an error is kept.

        Parameters
        ----------
        told : hears what has come, from several threads
        """
        with ThreadPoolExecutor(IN_FLIGHT, "blocks") as pool:
            tasks = [pool.submit(self.block, work, rows, told) for rows in blocks]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                if not all(map(_succeeded, tasks)):
                    self._stop.set()
                    pool.shutdown(cancel_futures=True)
        for task in tasks:
            if not task.cancelled():
                task.result()
        if work.own is not None:
            self._helpers.memory.drop()  # the next shape's blocks have another size

    def block(self, work: Work, rows: range, told: Told) -> None:
        """One block, from its images to the store; may run in several threads at a time."""
        if self._stop.is_set():
            return
        block = Block(work, rows, self.extractor, self._helpers, told)
        block.prepare()
        block.finish(self._device.submit(block.compute, self._stop.is_set).result(),
                     self._stop.is_set())

    def close(self) -> None:
        """Stop the threads, and take back what techniques have put beside the model."""
        self._stop.set()
        helpers = self._helpers
        for pool in (self._device, helpers.behind, helpers.writers, helpers.readers):
            pool.shutdown()
        self.extractor.close()


class _Writers(ThreadPoolExecutor):
    """Threads that write; who hands over more than one thing more than they can do waits."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "writers")
        self._room = threading.Semaphore(threads + 1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._room.acquire()
        task = super().submit(fn, *args, **kwargs)
        task.add_done_callback(lambda _: self._room.release())
        return task


def _succeeded(task: Future[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
