"""Bringing a data set's images into a store's table of samples, some at a time.

A round's images are extracted while those of the next, of which there are twice as many, are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.store.format.samples import NewSample
from gate_cache.workspace.image_digests import ImageDigests

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.store.writer import StoreWriter

FIRST, MOST = 256, 2**17
"""Images of the first round, and of any."""
_TASK = 32
"""Images that a thread looks at before it takes others."""
Looked = tuple[int, int] | DataError | None
"""Height and width of an image that the store does not know, why it cannot be read, or None."""


class Registration:
    """A data set's images on their way into a store.

    Parameters
    ----------
    ids : of all samples
    rehash : read every image, whatever is remembered of it
    first : images of the first round

    Attributes
    ----------
    new : images appended so far
    unread : id of each image that cannot be read to why; it gets no row
    """

    def __init__(self, store: StoreWriter, dataset: ImageDataset, ids: Sequence[str],
                 rehash: bool = False, first: int = FIRST) -> None:
        self._store = store
        self._dataset = dataset
        self._ids = ids
        self._first = first
        self._digests = ImageDigests(dataset, ids, rehash)
        places = {sample_id: at for at, sample_id in enumerate(ids)}
        self._places = np.array([places.get(i, -1) for i in store.samples.ids], np.int64)
        self._here = np.zeros(len(store.samples), bool)
        self._looked = 0
        self._waiting: list[NewSample] = []
        self._told = ExitStack()
        self.new = 0
        self.unread: dict[str, str] = {}
        known = set(store.samples.ids)
        self._unknown = np.cumsum([i not in known for i in reversed(ids)])[::-1]

    @property
    def gone(self) -> frozenset[int]:
        """Rows whose image is not in the data set or has other content, or is not looked at yet."""
        return frozenset((~self._here).nonzero()[0].tolist())

    @property
    def unknown(self) -> int:
        """Images not looked at yet of which the store has no row."""
        return int(self._unknown[self._looked]) if self._looked < len(self._ids) else 0

    def settled(self, rows: range) -> bool:
        """Whether all that these rows could be computed from has been looked at."""
        return bool((self._places[rows.start : rows.stop] < self._looked).all())

    def rounds(self, show: Progress) -> Iterator[None]:
        """Append images that the store does not know, by id and content; all are decoded first.

        Rows are appended in the data set's order, and in whole blocks but for the last ones.
        """
        several: list[str] = []
        with self._told, ThreadPoolExecutor(2, "register") as pool:
            task = self._told.enter_context(show.task("registering", len(self._ids), "images"))
            try:
                for batch, _ in pairwise(chain(self._batches(pool), [[]])):  # begins the next
                    for looked in batch:
                        for outcome in looked.result():
                            self._take(outcome, several)
                            task.advance()
                    self._append()
                    yield
            finally:
                pool.shutdown(cancel_futures=True)
        self._digests.keep()
        if several:
            show.say(f"note: of new files {len(several)} with several pictures"
                     f" ({listed(several, 3)}): the first of each is read")

    def hide(self) -> None:
        """End the task that shows how far registering is: something else is to be seen."""
        self._told.close()

    def _batches(self, pool: ThreadPoolExecutor) -> Iterator[list[Future[list[Looked]]]]:
        """Have each round's images looked at when it is asked for."""
        stop, size = 0, self._first
        while stop < len(self._ids):
            start, stop = stop, min(stop + size, len(self._ids))
            size = min(2 * size, MOST)
            yield [pool.submit(lambda part: [self._look(at) for at in part],
                               range(at, min(at + _TASK, stop)))
                   for at in range(start, stop, _TASK)]

    def _look(self, at: int) -> Looked:
        try:
            digest = self._digests.read(at)
            if self._store.samples.find(self._ids[at], digest) is not None:
                return None
            height, width = self._dataset.image(self._ids[at]).shape[:2]
            return height, width
        except DataError as error:
            return error

    def _take(self, outcome: Looked, several: list[str]) -> None:
        at, sample_id = self._looked, self._ids[self._looked]
        self._looked += 1
        if isinstance(outcome, DataError):
            self.unread[sample_id] = str(outcome)
        elif outcome is None:
            row = self._store.samples.find(sample_id, self._digests.read(at))
            self._here[row] = True
        else:
            self._waiting.append(NewSample(sample_id, self._digests.read(at), *outcome))
            if isinstance(self._dataset, ImageFiles) and self._dataset.holds_several(sample_id):
                several.append(sample_id)

    def _append(self) -> None:
        """Append what waits, up to the end of a block while more may come."""
        rows, block = len(self._store.samples) + len(self._waiting), self._store.block
        more = self._looked < len(self._ids)
        count = max(len(self._waiting) - (rows % block if more else 0), 0)
        new, self._waiting = self._waiting[:count], self._waiting[count:]
        if new:
            self._store.append(new)
            self.new += count
            self._places = np.concatenate([self._places, np.full(count, -1)])
            self._here = np.concatenate([self._here, np.ones(count, bool)])
