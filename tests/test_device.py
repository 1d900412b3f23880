"""Stage 1 on a pretended GPU: the CPU's values, no mixed devices, and little that waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPT, TOY, write
from pretended import Device, Kinds, pretended
from small_encoders import small
from small_encoders import write as write_encoder
from small_transformers import write_transformer
from test_families import models, sections  # noqa: F401
from test_techniques import ADAPTER, write_ip_adapter

from gate_cache.core.roots import Roots
from gate_cache.diffusion.passes.extractor import Extractor
from gate_cache.extraction.extract import extract
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

STEPS = {"denoise": {"from": 60, "steps": 2}}
CONV: dict[str, Any] = {
    **TOY["conv"], "noises": {**PROMPT, "ensemble": 2}, "steps": {**PROMPT, **STEPS},
    "mirrored": {**PROMPT, "mirror": True}, "clean": {**PROMPT, "noise": "none", "t": 1},
    "guided": {**PROMPT, **STEPS, "guidance": {"scale": 3.0, "negative": "a car"}},
    "ip": {**PROMPT, "ip_adapter": ADAPTER}}
PIECES = 40
"""Of maps, on their way from the device: at least these, of 7 images in batches of at most 2."""
IN_A_PASS = ("diffusion/passes/", "diffusion/models/dit.py", "diffusion/models/transformers.py",
             "diffusion/models/vision.py", "extraction/", "test_device.py")
SHORT: dict[str, Any] = {"dataset": {"name": "toyworld", "train": 12, "val": 0, "test": 0},
                         "store": {"block": 4, "batch": 1}, "train": {}}
NEAR = 2e-3
"""Of a map's largest value: float16, and other kernels of the CPU for what is not contiguous."""


@pytest.fixture
def gpu() -> Iterator[Device]:
    with pretended(2) as found:
        yield found


def on_gpu(loaded: Any, roots: Roots) -> tuple[Path, Kinds]:
    """Extract there; the store, and what waited."""
    with pretended() as found:
        return extract(Workspace(loaded, roots, "cuda")).store, found.taken()  # type: ignore[return-value]


def assert_near(a: Path, b: Path) -> None:
    one, two = FeatureStore.open(a), FeatureStore.open(b)
    assert len(one.views()) == len(two.views()) > 0
    twins = {view.name: view for view in (*two.latents(), *two.views())}
    for view in (*one.latents(), *one.views()):
        assert view.done().all() and twins[view.name].done().all()
        for name in view.maps:
            wanted, found = (np.float64(v[name][:]) for v in (view, twins[view.name]))
            assert np.abs(wanted - found).max() < NEAR * np.abs(wanted).max(), (view.name, name)


@pytest.mark.long
def test_every_technique_is_the_cpus_and_waits_for_copies_alone(tmp_path: Path) -> None:
    write_ip_adapter(tmp_path / "models")
    loaded = write(tmp_path / "toy.yaml", conv=CONV)
    waited = assert_same_on_gpu(loaded, tmp_path, tmp_path / "models")
    assert waited["event", "extraction/transfer.py:arrived"] >= PIECES
    assert beyond_bounds(waited) == [], waited


@pytest.mark.mostly_long("ddpm")
@pytest.mark.parametrize("family", ["sd1", "sdxl", "ddpm"])
def test_every_family_is_the_cpus(family: str, models: Path, tmp_path: Path) -> None:  # noqa: F811
    """ControlNet, LoRA, long prompts, attention and denoising of each, where it has them."""
    loaded = write(tmp_path / "toy.yaml", **sections(family))
    waited = assert_same_on_gpu(loaded, tmp_path, models)
    assert waited["event", "extraction/transfer.py:arrived"] > 3
    assert beyond_bounds(waited) == [], waited


SLOW = "sigma", "schnell", "sana", "qwen", "z-image"
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "sd3": {"denoise": {"from": 400, "steps": 2}}, "flux": {}, "alpha": {}, "lumina": {},
    **{name: {} for name in SLOW}}


def of_kind(name: str, tmp_path: Path) -> Any:
    """A manifest of a small transformer, or encoder: passes enough to outnumber set-up."""
    if name in TRANSFORMERS:
        write_transformer(name, tmp_path / "models" / name)
        return write(tmp_path / "toy.yaml", model={"source": name, "size": 64}, **SHORT, conv={
            "plain": PROMPT, "walked": {**PROMPT, "t": 260, **TRANSFORMERS[name]}},
            attention={"attn": PROMPT})
    write_encoder(tmp_path / "models" / name, small(name))
    return write(tmp_path / "toy.yaml", model={"source": name, "size": 32}, **SHORT,
                 conv={"a": {"maps": ["layer0", "layer2", "cls"]}}, attention={})


@pytest.mark.mostly_long("dinov2", "alpha")
@pytest.mark.parametrize("name", ["dinov2", *(
    pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in TRANSFORMERS)])
def test_transformers_and_encoders_are_the_cpus(name: str, tmp_path: Path) -> None:
    waited = assert_same_on_gpu(of_kind(name, tmp_path), tmp_path, tmp_path / "models")
    assert waited["event", "extraction/transfer.py:arrived"] >= 12
    assert beyond_bounds(waited) == [], waited


@pytest.mark.mostly_long("dinov2")
@pytest.mark.parametrize("name", ["sd3", "dinov2"])
def test_a_copy_to_the_host_within_a_model_is_found(name: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, real = of_kind(name, tmp_path), torch.nn.LayerNorm.forward
    monkeypatch.setattr(torch.nn.LayerNorm, "forward", lambda self, x: real(self, x).cpu().cuda())
    _, waited = on_gpu(loaded, Roots(*(tmp_path / n for n in ("data", "models", "gpu", "runs"))))
    assert any(kind == "to the host" for kind, _ in beyond_bounds(waited)), waited


def assert_same_on_gpu(loaded: Any, folder: Path, weights: Path) -> Kinds:
    """Extract on both, and compare; what waited."""
    homes = [Roots(folder / "data", weights, folder / name, folder / "runs")
             for name in ("cpu", "gpu")]
    store, waited = on_gpu(loaded, homes[1])
    assert_near(extract(Workspace(loaded, homes[0], "cpu")).store, store)
    return waited


def beyond_bounds(waited: Kinds) -> list[tuple[str, str]]:
    """What waits more often than it may: once a pass for maps to arrive, else for set-up."""
    passes = waited["event", "extraction/transfer.py:arrived"]
    return [what for what, count in waited.items()
            if what[1].startswith(IN_A_PASS)
            and count > passes / 4 and what != ("event", "extraction/transfer.py:arrived")]


@pytest.mark.mostly_long("<lambda>0")
@pytest.mark.parametrize("spoil", [
    lambda values: values.cpu().cuda(), lambda values: values * bool(values.isfinite().all())])
def test_a_pass_that_waits_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: Roots,
                                    spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    run_ = Extractor.run

    def run(self: Extractor, *args: Any) -> Iterator[Any]:
        for piece in run_(self, *args):
            yield piece._replace(maps={n: spoil(v) for n, v in piece.maps.items()})

    monkeypatch.setattr(Extractor, "run", run)
    _, waited = on_gpu(write(tmp_path / "toy.yaml", conv={"plain": PROMPT}, attention={}), roots)
    arrived = waited["event", "extraction/transfer.py:arrived"]
    assert any(count >= arrived / 2 for (kind, _), count in waited.items()
               if kind in ("to the host", "read"))


def test_a_pass_that_mixes_devices_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         roots: Roots) -> None:
    run_ = Extractor.run

    def run(self: Extractor, *args: Any) -> Iterator[Any]:
        for piece in run_(self, *args):
            yield piece._replace(maps={n: v + torch.zeros(v.shape) for n, v in piece.maps.items()})

    monkeypatch.setattr(Extractor, "run", run)
    with pytest.raises(RuntimeError, match="same device, but found at least two devices, cpu"):
        on_gpu(write(tmp_path / "toy.yaml", conv={"plain": PROMPT}, attention={}), roots)


# --------------------------------------------------------------------------- the device itself


def test_what_waits_is_counted(gpu: Device) -> None:
    a = torch.arange(4.0).to("cuda")
    here = "test_device.py:test_what_waits_is_counted"
    assert gpu.taken() == {("to the device", here): 1}
    b = a * 2 + 1
    assert b.device == torch.device("cuda:0") and not gpu.taken()
    for wait, kind in ((lambda: b.sum().item(), "read"), (lambda: b.cpu(), "to the host"),
                       (lambda: b.tolist(), "read"), (lambda: b.nonzero(), "shape from data"),
                       (lambda: b[b > 1], "mask as an index"),
                       (lambda: b[[0, 2]], "index from the host"),
                       (lambda: b[torch.tensor([1])], "index from the host"),
                       (torch.cuda.synchronize, "stream")):
        wait()  # type: ignore[operator]
        assert kind in {k for k, _ in gpu.taken()}
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        b.numpy()


def test_devices_do_not_mix(gpu: Device) -> None:
    a, b = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
    assert torch.equal((a + torch.tensor(1.0)).cpu(), torch.full((2,), 2.0))
    for other in (b, torch.ones(2)):
        with pytest.raises(RuntimeError, match="two devices"):
            a + other


def test_copies_arrive_late(gpu: Device) -> None:
    into, there = torch.empty(3), torch.cuda.Event()
    into.copy_(torch.ones(3, device="cuda"), non_blocking=True)
    there.record()
    assert into.isnan().all()
    there.synchronize()
    assert torch.equal(into, torch.ones(3))


def test_a_step_learns_as_on_the_cpu(gpu: Device) -> None:
    torch.manual_seed(0)
    x, losses = torch.randn(8, 4), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        net.to(device)
        steps = torch.optim.AdamW(net.parameters(), lr=0.1)
        for _ in range(3):
            loss = net(x.to(device)).square().mean()
            loss.backward()
            steps.step()
            steps.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
