"""Benchmarks run: all import, two run in small (long), for no type checker sees patched names."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def figures(*arguments: str) -> Any:
    """What a benchmark prints."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout[done.stdout.index("{"):])


@pytest.mark.long
def test_feed() -> None:
    rates = figures("benchmarks.feed", "--images", "8", "--rounds", "1")["images/s"]
    assert {"np.memmap", "training", "training, int8"} <= rates.keys()
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.long
def test_pipeline(tmp_path: Path) -> None:
    result = figures("benchmarks.pipeline", "--images", "48", "--combos", "1", "--rounds", "1",
                     "--folder", str(tmp_path))
    assert result["rows"] == 16
    assert result["rows/s"].keys() >= {"ours", "np.save + fsync"}


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_all_import(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
