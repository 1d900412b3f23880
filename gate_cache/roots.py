"""Where things are: the four roots, and paths that cannot leave them unasked."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from gate_cache.errors import UserError


@dataclass(frozen=True)
class Roots:
    """The folders below which a manifest's relative paths are looked up.

    Each is, in this order: the command's option (``--data``, ``--models``, ``--stores``,
    ``--runs``), the environment (``GATE_CACHE_DATA`` …), or a folder of that name here.
    """

    data: Path = Path("data")
    models: Path = Path("models")
    stores: Path = Path("stores")
    runs: Path = Path("runs")
    outside: bool = False

    @classmethod
    def resolve(cls, outside: bool = False, **given: Path | None) -> Roots:
        """Fill what was not given from the environment, then from the defaults."""
        names = [f.name for f in fields(cls) if f.name != "outside"]
        chosen = {name: given.get(name) or _from_env(name) for name in names}
        return cls(outside=outside, **chosen)

    def absolute(self) -> Roots:
        """The same folders for a process that works elsewhere."""
        data, models, stores, runs = (p.resolve() for p in (self.data, self.models, self.stores,
                                                            self.runs))
        return Roots(data, models, stores, runs, self.outside)

    def below(self, root: str, path: str, place: str) -> Path:
        """Return ``<root>/<path>``; `place` is what a message calls the field.

        Raises
        ------
        UserError
            The path is absolute or climbs out with ``..`` and that was not allowed. Links that
            the user made inside a root are followed.
        """
        base = getattr(self, root)
        problem = None if self.outside else escapes(path)
        if problem:
            raise UserError(f"{place}: '{path}' {problem}; paths are relative to the {root} root"
                            f" ({base}), or say --allow-outside")
        return Path(base) / path


def _from_env(name: str) -> Path:
    return Path(os.environ.get(f"GATE_CACHE_{name.upper()}") or name)


def escapes(path: str) -> str | None:
    """Say how a relative path would leave its root, or None."""
    if os.path.isabs(path) or path.startswith("~") or (len(path) > 1 and path[1] == ":"):
        return "is absolute"
    if ".." in Path(path.replace("\\", "/")).parts:
        return "climbs out with '..'"
    return None
