"""Shared by all tests: small manifests, a small extracted store, real data where it is present."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import Keypoints
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.manifest.load import Loaded, load
from gate_cache.workspace.workspace import Workspace

os.environ["HF_HUB_OFFLINE"] = "1"

PROMPT = {"prompt": "a photo of a horse, high quality"}
CONTROL = {"prompt": "a photo", "controlnet": {"source": "tiny"}}
TOY: dict[str, Any] = {
    "dataset": {"name": "toyworld", "train": 4, "val": 0, "test": 3},
    "model": {"source": "tiny"},
    "conv": {
        "plain": PROMPT,
        "seed-1": {**PROMPT, "seed": 1},
        "lora": {"prompt": "a photo", "lora": {"source": "tiny/moderate"}},
        "control": CONTROL,
    },
    "attention": {
        "attn": {**CONTROL, "lora": {"source": "tiny/moderate"},
                 "denoise": {"from": 60, "steps": 2}},
    },
    "store": {"block": 3, "batch": 2},
}

WriteManifest = Callable[..., Loaded]


SECONDS = int(os.environ.get("GATE_CACHE_TEST_SECONDS", 300))
"""That a test's set-up, the test itself, or what it cleans up may take; twelve times as long where
it is marked slow."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Of a test marked ``mostly_long`` all parametrisations are long but those that it names."""
    for mark in item.iter_markers("mostly_long"):
        name = item.callspec.id  # type: ignore[attr-defined]
        if not any(fnmatch(name, kept) for kept in mark.args):
            item.add_marker("long")


@contextmanager
def _limited(item: pytest.Item) -> Iterator[None]:
    """Fail what takes longer: by an alarm, which ends what waits in Python.

    What hangs inside a library does not hear it: pytest's own ``faulthandler_timeout`` ends that.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = SECONDS * (12 if item.get_closest_marker("slow") else 1)

    def late(*_: object) -> None:
        pytest.fail(f"{item.nodeid} takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    with _limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with _limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    with _limited(item):
        return (yield)


def tiny_config(part: str) -> dict[str, Any]:
    """Configuration of a part of the embedded model."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    found: dict[str, Any] = json.loads((HOME / part / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the memo of weight digests out of the user's home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def write(path: Path, **sections: Any) -> Loaded:
    """Write TOY with some sections replaced, and load it."""
    path.write_text(yaml.safe_dump({**TOY, **sections}, sort_keys=False), encoding="utf-8")
    return load(path)


@pytest.fixture
def manifest(tmp_path: Path) -> WriteManifest:
    """Write a manifest with some sections replaced, and load it."""
    return lambda name="toy.yaml", **sections: write(tmp_path / name, **sections)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Roots below the test's own folder."""
    return Roots(*(tmp_path / name for name in ("data", "models", "stores", "runs")))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Roots, Path]:
    """TOY, extracted once: manifest, roots and the store. Tests must not write to it."""
    from gate_cache.extraction.extract import extract

    home = tmp_path_factory.mktemp("toy")
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    loaded = write(home / "toy.yaml")
    return loaded, roots, extract(Workspace(loaded, roots, "cpu")).store


@pytest.fixture
def willow() -> Path:
    """The data root that holds PF-WILLOW; the test is skipped without it."""
    root = Path(os.environ.get("GATE_CACHE_DATA", "data"))
    if not (root / "PF-dataset-WILLOW").is_dir():
        pytest.skip("PF-WILLOW is not below GATE_CACHE_DATA")
    return root


def points_in(name: str, size: tuple[int, int], count: int) -> Keypoints:
    """Points of an image of (height, width), drawn by its name; two are on its border."""
    height, width = size
    shares = np.random.default_rng(sum(name.encode())).uniform(0, 1, (count, 2))
    shares[:2] = [[0, 1], [1, 0.5]]
    box = np.array([0.0, 0.0, width, height])
    return Keypoints(shares * [width, height], np.ones(count, bool), box, size)
