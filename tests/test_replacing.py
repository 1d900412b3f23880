"""A file is replaced as a whole or not at all."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

import gate_cache
from gate_cache.core.replacing import replacing
from gate_cache.core.versions import versions


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """After its bytes are on the disk; folders are made, and nothing is left beside it."""
    events: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), rename(a, b))[1])
    path = tmp_path / "new" / "a.json"
    for text in ("one", "two"):
        with replacing(path) as draft:
            assert draft.parent == path.parent and not draft.exists()
            draft.write_text(text)
            assert not path.exists() if text == "one" else path.read_text() == "one"
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]
    assert events == ["fsync", "rename"] * 2


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as draft:
        draft.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["n" * 250, "画" * 80])
def test_two_writers_do_not_meet(tmp_path: Path, name: str) -> None:
    path = tmp_path / name  # of 250 and 240 bytes; a folder holds names of 255
    with replacing(path) as a, replacing(path) as b:
        a.write_text("a")
        b.write_text("b")
        assert a != b
    assert path.read_text() == "a"


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["gate-cache"] == gate_cache.__version__ and found["torch"] == version("torch")
    assert found["python"].count(".") == 2 and "no-such-library" not in found
