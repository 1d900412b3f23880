"""The table of samples: row i of every map in the store is sample i. Append-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from gate_cache.errors import StoreError, did_you_mean
from gate_cache.store.attrs import array_in
from gate_cache.store.layout import SAMPLE_CHUNK, SAMPLES

_COLUMNS: tuple[tuple[str, Any, tuple[int, ...]], ...] = (
    ("id", "string", ()),
    ("sha256", "uint8", (32,)),
    ("height", "int32", ()),
    ("width", "int32", ()),
)
COLUMNS = tuple(name for name, _, _ in _COLUMNS)


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


def create_samples(store: zarr.Group) -> None:
    """Make an empty table in a store's root group."""
    table = store.create_group(SAMPLES, attributes={"count": 0}, overwrite=True)
    for name, dtype, shape in _COLUMNS:
        table.create_array(name, shape=(0, *shape), chunks=(SAMPLE_CHUNK, *shape), dtype=dtype,
                           compressors=None)


def append_samples(store: zarr.Group, new: Sequence[NewSample]) -> None:
    """Append rows; they count once the table's attribute says so, which comes last."""
    table, start = _table(store), _count(store)
    stop = start + len(new)
    values = {
        "id": np.array([s.id for s in new], dtype=np.dtypes.StringDType()),
        "sha256": np.array([list(bytes.fromhex(s.sha256)) for s in new], np.uint8),
        "height": np.array([s.height for s in new], np.int32),
        "width": np.array([s.width for s in new], np.int32),
    }
    for name, column in values.items():
        array = array_in(table, name)
        array.resize((stop, *array.shape[1:]))
        array[start:stop] = column
    table.attrs.update({"count": stop})


def read_samples(store: zarr.Group) -> Samples:
    """Read the table; only rows counted in its attribute exist."""
    table, count = _table(store), _count(store)
    columns = {name: np.asarray(array_in(table, name)[:count]) for name in COLUMNS}
    digests = [row.tobytes().hex() for row in columns["sha256"]]
    sizes = np.stack([columns["height"], columns["width"]], axis=1)
    return Samples([str(i) for i in columns["id"]], digests, sizes)


def _table(store: zarr.Group) -> zarr.Group:
    table = store[SAMPLES]
    assert isinstance(table, zarr.Group)
    return table


def _count(store: zarr.Group) -> int:
    return int(cast(int, _table(store).attrs.asdict().get("count", 0)))
