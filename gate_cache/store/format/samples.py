"""The table of samples: row i of every map in the store is sample i. Append-only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError, did_you_mean
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.size import SHAPE, SHAPES, Shapes, Size, nearest_shape
from gate_cache.store.format.checksums import Digests, raw_digests

_AT_ONCE = 64 * 1024
"""Rows that are joined, or compared, at once."""


@dataclass(frozen=True)
class NewSample:
    """A row to append."""

    id: str
    sha256: str
    height: int
    width: int


def places_of(ids: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n,): the last place of each id, none of which is there twice, among names; or -1."""
    if tuple(ids[: len(names)]) == tuple(names):  # no table of a million is made
        return first_places(len(ids), len(names))
    place = {name: row for row, name in enumerate(names)}
    return np.fromiter(map(place.get, ids, repeat(-1)), np.int64, len(ids))


def first_places(count: int, known: int) -> npt.NDArray[np.int64]:
    """(count,): the place of each of so many, of which the first are known; or -1."""
    return np.where(np.arange(count) < known, np.arange(count), -1)


class Samples(Sequence[str]):
    """The table of samples: row i of every map is sample i.

    Parameters
    ----------
    ids : of str
    sha256 : (N, 32) uint8 array, or hex strings, of each image's content
    sizes : (N, 2) int32 array of original height and width

    Attributes
    ----------
    ids : tuple of str
    sha256 : sequence of str
    """

    def __init__(self, ids: Sequence[str], sha256: Sequence[str] | npt.NDArray[np.uint8],
                 sizes: npt.NDArray[np.int32]) -> None:
        self.ids = tuple(ids)
        self.sha256 = Digests(sha256 if isinstance(sha256, np.ndarray) else raw_digests(sha256))
        self.sizes = sizes
        self._nearest: dict[Shapes, npt.NDArray[np.int64]] = {}

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The newest row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def _older(self) -> dict[str, list[int]]:
        """Rows of ids that have several: contents that an image had before."""
        older: dict[str, list[int]] = {}
        if len(self._rows) < len(self.ids):
            for row, name in enumerate(self.ids):
                if self._rows[name] != row:
                    older.setdefault(name, []).append(row)
        return older

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{len(self)} samples: {', '.join(self.ids[:3])}{', …' if len(self) > 3 else ''}>"

    def __getitem__(self, row: Any) -> Any:
        return self.ids[row]

    def row(self, sample_id: str) -> int:
        """The row of a sample (the newest, where an image's content was changed).

        Raises
        ------
        StoreError
            No such sample.
        """
        if sample_id not in self._rows:
            raise StoreError(f"no sample '{sample_id}' in this store"
                             f"{did_you_mean(sample_id, self.ids)}")
        return self._rows[sample_id]

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._rows

    def newest(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """(n,): the newest row of each sample, or -1; no sample is named twice."""
        return places_of(ids, self.ids)

    def places(self, newest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(N,): the place of each row's sample among those whose newest rows are given, or -1."""
        places, known = np.full(len(self), -1), newest >= 0
        places[newest[known]] = known.nonzero()[0]
        for name, rows in self._older.items() if known.sum() < len(self) else ():
            places[rows] = places[self._rows[name]]
        return places

    def find(self, sample_id: str, sha256: str) -> int | None:
        """The row of a sample with this content, or None."""
        newest = self._rows.get(sample_id)
        if newest is None:
            return None
        return next((row for row in (newest, *self._older.get(sample_id, ()))
                     if self.sha256[row] == sha256), None)

    def find_all(self, ids: Sequence[str],
                 sha256: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """(n,): the row of each sample with this content, or -1.

        Parameters
        ----------
        sha256 : (n, 32)
        """
        rows = np.arange(len(ids)) if self.ids == tuple(ids) else \
            np.fromiter(map(self._rows.get, ids, repeat(-1)), np.int64, len(ids))
        for i in ((rows >= 0) & ~self.have(rows, sha256)).nonzero()[0].tolist():
            row = self.find(ids[i], sha256[i].tobytes().hex())
            rows[i] = -1 if row is None else row
        return rows

    def have(self, rows: npt.NDArray[np.int64],
             sha256: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """(n,): whether each of these rows, none where it is -1, has this content, (n, 32)."""
        same = rows >= 0
        for start in range(0, len(rows) if len(self) else 0, _AT_ONCE):  # to save memory
            part = slice(start, start + _AT_ONCE)
            same[part] &= (self.sha256.raw[rows[part]] == sha256[part]).all(1)
        return same

    def of_shape(self, recipe: Mapping[str, Any]) -> npt.NDArray[np.int64] | None:
        """(n,): the rows whose input has a recipe's shape, which a group's rows are; None: all."""
        if SHAPE not in recipe:
            return None
        shapes = tuple(Size.of(shape) for shape in recipe[SHAPES])
        if shapes not in self._nearest:
            kinds, kind = np.unique(self.sizes, axis=0, return_inverse=True)
            places = [shapes.index(nearest_shape(shapes, *size)) for size in kinds.tolist()]
            self._nearest[shapes] = np.array(places, np.int64)[kind.ravel()]
        own = self._nearest[shapes] == shapes.index(Size.of(recipe[SHAPE]))
        return np.asarray(own.nonzero()[0])

    def part(self, rows: npt.NDArray[np.int64]) -> Samples:
        """The table of some rows alone."""
        return Samples([self.ids[row] for row in rows.tolist()], self.sha256.raw[rows],
                       self.sizes[rows])

    def extended(self, new: Sequence[NewSample]) -> Samples:
        """The table with further rows."""
        sizes = np.array([[s.height, s.width] for s in new], np.int32).reshape(-1, 2)
        digests = raw_digests([s.sha256 for s in new])
        return Samples((*self.ids, *(s.id for s in new)),
                       np.concatenate([self.sha256.raw, digests]),
                       np.concatenate([self.sizes, sizes]))

    def checksum(self) -> str:
        """Of the whole table: sha256 over ids, each ended by a line break, digests and sizes."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _AT_ONCE):
            ids = self.ids[start : start + _AT_ONCE]
            digest.update("\n".join([*ids, ""]).encode())
        for numbers in (self.sha256.raw, self.sizes.astype("<i4")):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()

    def first_checksum(self) -> str:
        """As formats before the third have it."""
        return fingerprint({"ids": self.ids, "sha256": list(self.sha256),
                            "sizes": self.sizes.tolist()})[:16]
