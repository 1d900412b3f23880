"""The table of samples: row i of every map in the store is sample i. Append-only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numcodecs.vlen import VLenUTF8

from gate_cache.core.errors import StoreError, did_you_mean
from gate_cache.core.fingerprint import fingerprint
from gate_cache.store.format.attrs import CHECKSUM, read_meta
from gate_cache.store.format.checksums import Digests, raw_digests
from gate_cache.store.format.documents import (
    Document,
    array_document,
    resize,
    write_array,
    write_group,
)
from gate_cache.store.format.layout import SAMPLE_CHUNK, SAMPLES
from gate_cache.store.format.schema import TableAttrs, is_sample
from gate_cache.store.format.shards import Damaged

if TYPE_CHECKING:
    from gate_cache.store.places.folders import Folder

_COLUMNS: tuple[tuple[str, Any, tuple[int, ...]], ...] = (
    ("id", "string", ()),
    ("sha256", "uint8", (32,)),
    ("height", "int32", ()),
    ("width", "int32", ()),
)
COLUMNS = tuple(name for name, _, _ in _COLUMNS)
COUNT = "count"
SHORT_CHECKSUM = 16
"""Digits of the checksum that formats before the third have."""
_AT_ONCE = 256
"""Chunks of a column read at once."""


@dataclass(frozen=True)
class NewSample:
    """A row to append."""

    id: str
    sha256: str
    height: int
    width: int


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
        """(n,): the newest row of each sample, or -1."""
        known = self._rows
        return np.fromiter((known.get(i, -1) for i in ids), np.int64, len(ids))

    def places(self, newest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(N,): the place of each row's sample among those whose newest rows are given, or -1."""
        places, known = np.full(len(self), -1), newest >= 0
        places[newest[known]] = known.nonzero()[0]
        for name, rows in self._older.items():
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
        rows = self.newest(ids)
        other = (rows >= 0) & (self.sha256.raw[rows] != sha256).any(1) if len(self) else rows >= 0
        rows[other] = [self._before(ids[i], sha256[i]) for i in other.nonzero()[0].tolist()]
        return rows

    def _before(self, sample_id: str, sha256: npt.NDArray[np.uint8]) -> int:
        return next((row for row in self._older.get(sample_id, ())
                     if (self.sha256.raw[row] == sha256).all()), -1)

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
        for start in range(0, len(self), _AT_ONCE * SAMPLE_CHUNK):
            ids = self.ids[start : start + _AT_ONCE * SAMPLE_CHUNK]
            digest.update("\n".join([*ids, ""]).encode())
        for numbers in (self.sha256.raw, self.sizes.astype("<i4")):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()

    def first_checksum(self) -> str:
        """As formats before the third have it."""
        return fingerprint({"ids": self.ids, "sha256": list(self.sha256),
                            "sizes": self.sizes.tolist()})[:16]


def create_samples(folder: Folder) -> None:
    """Make an empty table in a store."""
    for name in COLUMNS:
        write_array(folder, f"{SAMPLES}/{name}", column_document(name, 0))
    seal_samples(folder, Samples((), (), np.zeros((0, 2), np.int32)))


def column_document(name: str, count: int) -> Document:
    """The metadata of a column."""
    empty = _empty_column(name, SAMPLE_CHUNK)
    return {**empty, "shape": [count, *empty["shape"][1:]]}


@cache
def _empty_column(name: str, chunk: int) -> Document:
    dtype, shape = next((dtype, shape) for n, dtype, shape in _COLUMNS if n == name)
    return array_document(shape=(0, *shape), chunks=(chunk, *shape), dtype=dtype, compressors=None,
                          dimension_names=["sample", "byte"][: 1 + len(shape)])


def append_samples(folder: Folder, old: Samples, new: Sequence[NewSample]) -> Samples:
    """Append rows, and return the whole table; they count once the table's attribute says so,
    which comes last.

    Raises
    ------
    StoreError
        An id that is no path below a data set's root.
    """
    if bad := [s.id for s in new if not is_sample(s.id)]:
        raise StoreError(f"{bad[0]!r}: no id for an image: a path below the data set, without line"
                         " breaks; rename the file")
    whole = old.extended(new)
    for name, _, shape in _COLUMNS:
        resize(folder, f"{SAMPLES}/{name}", (len(whole), *shape))
        for key, data in column_chunks(whole, name, len(old) // SAMPLE_CHUNK):
            folder.write(key, [data])
    seal_samples(folder, whole)
    return whole


def column_chunks(table: Samples, name: str, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """The files of a column, from a chunk on."""
    for chunk in range(first, -(-len(table) // SAMPLE_CHUNK)):
        rows = slice(chunk * SAMPLE_CHUNK, (chunk + 1) * SAMPLE_CHUNK)
        yield _chunk(name, chunk, 2 if name == "sha256" else 1), _encoded(table, name, rows)


def _encoded(table: Samples, name: str, rows: slice) -> bytes:
    """One chunk of a column, filled up to its full length."""
    if name == "id":
        ids = table.ids[rows]
        filled = np.array([*ids, *[""] * (SAMPLE_CHUNK - len(ids))], object)
        return bytes(VLenUTF8().encode(filled))
    if name == "sha256":
        return table.sha256.raw[rows].tobytes().ljust(SAMPLE_CHUNK * 32, b"\0")
    raw = table.sizes[rows, ("height", "width").index(name)].astype("<i4").tobytes()
    return raw.ljust(SAMPLE_CHUNK * 4, b"\0")


def seal_samples(folder: Folder, table: Samples) -> None:
    """Say how many rows count, and what their checksum is."""
    write_group(folder, SAMPLES, {COUNT: len(table), CHECKSUM: table.checksum()})


def read_samples(folder: Folder, store_format: int) -> Samples:
    """Read the table, without Zarr; only rows counted in its attribute exist.

    Parameters
    ----------
    store_format : it must have a checksum since the second

    Raises
    ------
    StoreError
        It is missing or damaged.
    """
    attrs = (read_meta(folder, SAMPLES) or {}).get("attributes")
    try:
        header = TableAttrs.model_validate(attrs)
        table = _table(folder, header.count)
    except ValueError:  # Damaged is one
        raise _damaged() from None
    if (store_format > 1 or header.checksum) and table_checksum(table, header.checksum) \
            != header.checksum:
        raise _damaged()
    return table


def table_checksum(table: Samples, stated: str | None) -> str:
    """What the table's attribute must say, in the manner in which it says it."""
    return table.first_checksum() if stated and len(stated) == SHORT_CHECKSUM else table.checksum()


def _damaged() -> StoreError:
    return StoreError("the table of samples (samples/) is damaged; restore it from a copy: what is"
                      " in the rows is unknown without it")


def _table(folder: Folder, count: int) -> Samples:
    ids = _strings(folder, count)
    digests = _numbers(folder, "sha256", count, "u1", 32)
    sizes = np.concatenate([_numbers(folder, name, count, "<i4", 1)
                            for name in ("height", "width")], axis=1)
    if not all(map(is_sample, ids)) or (sizes < 1).any():
        raise Damaged("an id that is no path below a data set, or an image without pixels")
    return Samples(ids, digests, sizes.astype(np.int32, copy=False))


def _chunk(name: str, chunk: int, ndim: int = 1) -> str:
    return f"{SAMPLES}/{name}/c/{chunk}{'/0' * (ndim - 1)}"


def _numbers(folder: Folder, name: str, count: int, dtype: str,
             width: int) -> npt.NDArray[Any]:
    """(count, width): a column of numbers."""
    parts = [np.frombuffer(raw, dtype).reshape(SAMPLE_CHUNK, width)
             for raw in _chunks(folder, name, count, 2 if name == "sha256" else 1)]
    return np.concatenate([np.zeros((0, width), dtype), *parts])[:count]


def _strings(folder: Folder, count: int) -> list[str]:
    """A column of strings: in each chunk their number, then length and UTF-8 of each."""
    ids: list[str] = []
    for raw in _chunks(folder, "id", count, 1):
        if raw[:4] != SAMPLE_CHUNK.to_bytes(4, "little"):  # before memory is taken for so many
            raise Damaged("a chunk of ids holds another number of them")
        ids += VLenUTF8().decode(raw).tolist()
    return ids[:count]


def _chunks(folder: Folder, name: str, count: int, ndim: int) -> Iterator[bytes]:
    """All chunks of a column, some at a time: how many there should be is only said."""
    for start in range(0, -(-count // SAMPLE_CHUNK), _AT_ONCE):
        stop = min(start + _AT_ONCE, -(-count // SAMPLE_CHUNK))
        for raw in folder.read_many([_chunk(name, i, ndim) for i in range(start, stop)]):
            if raw is None:
                raise Damaged(f"a chunk of {name} is missing")
            yield raw
