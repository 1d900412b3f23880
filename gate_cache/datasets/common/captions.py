"""Captions of a data set's images: JSON Lines, one object a line (docs/manifest.md)."""

from __future__ import annotations

import codecs
import json
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from gate_cache.core.errors import DataError, did_you_mean
from gate_cache.core.replacing import replacing
from gate_cache.datasets.common.files import readable

EXPECTED = '{"id": sample, "sha256": of the image, "caption": text}'
_FIELDS = ("id", "sha256", "caption")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Caption:
    """One line of a captions file.

    Attributes
    ----------
    id : of the sample, as a path with ``/`` between parts and no ``.``
    sha256 : hex digest of the image's content when it was captioned
    """

    id: str
    sha256: str
    caption: str


class Captions(dict[str, str]):
    """Captions by sample id, in the file's order.

    Attributes
    ----------
    sha256 : sample id to the digest of the image that was captioned
    """

    def __init__(self, path: Path, lines: Iterable[Caption]) -> None:
        captions = list(lines)
        super().__init__((c.id, c.caption) for c in captions)
        self.path = path
        self.sha256 = {c.id: c.sha256 for c in captions}

    def fits(self, sample_id: str, sha256: str) -> bool:
        """Whether there is a caption for this image with this content."""
        return self.sha256.get(sample_id) == sha256

    def check(self, sample_id: str, sha256: str) -> str:
        """The caption of an image; a `DataError` where none was made for this content."""
        if not self.fits(sample_id, sha256):
            why = "has changed since it was captioned" if sample_id in self else "has no caption"
            raise DataError(f"{self.path}: '{sample_id}' {why}; run 'gate-cache caption'")
        return self[sample_id]


def read_captions(path: Path) -> Captions:
    """Read a captions file. A last line that a killed writer tore off is not counted.

    Raises
    ------
    DataError
        Missing, or a line that is not a caption: file and line are named.
    """
    with readable(path, "no captions here; write them with 'gate-cache caption'"):
        data = path.read_bytes()
    *lines, rest = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    # A file that was edited by hand may end without a line break: then its last line counts too.
    return Captions(path, _parsed(path, [*lines, rest] if _is_json(rest) else lines))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except ValueError:
        return False
    return True


def _parsed(path: Path, lines: list[bytes]) -> list[Caption]:
    captions: dict[str, Caption] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            caption = _caption(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}; expected {EXPECTED}") from None
        if caption.id in captions:
            raise DataError(f"{path}:{number}: '{caption.id}' has a caption already, in line"
                            f" {line_of[caption.id]}; remove one of them")
        captions[caption.id], line_of[caption.id] = caption, number
    return list(captions.values())


def _caption(line: bytes) -> Caption:
    data = json.loads(line.decode())
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    strange = sorted(data.keys() - set(_FIELDS))
    if strange:
        raise ValueError(f"unknown field '{strange[0]}'{did_you_mean(strange[0], _FIELDS)}")
    for field in _FIELDS:
        if not isinstance(data.get(field), str):
            raise ValueError(f"'{field}' is missing or not a string")
    if not _DIGEST.fullmatch(data["sha256"]):
        raise ValueError("'sha256' is not 64 hex digits")
    # Written on Windows, or by hand: ids have slashes, and no "./" before them.
    return Caption(**{**data, "id": posixpath.normpath(data["id"].replace("\\", "/"))})


def append_captions(path: Path, captions: Iterable[Caption]) -> None:
    """Add lines to a captions file, in one write; they are on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(_encoded(captions))
        file.flush()
        os.fsync(file.fileno())


def write_captions(path: Path, captions: Iterable[Caption]) -> None:
    """Replace a captions file as a whole, so that no reader sees half of it."""
    captions = list(captions)
    # Nothing is written where nothing changed: the data root may be read-only by now.
    if path.exists() and path.read_bytes() == _encoded(captions):
        return
    with replacing(path) as draft:
        draft.write_bytes(_encoded(captions))


def _encoded(captions: Iterable[Caption]) -> bytes:
    lines = [json.dumps(asdict(c), ensure_ascii=False) + "\n" for c in captions]
    return "".join(lines).encode()
