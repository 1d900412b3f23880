"""A device's memory that is full: batches are halved where that is allowed, else it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONTROL, PROMPT, TOY, WriteManifest
from test_extract import Toy, assert_same

from gate_cache import FeatureStore
from gate_cache.analysis.guideline import Img2Img, guideline
from gate_cache.analysis.score import Selection
from gate_cache.core.errors import UserError
from gate_cache.core.memory import fitted
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models import loading
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.stable_diffusion import StableDiffusion
from gate_cache.extraction import footprint
from gate_cache.extraction.extract import extract
from gate_cache.extraction.recompute import recompute
from gate_cache.workspace.workspace import Workspace


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def holds(monkeypatch: pytest.MonkeyPatch, most: int, tails_only: bool = False) -> list[int]:
    """A device that is full above so many images; the sizes of all batches that were tried."""
    tried: list[int] = []

    def limited(real: Any) -> Any:
        def run(self: Any, x: torch.Tensor, *args: Any) -> Any:
            tried.append(len(x))
            if len(x) > most and (not tails_only or args[2:]):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 50.00 MiB")
            return real(self, x, *args)
        return run

    monkeypatch.setattr(StableDiffusion, "predict", limited(StableDiffusion.predict))
    if not tails_only:
        monkeypatch.setattr(StableDiffusion, "encode", limited(StableDiffusion.encode))
    return tried


@pytest.mark.long
def test_auto_finds_what_fits_and_goes_on_with_it(toy: Toy, roots: Roots, manifest: WriteManifest,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Down from 16 to the toy store's batch of 2: to the bit what is in it."""
    loaded, said = manifest(store={**TOY["store"], "batch": "auto"}), Said()
    tried = holds(monkeypatch, 2)
    result = extract(Workspace(loaded, roots, "cpu", said))
    assert_same(result.store, toy[2])
    assert result.rows == {"latents": 7, "plain": 7, "seed-1": 7, "lora": 7, "control": 7,
                           "attn": 7}
    store = FeatureStore.open(result.store)
    assert store.attrs["batch"] == 2
    assert {made and made.batch for view in store.views() for made, _ in view.made()} == {2}
    assert [line for line in said.lines if "memory" in line] == [
        f"note: the device's memory was full: batches of {n} now" for n in (8, 4, 2)]
    assert tried.count(16) == 2  # of the autoencoder and of the UNet: found once
    tried.clear()
    more = manifest(conv={"new": {"prompt": "a boat"}}, attention={},
                    store={**TOY["store"], "batch": "auto"})
    extract(Workspace(more, roots, "cpu"))
    assert set(tried) == {2}


@pytest.mark.long
def test_what_was_read_before_the_memory_was_full_is_not_read_again(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass without ControlNet fits, the one with it does not."""
    monkeypatch.setattr(footprint, "AUTO_BATCH", 4)
    loaded = manifest(conv={"plain": {"prompt": "a photo"}, "control": CONTROL}, attention={},
                      store={"block": 7, "batch": "auto"})
    rows: dict[str, int] = {}

    from gate_cache.extraction.extract import _Rounds

    real = _Rounds.computed
    monkeypatch.setattr(_Rounds, "computed", lambda self, n: (
        rows.update(n=rows.get("n", 0) + n), real(self, n)))
    holds(monkeypatch, 2, tails_only=True)
    result = extract(Workspace(loaded, roots, "cpu"))
    assert rows == {"n": 14} and result.rows["control"] == 7
    monkeypatch.undo()
    wanted = manifest("b.yaml", conv={"plain": {"prompt": "a photo"}, "control": CONTROL},
                      attention={}, store={"block": 7, "batch": 2})
    for name in ("plain", "control"):
        a, b = (FeatureStore.open(p)[name]["up2"][:].astype(np.float32) for p in (
            result.store, extract(Workspace(wanted, roots, "cpu")).store))
        np.testing.assert_allclose(a, b, rtol=4e-3, atol=4e-3)


@pytest.mark.long
def test_a_batch_that_was_asked_for_is_not_made_smaller(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, 2)
    loaded = manifest(store={**TOY["store"], "batch": 4})
    with pytest.raises(UserError, match=r"memory is full: use --batch 2, or --batch auto"):
        extract(Workspace(loaded, roots, "cpu"))
    assert extract(Workspace(loaded, roots, "cpu"), batch="auto").rows["plain"] == 7


@pytest.mark.long
def test_one_image_that_does_not_fit_is_one_line(roots: Roots, manifest: WriteManifest,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, 0)
    with pytest.raises(UserError, match="memory is full"):
        extract(Workspace(manifest(store={"block": 3, "batch": "auto"}), roots, "cpu"))


@pytest.mark.parametrize("command", [extract, recompute])
def test_a_model_that_does_not_fit_is_one_line(command: Any, toy: Toy,
                                               monkeypatch: pytest.MonkeyPatch, roots: Roots,
                                               manifest: WriteManifest) -> None:
    def load(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loading, "load", load)
    where = toy[1] if command is recompute else roots
    with pytest.raises(UserError, match="memory is full: use a smaller model, or float16"):
        command(Workspace(toy[0], where, "cpu"))


def test_verify_computes_in_smaller_batches_and_says_so(toy: Toy,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, 1)
    found = recompute(Workspace(toy[0], toy[1], "cpu"), 2)
    assert found.notes == ["the device's memory was full: computed in batches of 1, not of 2"]
    assert all(c.relative < 0.01 for c in found.combos)


@pytest.mark.long
def test_guideline_makes_images_in_smaller_batches_and_says_so(
        toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    how, said = Img2Img(strength=0.1, steps=1, seeds=1), Said()
    wanted = guideline(Workspace(toy[0], toy[1], "cpu"), how, Selection(["control"], batch=1))
    holds(monkeypatch, 1)
    found = guideline(Workspace(toy[0], toy[1], "cpu", said), how, Selection(["control"]))
    assert "note: the device's memory was full: batches of 1 now" in said.lines
    for a, b in zip(found.rows, wanted.rows, strict=True):
        assert list(a.pictures) == list(b.pictures)
        assert all(np.array_equal(a.pictures[i], b.pictures[i]) for i in a.pictures)


@pytest.mark.parametrize("captions", [False, True])
def test_text_encoders_leave_the_device_but_for_captions(
        captions: bool, roots: Roots, manifest: WriteManifest, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache.datasets.common.captions import Caption, write_captions
    from gate_cache.datasets.registry import open_dataset

    left: list[Any] = []
    monkeypatch.setattr(Backbone, "leave", lambda self, *modules: left.extend(modules))
    loaded = manifest(conv={"plain": PROMPT}, attention={})
    if captions:
        dataset = open_dataset(loaded.manifest.dataset, roots)
        roots.data.mkdir(exist_ok=True)
        write_captions(roots.data / "c.jsonl", [Caption(s.id, dataset.sha256(s.id), "a cat")
                                                for s in dataset.samples()])
        loaded = manifest(conv={"plain": {"prompt": "{caption}"}}, attention={},
                          captions="c.jsonl")
    extract(Workspace(loaded, roots, "cpu"))
    assert len(left) == (0 if captions else 1)


def test_modules_go_to_the_device_and_leave_it() -> None:
    class Moved:
        def __init__(self) -> None:
            self.places: list[Any] = []

        def to(self, place: Any) -> Moved:
            self.places.append(place)
            return self

    class Model(StableDiffusion):
        def __init__(self, device: str) -> None:
            self.device = torch.device(device)

    module, cuda = Moved(), Model("cuda")
    assert cuda.here(module) is module
    cuda.leave(module)
    assert module.places == [torch.device("cuda"), "cpu"]
    Model("cpu").leave(module)
    assert len(module.places) == 2


@pytest.mark.mostly_long("DefaultCPU*")
@pytest.mark.parametrize("text", [
    "DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory",
    "MPS backend out of memory (MPS allocated: 18.04 GB, max allowed: 18.13 GB)"])
def test_sizes_are_halved_until_one_fits(text: str) -> None:
    def run(size: int) -> str:
        if size > 3:
            raise RuntimeError(text)
        return f"by {size}"

    halved: list[int] = []
    assert fitted(16, run, halved.append) == ("by 2", 2) and halved == [8, 4, 2]
    with pytest.raises(RuntimeError, match="memory"):
        fitted(16, lambda _: run(9))
    with pytest.raises(ZeroDivisionError):
        fitted(2, lambda _: 1 // 0)
