"""Stage 2 on a pretended GPU: every head, as on the CPU, and no step that waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pretended import Device, Kinds, pretended
from test_tasks import WIRED, home  # noqa: F401
from test_tasks import manifest as dense
from test_train import manifest as of_pairs
from test_train import one_thread, root  # noqa: F401

from gate_cache.analysis.describe import of_run
from gate_cache.analysis.match import match_images
from gate_cache.analysis.session import open_session
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.learn.fit.trial import Trial
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.training.evaluate import evaluate
from gate_cache.training.predict import predict
from gate_cache.training.sweep import Swept, sweep
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

PAIRS = ("nn", "conv")
HEADS: dict[str, dict[str, Any]] = {
    **{head: {"steps": 3, "batch": 2, "validate_steps": 2, "attention": "attn"}
       for head in PAIRS},
    **{head: {**WIRED[head], "steps": 3, "validate_steps": 2} for head in WIRED
       if head != "pixel-linear"}}  # which is `linear` over the pixels of `pixel-knn`
HEADS["classifier"] |= {"head": {"name": "classifier", "classifier_hidden": 0}}
"""A hidden layer drops units whatever `dropout` says, and a device draws others than the CPU."""
PAIR = ("test/aeroplane/00000", "test/aeroplane/00008")
CLOSE = {"abs": 1e-2}
"""Of a score in percent: the CPU's kernels take turns by what memory is aligned to."""


@pytest.fixture(scope="module")
def stores(root: Path, home: Path) -> dict[bool, Path]:  # noqa: F811
    """Whether a head matches to its store."""
    return {True: root / "stores", False: home / "stores"}


def work_of(stores: dict[bool, Path], to: Path, device: str, head: str,
            **fields: Any) -> Workspace:
    to.mkdir(parents=True, exist_ok=True)
    make = of_pairs if head in PAIRS else dense
    loaded = make(to, **{"head": head, **HEADS[head], **fields})
    return Workspace(loaded, Roots(stores=stores[head in PAIRS], runs=to), device)


def scores(run: Path) -> dict[str, dict[str, Any]]:
    """Method to its scores."""
    (table, *_) = json.loads((run / "metrics.json").read_text())["tables"]
    return {row["method"]: {k: v for k, v in row.items() if type(v) is float}
            for row in table["rows"]}


def steps_of(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[Kinds]:
    """What waits in each step of every trial from now on."""
    seen: list[Kinds] = []
    real = Trial.step

    def step(self: Trial, *given: Any) -> None:
        before = device.waited.copy()
        real(self, *given)
        seen.append(device.waited - before)

    monkeypatch.setattr(Trial, "step", step)
    return seen


@pytest.mark.mostly_long("nn", "classifier", "linear", "knn")
@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_trained_and_used_as_on_the_cpu(
        head: str, stores: dict[bool, Path], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = train(work_of(stores, tmp_path / "cpu", "cpu", head, dropout=0.0),
                   tmp_path / "cpu" / "run").run
    with pretended() as device, monkeypatch.context() as patch:
        steps = steps_of(device, patch)
        work = work_of(stores, tmp_path / "gpu", "cuda", head, dropout=0.0)
        run = train(work, tmp_path / "gpu" / "run").run
        assert device.ran > 1000 and steps and not any(steps), steps
        assert not [place for kind, place in device.waited if kind == "to the device"
                    and place.startswith(("learn/tasks/", "learn/features/"))]  # judging
        again = evaluate(work, run).values
        uses(work, run, head)
    found = scores(run)
    assert found.keys() == scores(wanted).keys()
    for method, values in scores(wanted).items():
        assert found[method] == pytest.approx(values, **CLOSE), method
    gate = list(found.values())[-1]
    assert {k: again[k] for k in gate} == pytest.approx(gate, **CLOSE)


def uses(work: Workspace, run: Path, head: str) -> None:
    """Predict masks, match, and look at matches with the viewer: on the device as on the CPU."""
    here = Workspace(work.loaded, work.roots, "cpu")
    if head in ("upernet", "pixel-mlp", "pixel-knn"):
        for a, b in zip(predict(work, run).images, predict(here, run).images, strict=True):
            assert (a.painted.classes == b.painted.classes).mean() > 0.999
    if head in PAIRS:
        ours, theirs = (match_images(w, of_run(w, run), PAIR) for w in (work, here))
        assert np.allclose(ours.found, theirs.found, atol=1e-3)
        views = [open_session(w.loaded.path, w.roots, Silent(), runs=[run], device=w.device)
                 for w in (work, here)]
        for feature in views[0].matcher.features:
            one, two = (v.matcher.match(feature, 16, (0.5, 0.25), 20) for v in views)
            assert (one.x, one.y) == pytest.approx((two.x, two.y), abs=1e-3)


def swept(stores: dict[bool, Path], to: Path, device: str, **fields: Any) -> Swept:
    work = work_of(stores, to, device, "nn", dropout=0.3, validate_steps=1, **fields)
    (to / "s.yaml").write_text(yaml.safe_dump({"grid": {"seed": [0, 1]}}))
    return sweep(work, load_sweep(to / "s.yaml", work.loaded), to / "out")


@pytest.mark.long
def test_a_sweep_that_was_stopped_ends_as_one_that_was_not(
        stores: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and all: the device's random numbers are kept with each trial."""
    real, left = Trial.step, iter(range(4))

    def stop(self: Trial, *given: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(self, *given)

    with pretended():
        whole = swept(stores, tmp_path / "whole", "cuda")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trial, "step", stop)
            swept(stores, tmp_path / "cut", "cuda")
        assert list((tmp_path / "cut").rglob("checkpoint-*.pt"))
        torch.cuda.manual_seed_all(7)
        again = swept(stores, tmp_path / "cut", "cuda")
    assert not whole.failed and len(whole.rows) == len(again.rows) >= 4
    assert [(r.name, r.test, r.val) for r in again.rows] == [
        (r.name, r.test, r.val) for r in whole.rows]


@pytest.mark.long
def test_amp_computes_in_bfloat16_on_the_device_alone(stores: dict[bool, Path], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(self: Trial, inputs: Any, items: Any) -> None:
        with self._own_numbers(), self._precision():
            seen.append(torch.nn.functional.linear(torch.ones(1, 2, device=self._device),
                                                   torch.ones(1, 2, device=self._device)).dtype)
        step(self, inputs, items)

    step = Trial.step
    monkeypatch.setattr(Trial, "step", note)
    exact = train(work_of(stores, tmp_path / "cpu", "cpu", "upernet", amp=True), tmp_path / "a").run
    assert set(seen) == {torch.float32}
    seen.clear()
    with pretended():
        rough = train(work_of(stores, tmp_path / "gpu", "cuda", "upernet", amp=True),
                      tmp_path / "b").run
    assert set(seen) == {torch.bfloat16}
    for method, values in scores(exact).items():
        assert scores(rough)[method] == pytest.approx(values, abs=25), method


@pytest.mark.parametrize(("plant", "kind"), [
    (lambda t: t.cpu().cuda(), "to the host"), (lambda t: t * float(t.abs().max() > 0), "read")])
def test_a_step_that_waits_is_found(plant: Callable[[torch.Tensor], torch.Tensor], kind: str,
                                    stores: dict[bool, Path], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: plant(real(self, x)))
    with pretended() as device:
        steps = steps_of(device, monkeypatch)
        train(work_of(stores, tmp_path, "cuda", "classifier"), tmp_path / "run")
    assert steps and all(any(k == kind for k, _ in step) for step in steps)


def test_a_step_that_mixes_devices_fails(stores: dict[bool, Path], tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward",
                        lambda self, x: real(self, x) + torch.zeros(len(x), 1))
    with pretended(), pytest.raises(RuntimeError, match="at least two devices, cpu and cuda:0"):
        train(work_of(stores, tmp_path, "cuda", "classifier"), tmp_path / "run")
