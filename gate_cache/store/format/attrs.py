"""What is written on Zarr groups and arrays, read without Zarr: ``zarr.json`` is plain JSON.

Our attributes are below one key, so that other tools may add theirs. Since format 2 they carry a
checksum of themselves, and those of an array one of all its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from gate_cache.core.fingerprint import fingerprint
from gate_cache.store.format.schema import ArrayDocument, GroupAttrs, fits, parse
from gate_cache.store.format.shards import Packing, packing_of

if TYPE_CHECKING:
    from gate_cache.store.places.folders import Folder

ATTRS = "gate_cache"
CHECKSUM = "checksum"
META = "zarr.json"
MEND = "run 'gate-cache verify --repair', then 'gate-cache extract'"


@dataclass(frozen=True)
class ArrayMeta:
    """An array's metadata.

    Attributes
    ----------
    shape : (N, …)
    block : rows of a shard (of a chunk, where it has no shards)
    packing : of its shards; ``other`` where it has none
    separator : of the parts of a shard's key: with ``.`` it needs no folders of its own
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block: int
    packing: Packing
    separator: str = "/"

    @property
    def chunk(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize


def read_meta(folder: Folder, key: str = "") -> dict[str, Any] | None:
    """The metadata of a group or array; None where there is none, or it is no JSON object."""
    return parse(folder.read(f"{key}/{META}" if key else META))


def own_attrs(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Our attributes in a group's or array's metadata; empty where there are none."""
    attributes = (meta or {}).get("attributes")
    ours = attributes.get(ATTRS) if isinstance(attributes, dict) else None
    return dict(ours) if isinstance(ours, dict) else {}


def read_attrs(folder: Folder, key: str = "") -> dict[str, Any]:
    """What we wrote on a group; empty where it is not ours."""
    return own_attrs(read_meta(folder, key))


def read_array(folder: Folder, key: str) -> ArrayMeta | None:
    """The metadata of an array; None where there is none, or it is damaged."""
    meta = read_meta(folder, key)
    if meta is None or (CHECKSUM in own_attrs(meta) and not is_sound_array(meta)):
        return None
    try:
        array = ArrayDocument.model_validate(meta)
    except ValidationError:
        return None
    dtype = "T" if array.data_type == "string" else array.data_type
    return ArrayMeta(tuple(array.shape), np.dtype(dtype), array.chunks[0],
                     packing_of(array.codecs, array.shape[1:]),
                     array.chunk_key_encoding.configuration.separator)


def sealed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with a checksum of all others."""
    rest = {k: v for k, v in attrs.items() if k != CHECKSUM}
    return {**rest, CHECKSUM: fingerprint(rest)[:16]}


def is_sound(attrs: Mapping[str, Any]) -> bool:
    """Whether attributes are what was sealed."""
    return dict(attrs) == sealed(attrs)


def sealed_array(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with a checksum of all of it, but for other tools' attributes."""
    attributes = document.get("attributes")
    rest = {k: v for k, v in document.items() if k != "attributes"}
    ours = {k: v for k, v in own_attrs(document).items() if k != CHECKSUM}
    ours[CHECKSUM] = fingerprint({**rest, ATTRS: ours})[:16]
    others = attributes if isinstance(attributes, dict) else {}
    return {**document, "attributes": {**others, ATTRS: ours}}


def is_sound_array(document: Mapping[str, Any]) -> bool:
    """Whether an array's metadata is what was sealed."""
    return document == sealed_array(document)


def is_whole(attrs: Mapping[str, Any], store_format: int) -> bool:
    """Whether a group's attributes are what was sealed, and make sense; format 1 seals nothing."""
    return was_sealed(attrs, store_format) and fits(GroupAttrs, attrs)


def was_sealed(attrs: Mapping[str, Any], store_format: int) -> bool:
    """Whether attributes carry their checksum; format 1 has none."""
    return is_sound(attrs) or (store_format == 1 and bool(attrs) and CHECKSUM not in attrs)
