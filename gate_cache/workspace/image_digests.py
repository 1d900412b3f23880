"""sha256 of a data set's images, remembered between runs: a million files take minutes to read.

A file counts as the same while its size, inode, modification and change time are; a change time
cannot be set by hand. What decides is always the content's sha256: ``--rehash`` reads all anew.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.core.replacing import replacing
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.diffusion.files.digest_cache import cache_folder

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset

Digests = npt.NDArray[np.uint8]
"""(N, 32)"""
_FRESH = 50_000_000
"""Nanoseconds: what was changed so shortly before it was looked at may be changed again without
another time, so it is not remembered."""


def image_digests(dataset: ImageDataset, ids: Sequence[str], show: Progress,
                  rehash: bool = False) -> Digests:
    """The sha256 of all images, (N, 32) uint8.

    Parameters
    ----------
    ids : of all samples, in the data set's order
    rehash : read every file, whatever is remembered

    Raises
    ------
    DataError
        An image cannot be read.
    """
    if not isinstance(dataset, ImageFiles) or type(dataset).sha256 is not ImageFiles.sha256:
        return _read(dataset, ids, show)
    now = time.time_ns()
    try:
        path, stamps = _file(dataset), dataset.stamps()
    except OSError:  # no home to remember in; or a file is missing, which reading says
        return _read(dataset, ids, show)
    found = np.zeros((len(ids), 32), np.uint8)
    known = np.zeros(len(ids), bool)
    if not rehash:
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            known = _recall(path, ids, stamps, found)
    if len(left := (~known).nonzero()[0]):
        found[left] = _read(dataset, [ids[i] for i in left.tolist()], show)
        _keep(path, ids, np.where(now - stamps[:, 3:] < _FRESH, -1, stamps), found)
    return found


def _read(dataset: ImageDataset, ids: Sequence[str], show: Progress) -> Digests:
    found = np.zeros((len(ids), 32), np.uint8)
    with show.task("reading the data set", len(ids), "images") as task, \
            ThreadPoolExecutor(2) as pool:
        for row, digest in zip(found, pool.map(dataset.sha256, ids), strict=True):
            row[:] = np.frombuffer(bytes.fromhex(digest), np.uint8)
            task.advance()
    return found


def _recall(path: Path, ids: Sequence[str], stamps: npt.NDArray[np.int64],
            found: Digests) -> npt.NDArray[np.bool_]:
    """Fill in what is remembered; which it is, (N,) bool."""
    with np.load(path, allow_pickle=False) as kept:
        old, times, digests = kept["names"], kept["stamps"], kept["sha256"]
    rows = np.arange(len(ids))
    if not np.array_equal(old, _joined(ids)):
        row_of = {name: row for row, name in enumerate(old.tobytes().decode().split("\n"))}
        rows = np.fromiter((row_of.get(i, -1) for i in ids), np.int64, len(ids))
    if rows.max(initial=-1) >= len(times) or times.shape[1:] != (4,) or \
            digests.shape != (len(times), 32):
        raise ValueError("is not what was written")
    known: npt.NDArray[np.bool_] = (rows >= 0) & (times[rows] == stamps).all(1)
    found[known] = digests[rows[known]]
    return known


def _keep(path: Path, ids: Sequence[str], stamps: npt.NDArray[np.int64], found: Digests) -> None:
    """Replace what is remembered; where nothing can be written, all is read again next time."""
    with suppress(OSError), replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, names=_joined(ids), stamps=stamps, sha256=found)


def _joined(ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\n".join(ids).encode(), np.uint8)


def _file(dataset: ImageFiles) -> Path:
    named = f"{dataset.name}/{dataset.root.resolve()}".encode()
    return cache_folder() / "images" / f"{hashlib.sha256(named).hexdigest()[:32]}.npz"
