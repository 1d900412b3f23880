"""A ``zarr.json`` as a whole: laid out by Zarr in memory, sealed, written by our own folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import (
    ATTRS,
    MEND,
    META,
    read_array,
    read_meta,
    sealed,
    sealed_array,
)

if TYPE_CHECKING:
    from gate_cache.core.codecs import Codec
    from gate_cache.store.format.encodings import Part
    from gate_cache.store.places.folders import Folder

Document = dict[str, Any]


def dumped(document: Document) -> bytes:
    """As Zarr writes it."""
    return json.dumps(document, indent=2).encode()


def array_document(**spec: Any) -> Document:
    """The metadata of an array, as `zarr.create_array` takes it."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    zarr.create_array(MemoryStore(files), name="array", **spec)
    document: Document = json.loads(files[f"array/{META}"].to_bytes())
    return document


def map_document(shape: tuple[int, ...], block: int, dtype: str) -> Document:
    """The metadata of a map in a store of format 1."""
    from zarr.codecs import Crc32cCodec

    return array_document(
        shape=shape, chunks=(1, *shape[1:]), shards=(block, *shape[1:]), dtype=dtype,
        compressors=[Crc32cCodec()], fill_value=float("nan"),
        dimension_names=("sample", "channel", "y", "x"))


def write_array(folder: Folder, key: str, document: Document) -> None:
    """Write an array's metadata, sealed and to stay."""
    folder.write(f"{key}/{META}", [dumped(sealed_array(document))])


def make_array(folder: Folder, key: str, **spec: Any) -> None:
    """Make an array; only its metadata is written."""
    write_array(folder, key, array_document(**spec))


def make_part(folder: Folder, key: str, part: Part, block: int, codec: Codec | None) -> None:
    """An empty array of a map: a chunk a row, a shard a block, each chunk with its checksum.

    Parameters
    ----------
    folder : the store
    key : the array's folder in it
    part : shape and dtype of a row
    block : rows of a shard
    codec : that compresses each chunk; None leaves it raw
    """
    from zarr.codecs import Crc32cCodec

    array = key.rpartition("/")[2]  # xarray asks that what is called alike is as long
    document = array_document(
        shape=(0, *part.shape),
        chunks=(1, *part.shape),
        shards=(block, *part.shape),
        dtype=part.dtype,
        compressors=[Crc32cCodec()],
        fill_value=part.fill,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["sample", *(f"{array}_{axis}" for axis in "cyx"[: len(part.shape)])],
        attributes={ATTRS: {"decode": part.decode}} if part.decode else None,
    )
    if codec:
        inside = document["codecs"][0]["configuration"]
        itemsize = part.nbytes // max(math.prod(part.shape), 1)
        inside["codecs"] = [*codec.documents(itemsize), inside["codecs"][-1]]
    write_array(folder, key, document)


def resize(folder: Folder, key: str, shape: Sequence[int]) -> None:
    """Change the shape in an array's metadata.

    Raises
    ------
    StoreError
        It is damaged: it must not be sealed anew.
    """
    document = read_meta(folder, key)
    if document is None or read_array(folder, key) is None:
        raise StoreError(f"{key}/{META} is damaged; {MEND}")
    write_array(folder, key, {**document, "shape": list(shape)})


def put_attrs(folder: Folder, key: str, attrs: Mapping[str, Any]) -> Document:
    """Write our attributes on a group, sealed and to stay; returns them."""
    done = sealed(attrs)
    write_group(folder, key, {ATTRS: done})
    return done


def write_group(folder: Folder, key: str, attributes: Document) -> None:
    """Write attributes of a group, to stay; others that it has stay too."""
    meta = read_meta(folder, key) or {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    old = meta.get("attributes")
    old = old if isinstance(old, dict) else {}
    name = f"{key}/{META}" if key else META
    folder.write(name, [dumped({**meta, "attributes": {**old, **attributes}})])
