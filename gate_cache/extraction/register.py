"""Bringing a data set's images into a store's table of samples, some at a time.

A round's images are extracted while those of the next, of which there are twice as many, are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.store.format.samples import NewSample
from gate_cache.workspace.image_digests import ImageDigests

if TYPE_CHECKING:
    import numpy.typing as npt

    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.store.writer import StoreWriter

FIRST, MOST = 256, 2**17
"""Images of the first round, and of any."""
_TASK = 128
"""Images that a thread looks at before it takes others."""
Looked = int | tuple[int, int] | DataError
"""The row of an image that the store knows, height and width of another one, or why it cannot be
read."""
Round = tuple[int, list[Future[list[tuple[int, Looked]]]]]
"""How many of all images are looked at with it, and by place those that are not remembered."""


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
        self._size = first
        self._digests = ImageDigests(dataset, ids, rehash)
        table = store.samples
        self._rows = rows = table.newest(ids)
        self._unknown = np.cumsum((rows < 0)[::-1])[::-1]
        self._places = table.places(rows)
        self._here = np.zeros(len(table), bool)
        same = self._digests.known & table.have(rows, self._digests.raw)
        self._same = np.where(same, rows, -1)  # of a million images few are to be looked at
        self._open = (~same).nonzero()[0]
        self._looked, self._begun = 0, 0
        self._waiting: list[NewSample] = []
        self._told = ExitStack()
        self.new = 0
        self.unread: dict[str, str] = {}

    @property
    def gone(self) -> frozenset[int]:
        """Rows whose image is not in the data set or has other content, or is not looked at yet."""
        return frozenset((~self._here).nonzero()[0].tolist())

    @property
    def unknown(self) -> int:
        """Images not looked at yet of which the store has no row."""
        return int(self._unknown[self._looked]) if self.more else 0

    @property
    def more(self) -> bool:
        """Whether images are left to look at."""
        return self._looked < len(self._ids)

    def settled(self, rows: slice | npt.NDArray[np.int64]) -> bool:
        """Whether all that these rows could be computed from has been looked at."""
        return bool((self._places[rows] < self._looked).all())

    def rounds(self, show: Progress) -> Iterator[None]:
        """Append images that the store does not know, by id and content; all are decoded first.

        Rows are appended in the data set's order, and in whole blocks but for the last ones.
        """
        several: list[str] = []
        with self._told, ThreadPoolExecutor(2, "register") as pool:
            task = self._told.enter_context(show.task("registering", len(self._ids), "images"))
            try:
                batch = self._begin(pool)
                while batch:
                    then = self._begin(pool)
                    stop, looked = batch
                    for part in looked:
                        for at, outcome in part.result():
                            self._take(at, outcome, several)
                            task.advance()
                    same = self._same[self._looked : stop]
                    self._here[same[same >= 0]] = True
                    task.advance(int((same >= 0).sum()))
                    self._looked, batch = stop, then
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

    def _begin(self, pool: ThreadPoolExecutor) -> Round | None:
        """Have a round's images looked at; None where there are no more."""
        if self._begun == len(self._ids):
            return None
        first = int(np.searchsorted(self._open, self._begun))
        places = self._open[first : first + self._size].tolist()
        more = first + len(places) < len(self._open)
        self._begun = places[-1] + 1 if more else len(self._ids)
        self._size = min(2 * self._size, MOST)
        return self._begun, [
            pool.submit(lambda part: [(at, self._look(at)) for at in part], places[i : i + _TASK])
            for i in range(0, len(places), _TASK)]

    def _look(self, at: int) -> Looked:
        try:
            digest, known = self._digests.read(at), self._rows[at] >= 0
            row = self._store.samples.find(self._ids[at], digest) if known else None
            if row is not None:
                return row
            height, width = self._dataset.image(self._ids[at]).shape[:2]
            return height, width
        except DataError as error:
            return error

    def _take(self, at: int, outcome: Looked, several: list[str]) -> None:
        sample_id = self._ids[at]
        if isinstance(outcome, DataError):
            self.unread[sample_id] = str(outcome)
        elif isinstance(outcome, int):
            self._here[outcome] = True
        else:
            self._waiting.append(NewSample(sample_id, self._digests.read(at), *outcome))
            if isinstance(self._dataset, ImageFiles) and self._dataset.holds_several(sample_id):
                several.append(sample_id)

    def _append(self) -> None:
        """Append what waits, up to the end of a block while more may come."""
        rows, block = len(self._store.samples) + len(self._waiting), self._store.block
        count = max(len(self._waiting) - (rows % block if self.more else 0), 0)
        new, self._waiting = self._waiting[:count], self._waiting[count:]
        if new:
            self._store.append(new)
            self.new += count
            self._places = np.concatenate([self._places, np.full(count, -1)])
            self._here = np.concatenate([self._here, np.ones(count, bool)])
