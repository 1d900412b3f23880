"""What all sections of a manifest have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from gate_cache.core.errors import TOLD


class Spec(BaseModel):
    """Base of every section: unknown fields refused, values not coerced, instances frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def sides(least: int, most: int) -> BeforeValidator:
    """A field for the side of a square, or for ``[height, width]``, each within these bounds."""
    def checked(value: Any) -> Any:
        both = list(value) if isinstance(value, list | tuple) else [value, value]
        if len(both) != 2 or any(type(v) is not int for v in both):
            raise PydanticCustomError(TOLD, "expected a whole number, or two as [height, width]")
        if not all(least <= v <= most for v in both):
            raise PydanticCustomError(TOLD, f"must be at least {least} and at most {most},"
                                      f" got {value}")
        return both[0] if both[0] == both[1] else both
    return BeforeValidator(checked)
