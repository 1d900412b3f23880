"""The four roots below which paths are looked up, and which they leave only with permission."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from gate_cache.core.errors import UserError
from gate_cache.core.places import Place, Url, is_url, parse_place

_HUB = ("stores there are only pushed and pulled; write to a disk or a bucket, then: gate-cache"
        " push STORE URL")


@dataclass(frozen=True)
class Roots:
    """The folders below which a manifest's relative paths are looked up.

    Each is, in this order: the command's option (``--data``, ``--models``, ``--stores``,
    ``--runs``), the environment (``GATE_CACHE_DATA`` …), or a folder of that name here. The stores
    may be behind a URL, such as ``s3://bucket/stores``.
    """

    data: Path = Path("data")
    models: Path = Path("models")
    stores: Place = Path("stores")
    runs: Path = Path("runs")
    outside: bool = False

    @classmethod
    def resolve(cls, outside: bool = False, stores: str | Place | None = None,
                **options: Path | None) -> Roots:
        """Take each root from the options, else the environment, else its default."""
        names = [f.name for f in fields(cls) if f.name not in ("outside", "stores")]
        chosen = {name: options.get(name) or Path(_from_env(name)) for name in names}
        place = parse_place(stores or _from_env("stores"))
        if isinstance(place, Url) and place.hub:
            raise UserError(f"{place}: {_HUB}")
        return cls(outside=outside, stores=place, **chosen)

    def absolute(self) -> Roots:
        """The same folders for a process with another working directory."""
        data, models, runs = (p.resolve() for p in (self.data, self.models, self.runs))
        return Roots(data, models, self.stores.resolve(), runs, self.outside)

    def store(self, path: str, place: str) -> Place:
        """Return ``<stores>/<path>``, or the URL that `path` is.

        Raises
        ------
        UserError
            It leaves the stores root and that was not allowed.
        """
        if is_url(path):
            url = Url(path)
            if url.hub:
                raise UserError(f"{place}: '{url}': {_HUB}")
            if not self.outside and not (isinstance(self.stores, Url) and url.below(self.stores)):
                raise UserError(f"{place}: '{url}' is not below the stores root ({self.stores});"
                                " pass --allow-outside, or --stores with its folder")
            return url
        if isinstance(self.stores, Url) and self.outside and os.path.isabs(path):
            return Path(path)
        return self.stores / self._checked("stores", path, place)

    def below(self, root: str, path: str, place: str) -> Path:
        """Return ``<root>/<path>``; `place` is what a message calls the field.

        Raises
        ------
        UserError
            The path is absolute or climbs out with ``..`` and that was not allowed. Links that
            the user made inside a root are followed.
        """
        return Path(getattr(self, root)) / self._checked(root, path, place)

    def _checked(self, root: str, path: str, place: str) -> str:
        problem = None if self.outside else escapes(path)
        if problem:
            raise UserError(f"{place}: '{path}' {problem}; paths are relative to the {root} root"
                            f" ({getattr(self, root)}), or pass --allow-outside")
        return path


def _from_env(name: str) -> str:
    return os.environ.get(f"GATE_CACHE_{name.upper()}") or name


def escapes(path: str) -> str | None:
    """Say how a relative path would leave its root, or None."""
    if os.path.isabs(path) or path.startswith("~") or path[1:2] == ":":  # a Windows drive
        return "is absolute"
    if ".." in Path(path.replace("\\", "/")).parts:
        return "climbs out with '..'"
    return None
