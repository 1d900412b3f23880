"""The files of a run's or a sweep's folder: their names, and how they are written. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gate_cache.core.errors import UserError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.replacing import replacing

CONFIG, METRICS, LOG = "config.json", "metrics.json", "log.txt"
SWEEP, RESULTS, TRIALS, WEIGHTS = "sweep.json", "results.json", "trials", "weights"
ITEMS, REPORT = "items", "report.html"
_BYTES = 200  # file systems take 255, with suffixes; a letter may have four


def trial_file(name: str) -> str:
    """The beginning of a trial's files' names."""
    plain = "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in name)
    if plain == name and len(name) < 120 and len(name.encode()) <= _BYTES:
        return plain
    # the digest tells names apart that are alike without their letters, or in their beginning
    begin = plain[:100].encode()[:_BYTES].decode(errors="ignore")
    return f"{begin}-{fingerprint({'names': [name]})[:8]}"


def items_file(folder: Path, name: str) -> Path:
    """Where a method's or a trial's results item by item are."""
    return folder / ITEMS / f"{trial_file(name)}.npz"


def read_json(path: Path, way_out: str) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file, which is not the same as an unreadable one.

    Parameters
    ----------
    path, way_out : of the file, and for the message

    Raises
    ------
    UserError
        The file is there and cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unreadable(path, error, way_out) from None
    return content


def unreadable(path: Path, error: Exception, way_out: str) -> UserError:
    """What to raise for a file that is there and cannot be read."""
    reason = getattr(error, "strerror", None) or (
        f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:160])
    return UserError(f"{path}: cannot be read ({reason}); {way_out}")


def write_json(path: Path, data: Any) -> None:
    """Write JSON; no reader sees half a file."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
