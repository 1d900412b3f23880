"""The files of a run's or a sweep's folder: their names, and how they are written. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.replacing import replacing

CONFIG, METRICS, LOG = "config.json", "metrics.json", "log.txt"
SWEEP, RESULTS, TRIALS, WEIGHTS = "sweep.json", "results.json", "trials", "weights"
ITEMS, REPORT = "items", "report.html"


def trial_file(name: str) -> str:
    """The beginning of a trial's files' names."""
    plain = "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in name)
    if plain == name and len(name) < 120:
        return plain
    return f"{plain[:100]}-{fingerprint({'names': [name]})[:8]}"


def items_file(folder: Path, name: str) -> Path:
    """Where a method's or a trial's results item by item are."""
    return folder / ITEMS / f"{trial_file(name)}.npz"


def write_json(path: Path, data: Any) -> None:
    """Write JSON; no reader sees half a file."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
