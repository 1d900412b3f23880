"""What a manifest says of how maps are made smaller and stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gate_cache.core.codecs import Codec
from gate_cache.core.errors import TOLD
from gate_cache.core.features import Pool
from gate_cache.manifest.base import Spec, sides


class MapSize(Spec):
    """A map made smaller as it is extracted: pooled over the cells of a grid."""

    grid: Annotated[int | list[int], sides(1, 512)] | None = Field(
        None, description="cells a side, or [height, width] [all of the map]")
    pool: Pool = "mean"


def by_name(value: Any) -> Any:
    """Maps by name, also where only their names are given."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise PydanticCustomError(TOLD, "a map is named twice")
        return {name: {} for name in value}
    return {n: v or {} for n, v in value.items()} if isinstance(value, dict) else value


def _known_codec(value: Any) -> Any:
    try:
        return value if value is None else Codec.parse(value).to_json()
    except ValueError as error:
        raise PydanticCustomError(TOLD, "{why}", {"why": str(error)}) from None


class StoreSpec(Spec):
    """Where the store is (below the stores root) and how it is laid out."""

    path: str | None = None
    dtype: Literal["float16", "float32", "bfloat16", "int8"] = "float16"
    keep_bits: int | None = Field(None, ge=1, description="of the mantissa of a float")
    codec: Annotated[str | dict[str, Any] | None, AfterValidator(_known_codec)] = Field(
        None, description="a name, or {name: blosc, cname: zstd, …}")
    latents: bool = Field(True, description="kept, so that later combos need not encode again")
    block: int | None = Field(None, ge=1, le=1024)
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
