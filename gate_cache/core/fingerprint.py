"""Fingerprints: sha256 of all that decides a combo's values, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]
"""Plain JSON data that decides values; written next to what it made."""

SHORT = 8  # hex digits of a fingerprint in a group's name
MOST, LEAD = 60, 12
"""Characters of a value that are shown, and of what two values begin with alike."""
DIGESTS = {"latents": "what images are made into latents by", "captions": "the captions' file",
           "vae": "weights of vae"}


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """sha256 (hex) of the recipe's canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def need_regular(path: Path) -> None:
    """Raise `OSError` for a pipe or a device: opening one waits for whoever writes to it."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", str(path))


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    need_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_NOTHING: tuple[Any, ...] = (None, [], {})  # left out means the same as empty


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """What changed between two recipes, one line per leaf: ``prompt changed: "a" → "b"``."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after or (before in _NOTHING and after in _NOTHING):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{at}{key}.")
        else:
            lines.append(_changed(f"{at}{key}".removeprefix("settings."), before, after))
    return lines


def _changed(what: str, before: Any, after: Any) -> str:
    """One leaf; digests say nothing to people, so only what they are of is named."""
    if what in DIGESTS:
        return f"{DIGESTS[what]} changed"
    if what == "weights.lora" and _files(before) == _files(after):
        return ("lora: the same file, but other strengths of its layers: release 0.1 did not read"
                " all of them from the file")
    if what.startswith("weights."):
        return f"weights of {what.removeprefix('weights.')} changed"
    if before is None:
        return f"{what} added: {_short(after)}"
    if after is None:
        return f"{what} removed: {_short(before)}"
    return f"{what} changed: {' → '.join(_pair(before, after))}"


def _files(digests: Any) -> list[str]:
    """The sha256 in digests of LoRAs (see `gate_cache.diffusion.techniques.lora.lora_digest`)."""
    return [str(digest).split(":")[0] for digest in digests or ()]


def _pair(before: Any, after: Any) -> tuple[str, str]:
    """Two values as short texts that differ: what they begin with alike is left out."""
    texts = [json.dumps(v, ensure_ascii=False) for v in (before, after)]
    alike = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b),
                 min(map(len, texts)))
    if max(map(len, texts)) > MOST and alike > LEAD:
        texts = ["…" + text[alike - LEAD:] for text in texts]
    return _cut(texts[0]), _cut(texts[1])


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= MOST else text[: MOST - 3] + "…"
