"""Every layer of a LoRA is as strong as its file says: against weights merged by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lora_files import (
    Changed,
    Written,
    assert_alike,
    diffusers,
    drawn,
    flat_kohya,
    kohya,
    merged,
    outputs,
    random_file,
    rslora,
    sgm,
    weights,
)
from small_models import write_sdxl

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.lora.adapters import Loras
from gate_cache.diffusion.lora.file import read_lora
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles

CPU = torch.device("cpu")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONV = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFiles]:
    """``tiny``, a Stable Diffusion 1.x, and a small XL."""
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    write_sdxl(folder)
    return {"tiny": ModelFiles("tiny", HOME), "sdxl": ModelFiles("sdxl", folder)}


@pytest.fixture(scope="module")
def models(files: dict[str, ModelFiles]) -> dict[str, Backbone]:
    return {name: load(found, CPU, torch.float32) for name, found in files.items()}


@pytest.fixture
def tiny(models: dict[str, Backbone]) -> Backbone:
    return models["tiny"]


def applied(model: Backbone, path: Path, scale: float = 1.0) -> list[torch.Tensor]:
    """Outputs with a file's LoRA, which is then taken out again."""
    with closing(Loras(model)) as loras:
        loras.load("d", path.name, path)
        with loras.active([("d", scale)]):
            return outputs(model)


# ------------------------------------------------------------------------------ the property


@pytest.mark.mostly_long("0-*", "1-*", "2-tiny")
@pytest.mark.parametrize("name", ["tiny", "sdxl"])
@pytest.mark.parametrize("seed", range(6))
def test_any_loras_at_once_are_a_merge_by_hand(models: dict[str, Backbone], tmp_path: Path,
                                               files: dict[str, ModelFiles], name: str,
                                               seed: int) -> None:
    """One to three random files with scales of their own; afterwards nothing is left."""
    model, config = models[name], files[name].config("unet")
    scales = [(1.0,), (0.7, -0.4), (0.5, 1.3, 0.2)][seed % 3]
    paths, changes = [], []
    for i, scale in enumerate(scales):
        written, changed = random_file(model, config, 10 * seed + i)
        paths.append(written.save(tmp_path / f"{i}.safetensors"))
        changes += [(layer, scale) for layer in changed]
    plain, loras = outputs(model), Loras(model)
    with closing(loras):
        for i, path in enumerate(paths):
            loras.load(str(i), path.name, path)
        with loras.active([(str(i), scale) for i, scale in enumerate(scales)]):
            found = outputs(model)
        off = outputs(model)
    with merged(model, changes):
        assert_alike(found, outputs(model), plain)
    for left in (off, outputs(model)):
        assert all(torch.equal(a, b) for a, b in zip(left, plain, strict=True))


# ------------------------------------------------------------------- what trainers and tools write


def chosen(model: Backbone, *ends: str) -> list[tuple[str, str, torch.Tensor]]:
    """Layers whose names end so, and all of the text encoder's."""
    return [w for w in weights(model) if w[0] != "unet" or w[1].endswith(ends)]


TOOLS: dict[str, tuple[Callable[[int], int], Callable[[int], float | None]]] = {
    "resized": (lambda i: [2, 5, 3, 8, 4, 6, 1][i % 7], lambda i: [1.0, 2.5, 1.5, 4, 2][i % 5]),
    "alphas per block": (lambda i: 8, lambda i: [8.0, 4.0, 1.0][i // 40 % 3]),
    "one alpha alone": (lambda i: 8, lambda i: 1.0 if i == 0 else None),
    "some without alpha": (lambda i: [4, 8][i % 2], lambda i: None if i % 3 == 0 else 1.0),
    "ranks without alpha": (lambda i: [2, 8][i % 2], lambda i: None),
}


FORMS: dict[str, Callable[[list[Changed]], Written]] = {
    "kohya": kohya, "diffusers": diffusers, "transformers 4": lambda x: diffusers(x, old=True)}


@pytest.mark.mostly_long("resized-kohya", "one alpha*-kohya")
@pytest.mark.parametrize("tool, form", [
    *((tool, "kohya") for tool in TOOLS), ("resized", "diffusers"), ("resized", "transformers 4"),
    ("some without alpha", "transformers 4")])
def test_strengths_of_tools(tiny: Backbone, tmp_path: Path, tool: str, form: str) -> None:
    changed = drawn(chosen(tiny, *ATTENTION, *CONV), *TOOLS[tool])
    path, plain = FORMS[form](changed).save(tmp_path / "a.safetensors"), outputs(tiny)
    found = applied(tiny, path)
    with merged(tiny, [(layer, 1.0) for layer in changed]):
        assert_alike(found, outputs(tiny), plain)


def old_processor(changed: Changed) -> str:
    """As diffusers named attention layers before it used peft."""
    if changed.part != "unet":
        name = changed.name.replace("out_proj", "to_out_lora")
        for letter in "qkv":
            name = name.replace(f"{letter}_proj", f"to_{letter}_lora")
        return f"text_encoder.text_model.{name}" + ("" if "self_attn" in name else
                                                    ".lora_linear_layer")
    head, letter = changed.name.removesuffix(".0").rsplit(".", 1)
    return f"unet.{head}.processor.{letter}_lora"


def renamed(key: Callable[[Changed], str], sides: tuple[str, str]) -> Callable[..., Written]:
    """A file with other names of layers and of their factors."""
    def write(layers: list[Changed]) -> Written:
        found = Written()
        for x in layers:
            found.tensors |= {f"{key(x)}.{sides[0]}.weight": x.down,
                              f"{key(x)}.{sides[1]}.weight": x.up}
            if x.alpha is not None:
                found.tensors[f"{key(x)}.alpha"] = torch.tensor([int(x.alpha)])
        return found
    return write


NAMES = {
    "processors": renamed(old_processor, ("down", "up")),
    "diffusers, alphas as tensors": renamed(lambda x: f"{x.part}.{x.name}.lora", ("down", "up")),
    "peft's with an adapter's name": renamed(lambda x: f"{x.part}.{x.name}",
                                             ("lora_A.default", "lora_B.default")),
    "lycoris": renamed(lambda x: "lycoris_" + flat_kohya(x).split("_", 2)[2],
                       ("lora_down", "lora_up")),
    "te1": renamed(lambda x: flat_kohya(x).replace("lora_te_", "lora_te1_"),
                   ("lora_down", "lora_up")),
}


@pytest.mark.parametrize("names", NAMES)
def test_names_that_are_known(tiny: Backbone, tmp_path: Path, names: str) -> None:
    changed = drawn(chosen(tiny, *ATTENTION), lambda i: [2, 4][i % 2], lambda i: [1.0, 3.0][i % 2])
    path, plain = NAMES[names](changed).save(tmp_path / "a.safetensors"), outputs(tiny)
    found = applied(tiny, path, 0.5)
    with merged(tiny, [(layer, 0.5) for layer in changed]):
        assert_alike(found, outputs(tiny), plain)


@pytest.mark.parametrize("name", ["tiny", "sdxl"])
def test_original_names_of_every_layer(models: dict[str, Backbone], tmp_path: Path, name: str,
                                       files: dict[str, ModelFiles]) -> None:
    """conv_in, conv_out and the time embedding are among them, and are honoured."""
    model = models[name]
    changed = drawn(weights(model), lambda i: [2, 4][i % 2], lambda i: [1.0, 3.0][i % 2])
    path = kohya(changed, sgm(files[name].config("unet"))).save(tmp_path / "a.safetensors")
    plain, found = outputs(model), applied(model, path)
    assert "lora_unet_out_2.alpha" in kohya(changed, sgm(files[name].config("unet"))).tensors
    with merged(model, [(layer, 1.0) for layer in changed]):
        assert_alike(found, outputs(model), plain)


def test_rank_stabilised(tiny: Backbone, tmp_path: Path) -> None:
    changed = drawn(chosen(tiny, "to_q"), lambda i: 4, lambda i: 2.0)
    path = diffusers(changed, use_rslora=True).save(tmp_path / "a.safetensors")
    plain, found = outputs(tiny), applied(tiny, path)
    with merged(tiny, [(layer, 1.0) for layer in changed], rslora):
        assert_alike(found, outputs(tiny), plain)


@pytest.mark.parametrize("flat", [True, False])
def test_a_convolution_of_one_pixel_may_be_a_matrix(tiny: Backbone, tmp_path: Path,
                                                    flat: bool) -> None:
    changed = drawn(chosen(tiny, "proj_in", "proj_out", "to_q"), lambda i: 4, lambda i: 2.0)
    written = kohya(changed)
    for key, value in written.tensors.items():
        if value.ndim == 4 and flat:
            written.tensors[key] = value.flatten(1)
        elif value.ndim == 2 and not flat:
            written.tensors[key] = value[..., None, None]
    plain, found = outputs(tiny), applied(tiny, written.save(tmp_path / "a.safetensors"))
    with merged(tiny, [(layer, 1.0) for layer in changed]):
        assert_alike(found, outputs(tiny), plain)


def test_pefts_settings_beside_the_file_count(tiny: Backbone, tmp_path: Path) -> None:
    changed = drawn([w for w in weights(tiny) if w[1].endswith("attn2.to_k")], lambda i: 4,
                    lambda i: 6.0)
    tensors = {f"base_model.model.{x.name}.lora_{side}.weight": value for x in changed
               for side, value in (("A", x.down), ("B", x.up))}
    path = Written(tensors).save(tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"no adapter_config\.json beside it.*put that into"):
        read_lora("a", path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["to_k"]}))
    plain, found = outputs(tiny), applied(tiny, path)
    with merged(tiny, [(layer, 1.0) for layer in changed]):
        assert_alike(found, outputs(tiny), plain)


# ---------------------------------------------------------------------------- checked after loading


@pytest.mark.parametrize(("factor", "alpha"), [(0, 3.0), (1, 0.0)])
def test_a_file_that_changes_nothing_is_refused(tiny: Backbone, tmp_path: Path, factor: int,
                                                alpha: float) -> None:
    """As kohya's trainers write before the first step: all of ``up`` is zero."""
    changed = [replace(x, up=factor * x.up)
               for x in drawn(chosen(tiny, "to_q"), lambda _: 4, lambda _: alpha)]
    with pytest.raises(ModelError, match=r"a\.safetensors: this LoRA changes nothing"):
        applied(tiny, kohya(changed).save(tmp_path / "a.safetensors"))


@pytest.mark.mostly_long("dtype0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_one_alpha_is_to_the_bit_what_diffusers_makes_of_it(
        files: dict[str, ModelFiles], tmp_path: Path, dtype: torch.dtype) -> None:
    """So stores that were extracted with it by release 0.1 stay valid."""
    model = load(files["tiny"], CPU, dtype)
    changed = drawn(chosen(model, *ATTENTION, *CONV), lambda i: 8, lambda i: 3.0, torch.float16)
    path = kohya(changed).save(tmp_path / "a.safetensors")
    found = applied(model, path, 0.7)
    pipe = StableDiffusionPipeline.from_pretrained(HOME, safety_checker=None, torch_dtype=dtype)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="a")
    pipe.set_adapters(["a"], [0.7])
    model.unet, model.text_encoder = pipe.unet.eval(), pipe.text_encoder.eval()
    assert all(torch.equal(a, b) for a, b in zip(found, outputs(model), strict=True))


@pytest.mark.parametrize("wrong", ["strength", "values", "layers"])
def test_a_layer_that_is_not_what_the_file_says_is_refused(
        tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    from gate_cache.diffusion.lora import adapters

    insert, switch = adapters._insert, Loras._switch

    def damaged(module: torch.nn.Module, name: str, placed: list[tuple[object, object]],
                tensors: dict[str, torch.Tensor]) -> None:
        values = {k: v * 1.01 for k, v in tensors.items()} if wrong == "values" else tensors
        insert(module, name, placed[wrong == "layers":], values)  # type: ignore[arg-type]

    def switched(self: Loras, scales: dict[str, float]) -> None:
        factor = 0.5 if wrong == "strength" else 1.0
        switch(self, {name: factor * scale for name, scale in scales.items()})

    monkeypatch.setattr(adapters, "_insert", damaged)
    monkeypatch.setattr(Loras, "_switch", switched)
    changed = drawn([w for w in weights(tiny) if w[1].endswith("to_q")], lambda i: 4, lambda i: 2.0)
    path = kohya(changed).save(tmp_path / "a.safetensors")
    says = {"layers": "layers were loaded, the file has"}.get(wrong, "'lora_unet_.* was loaded")
    with pytest.raises(ModelError, match=rf"a\.safetensors: .*{says}"):
        applied(tiny, path)
