"""The store's arithmetic: block size, and what lands on disk. No zarr, so a plan can use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate_cache.store.format.encodings import Encoding

FORMAT = 3
"""1: no checksums of attributes and of the table of samples. 2: a file for each block's mark, a
folder for each shard, and the table's checksum is of its JSON. Each array says how it is laid out,
so that what an older release has written is extended as it is."""
SAMPLES = "samples"
LATENTS = "latents"
LATENT_MAP = "x0"
DONE = "done"
MARKS = 1024
"""Of blocks, that share a file on a disk."""
SUMS = "sums"
"""Array of a group: the checksums of its rows, bound to the group, the map and the block."""
ABSENT = "absent"
"""Attribute of a group: rows of finished blocks whose image was gone; they hold NaN."""
MADE = "made"
"""Attribute of a group: each `Provenance` of its blocks, whose marks have its number."""
BLOCK_BYTES = 96 * 2**20
BLOCK_ROWS = (8, 1024)
BLOCK_MOST = 2**16
SAMPLE_CHUNK = 1024

_CRC = 4
_INDEX_ENTRY = 16
_GROUP_META = 2000
_ARRAY_META = 1000

Shapes = Mapping[str, tuple[int, ...]]
"""Map name to the shape of one image's map."""


def block_rows(shapes: Iterable[tuple[int, ...]], encoding: Encoding) -> int:
    """Rows of a block: about 96 MB of the largest map, between 8 and 1,024, a power of two.

    16 for SD v1.5 at 512 pixels (5.2 MB a row in its largest map, float16).
    """
    largest = max(encoding.nbytes(shape) for shape in shapes)
    low, high = BLOCK_ROWS
    return 1 << round(math.log2(min(max(BLOCK_BYTES / largest, low), high)))


@dataclass(frozen=True)
class Footprint:
    """Bytes, files and folders of one group on disk.

    Attributes
    ----------
    at_most : whether the bytes are the most that it can be, since they are compressed
    """

    bytes: int
    files: int
    folders: int
    at_most: bool = False


def group_footprint(shapes: Shapes, encoding: Encoding, rows: int, block: int) -> Footprint:
    """What a finished group of `rows` images takes: shards, their indexes, metadata, done.

    Parameters
    ----------
    shapes : map name to (C, h, w)
    encoding : how maps are stored
    rows : images
    block : rows of a shard
    """
    blocks = math.ceil(rows / block)
    parts = [part for shape in shapes.values() for part in encoding.parts(shape)]
    data = sum(rows * (encoding.codec.most(part.nbytes) if encoding.codec else part.nbytes)
               for part in parts) + rows * len(parts) * _CRC
    index = len(parts) * blocks * (block * _INDEX_ENTRY + _CRC)
    meta = _metadata(len(parts))
    marks = math.ceil(blocks / MARKS)
    bound = marks * MARKS * 8 + blocks * (len(parts) * block * _CRC + _CRC)
    return Footprint(data + index + meta + bound, (len(parts) + 1) * (blocks + 1) + marks + 2,
                     len(parts) + 5, encoding.codec is not None)


def samples_footprint(ids: Iterable[str]) -> Footprint:
    """What the table of samples takes: ids, sha256, height and width."""
    lengths = [len(i.encode()) for i in ids]
    chunks = math.ceil(len(lengths) / SAMPLE_CHUNK)
    columns = SAMPLE_CHUNK * (4 + 32 + 4 + 4) + 4  # id's length prefixes, sha256, height, width
    return Footprint(sum(lengths) + chunks * columns + 5 * 600, 4 * (chunks + 1) + 1, chunks + 9)


def listing_bytes(shapes: Shapes, encoding: Encoding) -> int:
    """What a group takes in the list of all arrays, in the store's own metadata."""
    return _metadata(sum(len(encoding.parts(shape)) for shape in shapes.values()))


def _metadata(parts: int) -> int:
    return _GROUP_META + (parts + 2) * _ARRAY_META


class Blocks(list[range]):
    """Row ranges of blocks; whether one is among them is told without a search."""

    def __init__(self, blocks: Iterable[range]) -> None:
        super().__init__(blocks)
        self._set = frozenset(self)

    def __contains__(self, rows: object) -> bool:
        return rows in self._set


def blocks_of(rows: int, block: int) -> list[range]:
    """The row ranges of all blocks."""
    return [range(start, min(start + block, rows)) for start in range(0, rows, block)]
