"""The border: what may stand in a store's files, and within which bounds.

A checksum says that a file is what somebody wrote, not that it makes sense; stores come from
strangers too. Everything that is read from one is looked at here before a name of it becomes a
path, or a number of it memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json

from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.size import Fit
from gate_cache.store.format.layout import BLOCK_MOST, DONE, SUMS

ROW_BYTES = 2**30
"""Of one map of one image, at most: SDXL's largest takes 21 MB in float32 at 1024 pixels."""
ROWS = 2**40
_LONGEST = 4096
_ID = re.compile(rf"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]{{0,{_LONGEST - 1}}}")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("cannot be printed")
    return text


def _free(name: str) -> str:
    if name in (DONE, SUMS) or name.endswith(".json"):
        raise ValueError("has another use")
    return name


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+=-]{0,150}$")]
MapName = Annotated[Name, AfterValidator(_free)]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Row = Annotated[int, Field(ge=0, lt=ROWS)]
Side = Annotated[int, Field(ge=1, le=2**20)]


class _Model(BaseModel):
    """Of the fields that are used here; others may stand beside them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class StoreAttrs(_Model):
    """A store's own attributes."""

    format: Annotated[int, Field(ge=1)]
    dataset: Text
    block: Annotated[int, Field(ge=1, le=BLOCK_MOST)]
    batch: Annotated[int, Field(ge=1, le=2**20)]
    threads: Annotated[int, Field(ge=1, le=2**16)] | None = None
    versions: dict[Text, Text]


Sides = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]


class _Tiles(_Model):
    size: Sides
    overlap: Annotated[int, Field(ge=0)]


class _Pooling(_Model):
    grid: Sides
    pool: Literal["mean", "max"]


class _Recipe(_Model):
    kind: Name
    maps: list[Name] | None = None
    settings: dict[str, Any] | None = None
    size: Sides | None = None
    tiles: _Tiles | None = None
    resize: Fit | None = None
    latents: Text | None = None
    pooling: dict[MapName, _Pooling] = {}
    compute: Name | None = None
    shapes: Annotated[list[Annotated[list[Side], Field(min_length=2, max_length=2)]],
                      Field(min_length=1, max_length=1000)] | None = None
    shape: list[Side] | None = None

    @model_validator(mode="after")
    def _among(self) -> _Recipe:
        if self.shape and self.shape not in (self.shapes or ()):
            raise ValueError("has a shape that is none of its shapes")
        return self


class _Made(_Model):
    number: Annotated[int, Field(ge=1, lt=4096)]
    device: Text
    batch: Annotated[int, Field(ge=1)]
    tf32: bool
    versions: dict[Text, Text]


class GroupAttrs(_Model):
    """Attributes of a group of maps; its fingerprint is that of its recipe."""

    combo: Name
    kind: Name
    fingerprint: Digest
    maps: Annotated[list[MapName], Field(min_length=1, max_length=1000)]
    recipe: dict[str, Any]
    absent: list[Row] = []
    devices: list[Text] = []
    made: Annotated[list[_Made], Field(max_length=10_000)] = []
    tokens: list[str] = []
    versions: dict[Text, Text] = {}
    source: dict[str, Any] = {}
    model: Text = ""

    @model_validator(mode="after")
    def _agrees(self) -> GroupAttrs:
        _Recipe.model_validate(self.recipe)
        if self.fingerprint != fingerprint(self.recipe) or self.kind != self.recipe["kind"] \
                or len(set(self.maps)) < len(self.maps):
            raise ValueError("is not what its recipe says")
        return self


class _ChunkShape(_Model):
    chunk_shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(max_length=4)]


class _Grid(_Model):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Separator(_Model):
    separator: Literal["/", "."] = "/"


class _Keys(_Model):
    name: Literal["default"]
    configuration: _Separator = _Separator()


class ArrayDocument(_Model):
    """An array's ``zarr.json``: rows along the first axis, each in one piece."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[list[Row], Field(min_length=1, max_length=4)]
    data_type: Literal["float16", "float32", "int8", "uint8", "uint16", "uint32", "uint64",
                       "int32", "string"]
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    codecs: list[dict[str, Any]]

    @property
    def chunks(self) -> list[int]:
        """Of the grid."""
        return self.chunk_grid.configuration.chunk_shape

    @model_validator(mode="after")
    def _fits(self) -> ArrayDocument:
        row = self.shape[1:]
        if self.chunks[1:] != row or len(self.chunks) != len(self.shape) \
                or not 0 < 8 * math.prod(row) <= ROW_BYTES:
            raise ValueError("has rows in pieces, or none, or too large ones")
        return self


class TableAttrs(_Model):
    """Attributes of the table of samples."""

    count: Row
    checksum: Annotated[str, StringConstraints(
        pattern="^([0-9a-f]{16}|[0-9a-f]{64})$")] | None = None


def parse(raw: bytes | None) -> dict[str, Any] | None:
    """A JSON object; None where it is none, or holds what no file of a store does.

    That is NaN and infinity, text that is no Unicode, and brackets too deep to walk.
    """
    try:
        document = from_json(raw or b"", allow_inf_nan=False)
        json.dumps(document, allow_nan=False)  # 1e999 is read as infinity
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def fits(model: type[BaseModel], found: Mapping[str, Any]) -> bool:
    """Whether attributes are what the schema says."""
    try:
        model.model_validate(dict(found))
    except ValidationError:
        return False
    return True


def is_sample(sample_id: str) -> bool:
    """Whether a text may be a sample's id: a path that stays below the data set's root."""
    return _ID.fullmatch(sample_id) is not None and ".." not in sample_id.split("/")


def are_samples(ids: Sequence[str]) -> bool:
    """As `is_sample`, of many: nearly all are plain, which is seen of all of them at once."""
    text = "\n".join(["", *ids, ""])
    plain = "".join(ids).isprintable() and max(map(len, ids), default=0) < _LONGEST \
        and not any(odd in text for odd in ("..", "\n/", "\n\n"))
    return plain or all(map(is_sample, ids))
