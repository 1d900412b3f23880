"""Lossless codecs by the names that Zarr and numcodecs have for them, with their own options.

What is written is what Zarr itself writes, so any reader with numcodecs reads it. Only such codecs
are known whose rows are decompressed into memory of a row's length: a stranger's store may say that
a few bytes are many gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIONS: dict[str, dict[str, tuple[Any, ...] | range]] = {
    "zstd": {"level": range(-7, 23)},
    "gzip": {"level": range(10)},
    "blosc": {"cname": ("zstd", "lz4", "lz4hc", "zlib", "blosclz"), "clevel": range(10),
              "shuffle": ("bitshuffle", "shuffle", "noshuffle")},
    "lz4": {"acceleration": range(1, 65538)},
    "pcodec": {"level": range(13)},
}
"""Names, and what their options may be; the first is the default where numcodecs' is not taken."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "zstd": {"level": 1}, "gzip": {"level": 5}, "lz4": {"acceleration": 1}, "pcodec": {"level": 8},
    "blosc": {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle"},
}
"""Higher levels of zstd take longer and hardly make maps smaller."""
_OF_NUMCODECS = ("lz4", "pcodec")  # the others are in Zarr's own list, under their plain names


@dataclass(frozen=True)
class Codec:
    """A codec with its options.

    Attributes
    ----------
    name : of `OPTIONS`
    options : all of them, sorted
    """

    name: str
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def parse(cls, data: Any) -> Codec:
        """Read a name, or ``{"name", …}``, as a manifest and a group's attributes have it.

        Raises
        ------
        ValueError
            It, or an option, is not known: says which are.
        """
        asked = {"name": data} if isinstance(data, str) else data
        if not isinstance(asked, Mapping) or asked.get("name") not in list(OPTIONS):
            name = asked.get("name") if isinstance(asked, Mapping) else asked
            raise ValueError(f"unknown codec {name!r:.40}; known: {', '.join(OPTIONS)}")
        name = str(asked["name"])
        for option, value in asked.items():
            allowed = OPTIONS[name].get(option)
            if option != "name" and (allowed is None or type(value) not in (int, str)
                                     or value not in allowed):
                choices = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else \
                    ", ".join(map(str, allowed or OPTIONS[name]))
                raise ValueError(f"{name}: {option}: {value!r:.40}; known: {choices}")
        options = {**DEFAULTS[name], **{k: v for k, v in asked.items() if k != "name"}}
        return cls(name, tuple(sorted(options.items())))

    def to_json(self) -> Any:
        """As `parse` reads it; only a name where nothing else is to be said."""
        options = dict(self.options)
        return self.name if options == DEFAULTS[self.name] else {"name": self.name, **options}

    def __str__(self) -> str:
        chosen = [str(v) for k, v in self.options if DEFAULTS[self.name][k] != v]
        return " ".join([self.name, *chosen])

    @classmethod
    def of_zarr(cls, name: str, settings: Mapping[str, Any]) -> Codec:
        """The codec that Zarr's metadata names; a ValueError where it is not known here."""
        own = name.removeprefix("numcodecs.")
        return cls.parse({"name": own, **{k: v for k, v in settings.items()
                                          if k in OPTIONS.get(own, ())}})

    @property
    def typed(self) -> bool:
        """Whether it takes numbers, not bytes: then no codec goes before it."""
        return self.name == "pcodec"

    def documents(self, itemsize: int) -> list[dict[str, Any]]:
        """Zarr's metadata of what makes bytes of numbers, and compresses them."""
        options = dict(self.options)
        if self.name == "zstd":
            options["checksum"] = False  # every chunk has its crc32c already
        if self.name == "blosc":
            options |= {"typesize": itemsize, "blocksize": 0}  # shuffle whole numbers; 0: blosc's
        name = f"numcodecs.{self.name}" if self.name in _OF_NUMCODECS else self.name
        own = {"name": name, "configuration": options}
        return [own] if self.typed else [
            {"name": "bytes", "configuration": {"endian": "little"}}, own]

    def most(self, size: int) -> int:
        """The most bytes that a row of `size` bytes takes: what cannot be compressed is kept."""
        # ZSTD_COMPRESSBOUND, which needs at most 64 more for short input; the others' is looser
        return size + size // (256 if self.name == "zstd" else 64) + (
            64 if self.name == "zstd" else 1024)
