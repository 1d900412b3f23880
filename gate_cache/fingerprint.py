"""Fingerprints: sha256 of all that decides a combo's values, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]
"""Plain JSON data that decides values; written next to what it made."""

SHORT = 8


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """sha256 (hex) of the recipe's canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """What changed between two recipes, one line per leaf: ``prompt: 'a' → 'b'``."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{at}{key}.")
        else:
            lines.append(f"{at}{key}: {_short(before)} → {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
