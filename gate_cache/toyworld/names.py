"""What a listing needs of the drawn world without drawing: ``world.toml``, read once."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION: int = 1
"""Part of every picture's seed; changes when drawings change: stores hold maps of the old ones."""

WORLD: dict[str, Any] = tomllib.loads(Path(__file__).with_name("world.toml").read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A category of object; what the lists mean is said in ``world.toml``."""

    name: str
    keypoints: Sequence[str]
    parts: Sequence[str]
    places: Sequence[str]
    colours: Sequence[str]
    patterns: Sequence[str]
    tilt: float


KINDS: dict[str, ObjectKind] = {name: ObjectKind(name, **of) for name, of in WORLD["kinds"].items()}
CATEGORIES: tuple[str, ...] = tuple(KINDS)
"""Named as in SPair-71k; picture i shows category i modulo their number."""
KEYPOINTS: dict[str, Sequence[str]] = {name: kind.keypoints for name, kind in KINDS.items()}
PARTS: dict[str, Sequence[str]] = {name: kind.parts for name, kind in KINDS.items()}
