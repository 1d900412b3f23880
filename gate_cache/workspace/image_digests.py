"""sha256 of a data set's images, remembered between runs: a million files take minutes to read.

A file counts as the same while its size, inode, modification and change time are; a change time
cannot be set by hand. What decides is always the content's sha256: ``--rehash`` reads all anew.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.core.digest_cache import cache_folder
from gate_cache.core.replacing import replacing
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.store.format.samples import first_places, places_of

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import ImageDataset

Digests = npt.NDArray[np.uint8]
"""(N, 32)"""
_FRESH = 50_000_000
"""Nanoseconds: what was changed so shortly before it was looked at may be changed again without
another time, so it is not remembered."""


class ImageDigests:
    """The sha256 of a data set's images, read where they are not remembered.

    Parameters
    ----------
    ids : of all samples, in the data set's order
    rehash : read every file, whatever is remembered

    Attributes
    ----------
    raw : (N, 32)
    known : (N,) which of them are read, or remembered
    """

    def __init__(self, dataset: ImageDataset, ids: Sequence[str], rehash: bool = False) -> None:
        self._dataset = dataset
        self._ids = ids
        self.raw = np.zeros((len(ids), 32), np.uint8)
        self.known = np.zeros(len(ids), bool)
        self._new = False
        self._now = time.time_ns()
        self._path: Path | None = None
        if not isinstance(dataset, ImageFiles) or type(dataset).sha256 is not ImageFiles.sha256:
            return
        with suppress(OSError):  # no home to remember in
            self._path, self._stamps = _file(dataset), dataset.stamps()
        if self._path and not rehash:
            with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self.known = _recall(self._path, ids, self._stamps, self.raw)

    def read(self, at: int) -> str:
        """sha256 (hex) of one image, by its place among the ids; may be called by several threads.

        Raises
        ------
        DataError
            It cannot be read.
        """
        if not self.known[at]:
            digest = self._dataset.sha256(self._ids[at])
            self.raw[at] = np.frombuffer(bytes.fromhex(digest), np.uint8)
            self.known[at] = self._new = True
        return str(self.raw[at].tobytes().hex())

    def keep(self) -> None:
        """Remember what has been read, but for what was changed just before."""
        if self._path and self._new:
            fresh = (self._now - self._stamps[:, 3:] < _FRESH) | ~self.known[:, None]
            _keep(self._path, self._ids, np.where(fresh, -1, self._stamps), self.raw)


def _recall(path: Path, ids: Sequence[str], stamps: npt.NDArray[np.int64],
            out: Digests) -> npt.NDArray[np.bool_]:
    """Fill in what is remembered; which it is, (N,) bool."""
    with np.load(path, allow_pickle=False) as kept:
        rows = _places(ids, kept["names"].tobytes().decode())
        times = kept["stamps"]
        if rows.max(initial=-1) >= len(times) or times.shape[1:] != (4,):
            raise ValueError("is not what was written")
        known: npt.NDArray[np.bool_] = (rows >= 0) & (times[rows] == stamps).all(1)
        del times  # of a million files these are large
        out[known] = kept["sha256"][rows[known]]
    return known


def _places(ids: Sequence[str], text: str) -> npt.NDArray[np.int64]:
    """(N,): the place of each id among the lines of a text, or -1."""
    if "\n".join([*ids, ""]).startswith(f"{text}\n"):
        return first_places(len(ids), text.count("\n") + 1)
    return places_of(ids, text.split("\n"))


def _keep(path: Path, ids: Sequence[str], stamps: npt.NDArray[np.int64], digests: Digests) -> None:
    """Replace what is remembered; where nothing can be written, all is read again next time."""
    with suppress(OSError), replacing(path) as draft, draft.open("wb") as file:
        names = np.frombuffer("\n".join(ids).encode(), np.uint8)
        np.savez(file, names=names, stamps=stamps, sha256=digests)


def _file(dataset: ImageFiles) -> Path:
    named = f"{dataset.name}/{dataset.root.resolve()}".encode()
    return cache_folder() / "images" / f"{hashlib.sha256(named).hexdigest()[:32]}.npz"
