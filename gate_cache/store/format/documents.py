"""A ``zarr.json`` as a whole: laid out by Zarr in memory, sealed, written by our own folders.

The store's own lists all groups and arrays (Zarr's consolidated metadata), for readers where
folders cannot be listed, as on most web servers. A writer that ends brings the list up to date;
until then, or after a kill, it says what was there before, which is still there.
"""

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
from gate_cache.store.format.layout import DONE

if TYPE_CHECKING:
    from gate_cache.core.codecs import Codec
    from gate_cache.store.format.encodings import Part
    from gate_cache.store.places.folders import Folder

Document = dict[str, Any]
LISTING = "consolidated_metadata"


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


def make_part(folder: Folder, key: str, part: Part, block: int, codec: Codec | None) -> None:
    """Make an empty array of a map: a chunk a row, a shard a block, each chunk with its checksum.
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


def collected(folder: Folder) -> Document:
    """The list as the store is now."""
    nodes: dict[str, Document] = {}
    for name in folder.names():
        group = read_meta(folder, name)
        if name == META or group is None or group.get("node_type") != "group":
            continue
        nodes[name] = group
        for array in folder.names(name):
            if array != META and (document := read_meta(folder, f"{name}/{array}")):
                nodes[f"{name}/{array}"] = document
    return {"kind": "inline", "must_understand": False, "metadata": nodes}


def write_listing(folder: Folder) -> None:
    """Bring the list up to date; nothing is written where it is."""
    own, now = read_meta(folder), collected(folder)
    if own is not None and own.get(LISTING) != now:
        folder.write(META, [dumped({**own, LISTING: now})])


def listed_names(folder: Folder, key: str) -> list[str] | None:
    """What is directly below a key by the list; None where there is none, or it does not say."""
    listing = (read_meta(folder) or {}).get(LISTING)
    nodes = listing.get("metadata") if isinstance(listing, dict) else None
    if not isinstance(nodes, dict):
        return None
    group, _, rest = key.partition("/")
    if rest == f"{DONE}/c":
        marks = read_array(folder, f"{group}/{DONE}")
        return [str(i) for i in range(-(-marks.shape[0] // marks.block))] if marks else []
    if rest:
        return None
    start = f"{key}/" if key else ""
    below = {name.removeprefix(start).partition("/")[0] for name in nodes if name.startswith(start)}
    return sorted(filter(str.isprintable, {META, *below}))
