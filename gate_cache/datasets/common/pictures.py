"""Which files below a folder are pictures that are read, and a line for those that are not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gate_cache.core.errors import DataError, listed
from gate_cache.datasets.common.files import walk

ALWAYS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"})
"""Suffixes of pictures that every Pillow reads."""
BUILT_IN = {".avif": "avif", ".avifs": "avif"} | dict.fromkeys(
    (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "jpg_2000")
"""Suffixes of those that a Pillow reads which was built so, with what it calls the format."""
UNREAD = frozenset({".heic", ".heif", ".hif", ".jxl", ".svg", *BUILT_IN})
"""Suffixes of pictures that no Pillow reads, or not every one."""


def pictures(root: Path, others: Counter[str] | None = None) -> list[str]:
    """As `walk`, all files that this machine's Pillow reads, by their suffix."""
    names = walk(root, ALWAYS | BUILT_IN.keys(), others)
    special = {_suffix(name) for name in names if name.lower().endswith(tuple(BUILT_IN))}
    if special:
        from PIL import features  # which takes as long as a whole plan: only where it must be asked

        lacking = {suffix for suffix in special if not features.check(BUILT_IN[suffix])}
        if others is not None:
            others.update(suffix for suffix in map(_suffix, names) if suffix in lacking)
        names = [name for name in names if _suffix(name) not in lacking]
    return names


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def by_stem(root: Path) -> dict[str, Path]:
    """All pictures below a folder by their path without its suffix.

    Raises
    ------
    DataError
        Two differ in their suffix alone.
    """
    paths: dict[str, Path] = {}
    for name in pictures(root):
        twin = paths.setdefault(stem_of(name), root / name)
        if twin != root / name:
            raise DataError(f"{root}: {twin.relative_to(root).as_posix()} and {name} are both"
                            f" called '{stem_of(name)}'; remove one of them")
    return paths


def stem_of(name: str) -> str:
    """A path without its suffix, by which files that belong together are found."""
    return Path(name).with_suffix("").as_posix()


def passed_over_line(counts: Mapping[str, int]) -> str:
    """What `files.passed_over` counts as one line, pictures that Pillow does not read first."""
    order = sorted(counts, key=lambda suffix: (suffix not in UNREAD, -counts[suffix], suffix))
    names = [f"{counts[s]} {s}{' (Pillow cannot read them)' if s in UNREAD else ''}" for s in order]
    total = sum(counts.values())
    return f"{total} {'file' if total == 1 else 'files'} passed over: {listed(names, 8)}"
