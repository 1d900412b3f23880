"""No test can hang: it fails by its name, and the others go on. What `make test` leaves out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = """
import time
import pytest

@pytest.fixture
def waits():
    time.sleep(30)

def test_that_waits():
    try:
        time.sleep(30)
    except Exception:
        pass

def test_whose_fixture_waits(waits):
    pass

def test_that_does_not():
    pass
"""


SOME_ARE_LONG = """
import pytest

@pytest.mark.mostly_long("a", "b*")
@pytest.mark.parametrize("name", ["a", "ab", "b", "bc", "c"])
def test_some(name):
    pass
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest on a file in a folder of its own, with this folder's conftest."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                   "GATE_CACHE_TEST_SECONDS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", *words,
         "test_them.py"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.long
def test_a_test_that_hangs_fails_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    done = run(tmp_path)
    assert done.returncode == 1, done.stderr
    assert "1 passed" in done.stdout and "1 failed" in done.stdout and "1 error" in done.stdout
    for name in ("test_that_waits", "test_whose_fixture_waits"):
        assert f"test_them.py::{name} takes longer than 1 s" in done.stdout


def test_parametrisations_that_are_not_named_are_long(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(SOME_ARE_LONG)
    found = run(tmp_path, "--collect-only", "-m", "long").stdout
    assert [name for name in ("a", "ab", "b", "bc", "c") if f"[{name}]" in found] == ["ab", "c"]


@pytest.mark.long
def test_every_id_that_mostly_long_names_is_there() -> None:
    """One that is not would leave `make test` without any of its parametrisations."""
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only"], check=True,
                           cwd=here.parent, capture_output=True, text=True).stdout
    ids = re.findall(r"(\w+\.py)::(\w+)\[(.*)\]$", found, re.MULTILINE)
    for path in sorted(here.glob("test_*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(function, "decorator_list", []):
                if "mostly_long" in (words := ast.unparse(mark)):
                    own = [i for file, name, i in ids if (file, name) == (path.name, function.name)]
                    for kept in map(ast.literal_eval, mark.args):
                        assert any(fnmatch(i, kept) for i in own), (path.name, words, own)
