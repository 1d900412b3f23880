"""Bringing a data set's images into a store's table of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.store.format.samples import NewSample
from gate_cache.workspace.image_digests import image_digests

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.store.writer import StoreWriter

Value = TypeVar("Value")


def register(store: StoreWriter, dataset: ImageDataset, ids: Sequence[str], show: Progress,
             rehash: bool = False) -> tuple[int, set[int]]:
    """Append images that the store does not know, by id and content; all are decoded first.

    Parameters
    ----------
    rehash : read every image, whatever is remembered of it

    Returns
    -------
    How many are new, and the rows whose image is gone from the data set, or has other content.
    """
    digests = image_digests(dataset, ids, show, rehash)
    rows = store.samples.find_all(ids, digests)
    here = np.zeros(len(store.samples), bool)
    here[rows[rows >= 0]] = True
    gone = set((~here).nonzero()[0].tolist())
    new = [(ids[i], digests[i].tobytes().hex()) for i in (rows < 0).nonzero()[0].tolist()]
    if not new:
        return 0, gone
    checked = _each(show, "checking new images", partial(_check, dataset), [i for i, _ in new])
    bad = [c for c in checked if isinstance(c, DataError)]
    if bad:
        raise DataError("\n".join(str(e) for e in bad))
    _tell_several(dataset, [i for i, _ in new], show)
    store.append([NewSample(i, d, *size) for (i, d), size in zip(new, checked, strict=True)
                  if isinstance(size, tuple)])
    return len(new), gone


def _tell_several(dataset: ImageDataset, ids: list[str], show: Progress) -> None:
    """Say which files hold several pictures."""
    if not isinstance(dataset, ImageFiles):
        return
    found = [i for i in ids if dataset.holds_several(i)]
    if found:
        show.say(f"note: of new files {len(found)} with several pictures ({listed(found, 3)}): the"
                 " first of each is read")


def _each(show: Progress, label: str, work: Callable[[str], Value], ids: list[str]) -> list[Value]:
    """Do one thing for every image, in threads, in order."""
    found = []
    with show.task(label, len(ids), "images") as task, ThreadPoolExecutor(2) as pool:
        for value in pool.map(work, ids):
            found.append(value)
            task.advance()
    return found


def _check(dataset: ImageDataset, sample_id: str) -> tuple[int, int] | DataError:
    try:
        height, width = dataset.image(sample_id).shape[:2]
        return height, width
    except DataError as error:
        return error
