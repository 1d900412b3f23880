"""All verbs on a pretended GPU: its results are the CPU's, nothing mixes devices, little waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROMPT, TOY, write
from pretended import Device, Kinds, pretended
from test_techniques import ADAPTER, write_ip_adapter

from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace


@pytest.fixture
def gpu() -> Iterator[Device]:
    with pretended(2) as found:
        yield found


STEPS = {"denoise": {"from": 60, "steps": 2}}
CONV = {**TOY["conv"], "steps": {**PROMPT, **STEPS},
        "guided": {**PROMPT, **STEPS, "guidance": {"scale": 3.0, "negative": "a car"}},
        "ip": {**PROMPT, "ip_adapter": ADAPTER}, "noises": {**PROMPT, "ensemble": 2}}




def assert_equal_stores(a: Path, b: Path) -> None:
    one, two = FeatureStore.open(a), FeatureStore.open(b)
    assert len(one.views()) == len(two.views()) > 0
    for view in (*one.latents(), *one.views()):
        (twin,) = [v for v in (*two.latents(), *two.views()) if v.name == view.name]
        assert view.done().all() and twin.done().all()
        for name in view.maps:
            np.testing.assert_array_equal(view[name][:], twin[name][:], err_msg=view.name)


def on_both(home: Path, loaded: Any, models: Path) -> tuple[Kinds, Path]:
    """Extract on the CPU and on the GPU; what waited, and the GPU's store."""
    cpu = Roots(home / "data", models, home / "cpu", home / "runs")
    there = Roots(home / "data", models, home / "gpu", home / "runs")
    wanted = extract(Workspace(loaded, cpu, "cpu")).store
    with pretended() as gpu:
        found = extract(Workspace(loaded, there, "cuda")).store
        waited = gpu.taken()
    assert_equal_stores(wanted, found)
    return waited, found


def test_all_techniques_give_the_cpus_bytes(tmp_path: Path) -> None:
    write_ip_adapter(tmp_path / "models")
    loaded = write(tmp_path / "toy.yaml", conv=CONV)
    waited, _ = on_both(tmp_path, loaded, tmp_path / "models")
    for k, n in sorted(waited.items()):
        print(n, k)
    raise AssertionError
