"""The table of samples: row i of every map in the store is sample i. Append-only."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError, did_you_mean
from gate_cache.core.fingerprint import fingerprint
from gate_cache.store.format.attrs import CHECKSUM, read_meta
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

    Attributes
    ----------
    ids : tuple of str
    sha256 : tuple of str, of each image's content
    sizes : (N, 2) int32 array of original height and width
    """

    def __init__(self, ids: Sequence[str], sha256: Sequence[str],
                 sizes: npt.NDArray[np.int32]) -> None:
        self.ids = tuple(ids)
        self.sha256 = tuple(sha256)
        self.sizes = sizes
        self._rows = {name: row for row, name in enumerate(self.ids)}
        self._exact = {key: row for row, key in enumerate(zip(self.ids, self.sha256, strict=True))}

    def __len__(self) -> int:
        return len(self.ids)

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

    def find(self, sample_id: str, sha256: str) -> int | None:
        """The row of a sample with this content, or None."""
        return self._exact.get((sample_id, sha256))

    def checksum(self) -> str:
        """Of the whole table."""
        sizes = self.sizes.tolist()
        return fingerprint({"ids": self.ids, "sha256": self.sha256, "sizes": sizes})[:16]


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
    return array_document(shape=(0, *shape), chunks=(chunk, *shape), dtype=dtype, compressors=None)


def append_samples(folder: Folder, new: Sequence[NewSample]) -> None:
    """Append rows; they count once the table's attribute says so, which comes last.

    Raises
    ------
    StoreError
        An id that is no path below a data set's root.
    """
    if bad := [s.id for s in new if not is_sample(s.id)]:
        raise StoreError(f"{bad[0]!r}: no id for an image: a path below the data set, without line"
                         " breaks; rename the file")
    old = read_samples(folder)
    sizes = np.array([[s.height, s.width] for s in new], np.int32).reshape(-1, 2)
    whole = Samples([*old.ids, *(s.id for s in new)], [*old.sha256, *(s.sha256 for s in new)],
                    np.concatenate([old.sizes, sizes]))
    for name, _, shape in _COLUMNS:
        resize(folder, f"{SAMPLES}/{name}", (len(whole), *shape))
        for key, data in column_chunks(whole, name, len(old) // SAMPLE_CHUNK):
            folder.write(key, [data])
    seal_samples(folder, whole)


def column_chunks(table: Samples, name: str, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """The files of a column, from a chunk on."""
    for chunk in range(first, -(-len(table) // SAMPLE_CHUNK)):
        rows = slice(chunk * SAMPLE_CHUNK, (chunk + 1) * SAMPLE_CHUNK)
        yield _chunk(name, chunk, 2 if name == "sha256" else 1), _encoded(table, name, rows)


def _encoded(table: Samples, name: str, rows: slice) -> bytes:
    """One chunk of a column, filled up to its full length."""
    if name == "id":
        ids = [i.encode() for i in table.ids[rows]]
        ids += [b""] * (SAMPLE_CHUNK - len(ids))
        return struct.pack("<I", len(ids)) + b"".join(struct.pack("<I", len(i)) + i for i in ids)
    if name == "sha256":
        raw = b"".join(map(bytes.fromhex, table.sha256[rows]))
        return raw.ljust(SAMPLE_CHUNK * 32, b"\0")
    raw = table.sizes[rows, ("height", "width").index(name)].astype("<i4").tobytes()
    return raw.ljust(SAMPLE_CHUNK * 4, b"\0")


def seal_samples(folder: Folder, table: Samples) -> None:
    """Say how many rows count, and what their checksum is."""
    write_group(folder, SAMPLES, {COUNT: len(table), CHECKSUM: table.checksum()})


def read_samples(folder: Folder, checked: bool = True) -> Samples:
    """Read the table, without Zarr; only rows counted in its attribute exist.

    Parameters
    ----------
    checked : whether it must have a checksum, as it has since format 2

    Raises
    ------
    StoreError
        It is missing or damaged.
    """
    attrs = (read_meta(folder, SAMPLES) or {}).get("attributes")
    try:
        found = TableAttrs.model_validate(attrs)
        table = _table(folder, found.count)
    except (Damaged, ValueError, struct.error):
        raise _damaged() from None
    if (checked or found.checksum) and table.checksum() != found.checksum:
        raise _damaged()
    return table


def _damaged() -> StoreError:
    return StoreError("the table of samples (samples/) is damaged; restore it from a copy: what is"
                      " in the rows cannot be told without it")


def _table(folder: Folder, count: int) -> Samples:
    ids = _strings(folder, count)
    digests = [row.tobytes().hex() for row in _numbers(folder, "sha256", count, "u1", 32)]
    sizes = np.concatenate([_numbers(folder, name, count, "<i4", 1)
                            for name in ("height", "width")], axis=1)
    if not all(map(is_sample, ids)) or (sizes < 1).any():
        raise Damaged("an id that is no path below a data set, or an image without pixels")
    return Samples(ids, digests, sizes.astype(np.int32))


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
    found: list[str] = []
    for raw in _chunks(folder, "id", count, 1):
        (number,), at = struct.unpack_from("<I", raw), 4
        for _ in range(number):
            (length,) = struct.unpack_from("<I", raw, at)
            if at + 4 + length > len(raw):
                raise Damaged("a chunk of ids is cut off")
            found.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
    if len(found) < count:
        raise Damaged("there are fewer ids than rows")
    return found[:count]


def _chunks(folder: Folder, name: str, count: int, ndim: int) -> Iterator[bytes]:
    """All chunks of a column, some at a time: how many there should be is only said."""
    for start in range(0, -(-count // SAMPLE_CHUNK), _AT_ONCE):
        stop = min(start + _AT_ONCE, -(-count // SAMPLE_CHUNK))
        for raw in folder.read_many([_chunk(name, i, ndim) for i in range(start, stop)]):
            if raw is None:
                raise Damaged(f"a chunk of {name} is missing")
            yield raw
