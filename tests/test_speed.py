"""What makes passes faster: values stay but for rounding, or the fingerprint says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOY, WriteManifest
from test_extract import Toy, arrays

from gate_cache.core.errors import ModelError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.loading import faster
from gate_cache.extraction.extract import extract
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

TINY = {"source": "tiny"}


def prints(manifest: WriteManifest, roots: Roots, **model: Any) -> dict[str, str]:
    work = Workspace(manifest("m.yaml", model={**TINY, **model}), roots, "cpu")
    return {plan.name: fingerprint(plan.recipe) for plan in work.plans(work.model())}


def test_what_changes_values_is_in_the_fingerprint_and_nothing_else(
        manifest: WriteManifest, roots: Roots) -> None:
    plain = prints(manifest, roots)
    assert prints(manifest, roots, channels_last=True, compile=True) == plain
    tf32 = prints(manifest, roots, tf32=True)
    assert not set(tf32.values()) & set(plain.values())
    work = Workspace(manifest("m.yaml", model={**TINY, "tf32": True}), roots, "cpu")
    assert {p.recipe["compute"] for p in work.plans(work.model())} == {"float32+tf32"}


@pytest.mark.mostly_long("channels_last")
@pytest.mark.parametrize("option", ["channels_last", "compile"])
def test_an_option_changes_nothing_but_rounding(
        option: str, toy: Toy, roots: Roots, manifest: WriteManifest,
        monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, layouts, real = list[Any](), set[bool](), torch.nn.Module.compile
    conv = torch.nn.Conv2d.forward

    def compile_quickly(self: torch.nn.Module) -> None:
        compiled.append(self)
        real(self, backend="eager")

    def forward(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.kernel_size == (3, 3):
            layouts.add(self.weight.is_contiguous(memory_format=torch.channels_last))
        return conv(self, x)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    loaded = manifest(model={**TINY, option: True}, conv={"plain": TOY["conv"]["plain"]},
                      attention={})
    found = arrays(extract(Workspace(loaded, roots, "cpu")).store)
    wanted = arrays(toy[2])
    for name, value in found.items():
        if not name.startswith("samples") and "/done" not in name and "/sums" not in name:
            near, far = value.astype(np.float32), wanted[name].astype(np.float32)
            np.testing.assert_allclose(near, far, rtol=4e-3, atol=4e-3, err_msg=name)
    assert bool(compiled) == (option == "compile")
    assert layouts == {option == "channels_last"}


def test_a_model_without_repeated_blocks_is_not_compiled() -> None:
    model: Any = type("Model", (), {"unet": torch.nn.Linear(1, 1)})()
    with pytest.raises(ModelError, match=r"model\.compile: this model has no repeated blocks"):
        faster(model, ModelSpec.model_validate({**TINY, "compile": True}))


@pytest.mark.parametrize("asked", [False, True])
def test_tf32_is_as_asked_until_the_model_is_closed(
        asked: bool, roots: Roots, manifest: WriteManifest,
        monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[tuple[bool, bool]]()
    real = Backbone.predict

    def predict(self: Backbone, *args: Any) -> Any:
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return real(self, *args)

    monkeypatch.setattr(Backbone, "predict", predict)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not asked)
    loaded = manifest(model={**TINY, "tf32": asked}, conv={"plain": TOY["conv"]["plain"]},
                      attention={})
    extract(Workspace(loaded, roots, "cpu"))
    assert seen == {(asked, asked)}
    assert torch.backends.cudnn.allow_tf32 is not asked
    monkeypatch.undo()
