"""The done mark of a block: how many rows it holds, the checksum of their bytes, what made them.

One uint64 a block, written after the block's shards: crc32c over the raw bytes of each map's rows,
map after map in the group's order, in the low 32 bits, rows in the next 20, and in the highest 12
the number of a `Provenance`. 0: not done; a number of 0: not noted. On a disk `MARKS` of them share
a file, in which each is written in its place, so that several workers may; behind a URL, where
nothing is written in its place, and in stores of format 1 and 2, each has a file of its own. What
an array's metadata says counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.store.format.attrs import MEND, read_array
from gate_cache.store.format.checksums import Sums, joined, row_sums
from gate_cache.store.format.documents import Document, array_document
from gate_cache.store.format.layout import DONE, MADE, MARKS
from gate_cache.store.places.folders import Folder, is_number
from gate_cache.store.places.local import LocalFolder

Marks = npt.NDArray[np.uint64]
BYTES = 8
_NUMBER = 52
"""Bits of a mark below the number of its `Provenance`."""
_MARK = (1 << _NUMBER) - 1


@dataclass(frozen=True)
class Provenance:
    """What decides the last bits of maps, and is not in their recipe.

    A block's mark has its `number`; the attribute `made` of its group says what the number stands
    for.

    Attributes
    ----------
    device : that computed, as people call it: ``cpu``, ``cuda (NVIDIA H100)``
    batch : images of a pass
    tf32 : whether float32 may have been computed in TF32
    versions : of gate-cache, Python and the libraries
    """

    device: str
    batch: int
    tf32: bool
    versions: Mapping[str, str]

    @property
    def number(self) -> int:
        """From 1 to 4095, by content: workers who cannot ask each other give the same."""
        return 1 + int(fingerprint(asdict(self))[:8], 16) % 4095

    def noted(self, attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The attribute `MADE` with this one in it."""
        known, row = list(attrs.get(MADE, ())), {"number": self.number, **asdict(self)}
        return known if row in known else [*known, row]


def provenances(attrs: Mapping[str, Any]) -> dict[int, Provenance | None]:
    """What the numbers in a group's marks stand for; None where that is not known."""
    rows = attrs.get(MADE, ())
    found: dict[int, Provenance | None] = {
        row["number"]: Provenance(*(row[f.name] for f in fields(Provenance))) for row in rows}
    seen = Counter(row["number"] for row in rows)  # two may share one: one in 4095 does
    return {0: None, **found, **{n: None for n, count in seen.items() if count > 1}}


def mark(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """The done mark of a block's maps, each (rows, C, h, w)."""
    return mark_of(row_sums(arrays), [a[:1].nbytes for a in arrays.values()])


def mark_of(sums: Sums, lengths: Sequence[int]) -> int:
    """The done mark of rows with these checksums and lengths."""
    return int(sums.shape[1]) << 32 | joined(sums, lengths)


def document(blocks: int, width: int) -> Document:
    """The metadata of the array of marks, `width` in a file."""
    return {**_no_marks(width), "shape": [blocks]}


@cache
def _no_marks(width: int) -> Document:
    return array_document(shape=(0,), chunks=(width,), dtype="uint64", compressors=None,
                          fill_value=0, dimension_names=["block"])


class BlockMarks:
    """The marks of one group's blocks, as they are on disk now."""

    def __init__(self, folder: Folder, group: str) -> None:
        self._folder, self._array = folder, f"{group}/{DONE}"

    @cached_property
    def width(self) -> int:
        """Marks in a file; where the array's metadata does not say, as its files do."""
        meta = read_array(self._folder, self._array)
        if meta and meta.block in (1, MARKS):
            return meta.block
        names = self._folder.names(f"{self._array}/c")
        raw = self._folder.read(f"{self._array}/c/{names[0]}") if names else None
        return self._own_width if raw is None else 1 if len(raw) <= BYTES else MARKS

    @property
    def _own_width(self) -> int:
        """Of a new group."""
        return MARKS if isinstance(self._folder, LocalFolder) else 1

    @property
    def one_writer(self) -> bool:
        """Whether they can be written by one process only."""
        return self.width > self._own_width

    @property
    def slots(self) -> int:
        """How many blocks the array has a place for."""
        meta = read_array(self._folder, self._array)
        return meta.shape[0] if meta else 0

    def files(self) -> dict[int, bytes]:
        """All files, by number."""
        numbers = [int(n) for n in self._folder.names(f"{self._array}/c") if is_number(n)]
        contents = self._folder.read_many(list(map(self._key, numbers)))
        return {n: raw for n, raw in zip(numbers, contents, strict=True) if raw is not None}

    def known(self) -> dict[int, int]:
        """The mark of each block that has one, of files that are whole."""
        return {block: mark & _MARK for block, mark in self._known().items()}

    def numbers(self) -> dict[int, int]:
        """The number of its `Provenance` of each block that has a mark; 0 where it is not noted."""
        return {block: mark >> _NUMBER for block, mark in self._known().items()}

    def _known(self) -> dict[int, int]:
        return {file * self.width + i: mark for file, raw in self.files().items()
                if len(raw) == self.width * BYTES
                for i, mark in enumerate(np.frombuffer(raw, "<u8").tolist()) if mark}

    def read_all(self, blocks: int) -> Marks:
        """(blocks,): the marks of the group's first blocks.

        Raises
        ------
        StoreError
            One of them is damaged.
        """
        marks = np.zeros(blocks, np.uint64)
        for file, raw in self.files().items():
            if (start := file * self.width) < blocks:
                marks[start : start + self.width] = self._values(file, raw)[: blocks - start]
        return marks

    def read(self, block: int) -> int:
        """One block's mark."""
        file, place = divmod(block, self.width)
        raw = self._folder.read(self._key(file))
        return 0 if raw is None else int(self._values(file, raw)[place])

    def make_files(self, blocks: int) -> None:
        """Make the files that several workers will write marks into."""
        there = set(self._folder.names(f"{self._array}/c"))
        for file in range(-(-blocks // self.width) if self.width > 1 else 0):
            if str(file) not in there:
                self._folder.write(self._key(file), [bytes(self.width * BYTES)])

    def write(self, block: int, mark: int, number: int = 0) -> None:
        """Mark a block; `number` is that of its `Provenance`.

        0 is on the disk at once, since data may follow that the old mark does not vouch for. Of
        another mark a machine that goes down costs a block, no more: it may be late.
        """
        file, place = divmod(block, self.width)
        data = (mark | number << _NUMBER).to_bytes(BYTES, "little")
        if self.width == 1:
            self._folder.write(self._key(file), [data])
        else:
            self._folder.patch(self._key(file), place * BYTES, data, self.width * BYTES,
                               late=mark != 0)

    def _key(self, file: int) -> str:
        return f"{self._array}/c/{file}"

    def _values(self, file: int, raw: bytes) -> Marks:
        if len(raw) != self.width * BYTES:
            raise StoreError(f"{self._key(file)}: the mark of a finished block is damaged; {MEND}")
        return np.frombuffer(raw, "<u8").astype(np.uint64) & np.uint64(_MARK)


def rows_in(marks: Marks) -> npt.NDArray[np.int64]:
    """Valid rows of each block."""
    return (marks >> np.uint64(32)).astype(np.int64)


def valid(marks: Marks, block: int, rows: int) -> npt.NDArray[np.bool_]:
    """(rows,) bool: which rows a finished block holds.

    Parameters
    ----------
    marks : of all blocks
    """
    return np.asarray(np.arange(block) < rows_in(marks)[:, None]).reshape(-1)[:rows]
