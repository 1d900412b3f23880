"""What other packages add, by entry point. Nothing of theirs is imported before it is used."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gate_cache.core.errors import UserError


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name; looked for once, which takes some milliseconds."""
    return {point.name: point for point in entry_points(group=group)}


def load_plugin(group: str, name: str) -> Any:
    """Import one of `installed`; `UserError` where that fails, or refuses by itself."""
    point = installed(group)[name]
    try:
        return point.load()
    except Exception as error:  # importing runs others' code, which may raise anything
        raise UserError(f"{point.value} cannot be imported ({error})") from error
