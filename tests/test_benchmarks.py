"""Benchmarks run: all import, some run in small (long), for no type checker sees patched names."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def printed(folder: Path, name: str, *words: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *words], cwd=folder, text=True,
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def figures(folder: Path, *arguments: str) -> Any:
    """Those that are printed as JSON."""
    said = printed(folder, *arguments)
    return json.loads(said[said.index("{"):])


@pytest.mark.long
def test_feed(tmp_path: Path) -> None:
    rates = figures(tmp_path, "feed", "--images", "8", "--rounds", "1")["images/s"]
    assert {"np.memmap", "training", "training, int8"} <= rates.keys()
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.long
def test_pipeline(tmp_path: Path) -> None:
    result = figures(tmp_path, "pipeline", "--images", "48", "--combos", "1", "--rounds", "1",
                     "--folder", str(tmp_path))
    assert result["rows"] == 16
    assert result["rows/s"].keys() >= {"ours", "np.save + fsync"}


@pytest.mark.long
@pytest.mark.parametrize("arguments", [
    ("remote", "--rows", "4", "--block", "2"), ("workers", "--images", "16"),
    ("scheduler", "--blocks", "100"), ("read", "--images", "4", "--rounds", "1"),
    ("write", "--blocks", "1", "--rounds", "1"), ("tiles", "--images", "1"),
    ("pixel_judging", "--repeat", "1"), ("pixel_memory", "--combos", "1", "--steps", "2"),
    ("encodings", "--codecs", "--rows", "1", "--rounds", "1"), ("overhead", "--images", "16")])
def test_in_small(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert re.search(r"\d", printed(tmp_path, *arguments))


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_all_import(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
