"""The table of samples on disk: a column of ids, of digests, of heights and of widths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numcodecs.vlen import VLenUTF8

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import CHECKSUM, read_meta
from gate_cache.store.format.documents import (
    Document,
    array_document,
    resize,
    write_array,
    write_group,
)
from gate_cache.store.format.layout import SAMPLE_CHUNK, SAMPLES
from gate_cache.store.format.samples import NewSample, Samples
from gate_cache.store.format.schema import TableAttrs, are_samples, is_sample
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
    if not are_samples(ids) or (sizes < 1).any():
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
