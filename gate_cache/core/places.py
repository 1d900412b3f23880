"""Where something is: a path of this machine, or a URL (``s3://bucket/folder``).

A URL is never a ``pathlib.Path``, which would fold its slashes. `Url` has the few members of a path
that the code needs, and none that would touch this machine's disk. Floor 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from urllib.parse import unquote

from gate_cache.core.errors import UserError

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https", "hf")
AZURE = ("abfs", "abfss")
"""Schemes whose container may stand before an ``@``."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)


@dataclass(frozen=True)
class Url:
    """A place behind a URL; made of text by `parse_place`.

    Raises
    ------
    UserError
        An unknown scheme, no bucket, or secrets and queries, which do not belong into names.
    """

    text: str

    def __post_init__(self) -> None:
        match = _URL.fullmatch(self.text)
        scheme, rest = (match[1].lower(), match[2]) if match else ("", "")
        if scheme not in SCHEMES:
            public = re.sub(r"//[^/@]*@", "//…@", re.split("[?#]", self.text)[0])  # no secrets
            raise UserError(f"'{public}': stores are folders, or URLs that begin with s3://, gs://,"
                            " az://, abfs://, https://, http:// or hf://")
        host, _, path = rest.partition("/")
        user, at, _ = host.partition("@")
        if "?" in rest or "#" in rest or (at and (scheme not in AZURE or ":" in user)):
            raise UserError(f"'{scheme}://…': a store's URL has no password and no '?' or '#';"
                            " credentials are taken from the environment")
        parts = [p for p in path.split("/") if p not in ("", ".")]
        text = f"{scheme}://{'/'.join([host, *parts])}"
        if not host:
            raise UserError(f"'{text}': names no bucket; write {scheme}://bucket/folder")
        if ".." in map(unquote, parts):  # a server may decode %2e%2e
            raise UserError(f"'{text}': climbs with '..'")
        object.__setattr__(self, "text", text)

    @property
    def scheme(self) -> str:
        """Before the ``://``."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The folder that holds it; a bucket is its own."""
        above = self.text.rpartition("/")[0]
        return self if above.endswith("/") else Url(above)

    @property
    def web(self) -> bool:
        """Whether it is an ordinary web server's."""
        return self.scheme in ("http", "https")

    @property
    def hub(self) -> bool:
        """Whether it is a repository's, to which stores are pushed and from which they are pulled.
        """
        return self.scheme == "hf"

    def below(self, other: Url) -> bool:
        """Whether it is inside another place."""  # s3a is Hadoop's name for s3
        ours, others = (f"{u}/".replace("s3a://", "s3://", 1) for u in (self, other))
        return ours.startswith(others)

    def resolve(self) -> Url:
        """Itself: URLs are absolute."""
        return self

    def __truediv__(self, key: str) -> Url:
        return Url(f"{self}/{key}")

    def __str__(self) -> str:
        return self.text


Place = Path | Url


def parse_place(text: str | Place) -> Place:
    """A path of this machine, or a URL where there is a ``://``."""
    if not isinstance(text, str):
        return text
    return Url(text) if is_url(text) else Path(text)


def is_manifest(target: Place) -> TypeGuard[Path]:
    """Whether a command's argument is a manifest, not a store."""
    return isinstance(target, Path) and target.suffix.lower() in (".yaml", ".yml")


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL, known or not."""
    return _URL.match(text) is not None
