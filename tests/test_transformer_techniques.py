"""LoRAs and ControlNets of diffusion transformers: values are those of diffusers' own loaders."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import WriteManifest
from diffusers import FluxControlNetModel, SD3ControlNetModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from lora_files import Changed, drawn
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import POOLED, WIDTH
from small_transformers import HEADS, T5_WIDTH
from test_transformers import PROMPT, SIDE, models, no_grad, one_step, opened, pipeline_of

from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.lora.adapters import Loras
from gate_cache.diffusion.lora.file import read_lora
from gate_cache.diffusion.lora.fit import model_layers
from gate_cache.diffusion.models.modules import load_controlnet
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.techniques.controlnet import Control
from gate_cache.extraction.extract import extract
from gate_cache.manifest.specs import ControlNetSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

__all__ = ["models", "no_grad"]
COUNT = {"sigma": 4, "sd3": 16, "flux": 16, "sana": 32, "qwen": 16, "z-image": 16}
"""Channels of latents."""
BLOCKS = "transformer_blocks", "single_transformer_blocks", "layers"


def layers_of(model: Any) -> list[tuple[str, str, torch.Tensor]]:
    """The transformer's linear layers in blocks, and a CLIP's, which diffusers can load, too."""
    chosen = [("transformer", n, m.weight) for n, m in model.unet.named_modules()
              if isinstance(m, torch.nn.Linear) and n.split(".")[0] in BLOCKS]
    clip = model.encoders["text_encoder"] if len(model.encoders) > 1 else torch.nn.Module()
    return chosen + [("text_encoder", n, m.weight) for n, m in clip.named_modules()
                     if isinstance(m, torch.nn.Linear) and "q_proj" in n]


def peft_file(layers: list[Changed], path: Path) -> Path:
    tensors = {}
    for layer in layers:
        key = f"{layer.part}.{layer.name}"
        tensors |= {f"{key}.lora_A.weight": layer.down, f"{key}.lora_B.weight": layer.up}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def predicted(model: Any, x: torch.Tensor, t: int) -> torch.Tensor:
    return model.predict(x, t, model.embed(PROMPT))


def of_pipeline(pipe: Any, name: str, x: torch.Tensor, **more: Any) -> tuple[torch.Tensor, int]:
    """What the transformer gives in a whole pipeline's one step."""
    seen: list[torch.Tensor] = []
    hook = pipe.transformer.register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
    _, t = one_step(pipe, name, x, **more)
    hook.remove()
    out = seen[0]
    if name in ("flux", "qwen"):
        out = pipe._unpack_latents(out, SIDE, SIDE, 1).reshape(x.shape)
    if name == "z-image":  # a list, and the other way round
        out = -out[0][None, :, 0]
    return out[:, : x.shape[1]], t


def check_lora(models: Path, name: str, path: Path) -> None:
    """Ours beside the model, against ``load_lora_weights`` of the unmodified pipeline."""
    model, pipe = opened(models, name), pipeline_of(models, name)
    lora = read_lora(path.name, path)
    assert len(model_layers(ModelFiles(name, models / name)).placed(lora)) >= len(lora.layers)
    x = torch.randn(1, COUNT[name], SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    plain, t = of_pipeline(pipe, name, x)
    pipe.load_lora_weights(path)
    expected, _ = of_pipeline(pipe, name, x)
    loras = Loras(model)
    with closing(loras):
        loras.load("one", path.name, path)
        with loras.active([("one", 1.0)]):
            found = predicted(model, x, t)
        with loras.active([("one", 0.0)]):
            torch.testing.assert_close(predicted(model, x, t), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert float((expected - plain).norm() / plain.norm()) > 0.003
    assert not any("lora" in n for n, _ in model.unet.named_modules())


def test_a_lora_of_pixart_is_a_merge_by_hand(models: Path, tmp_path: Path) -> None:
    """Its pipelines load none."""
    model, merged = opened(models, "sigma"), opened(models, "sigma")
    layers = drawn(layers_of(model), lambda i: 2 + i % 3, lambda _: None)
    path, x = peft_file(layers, tmp_path / "x.safetensors"), torch.randn(1, 4, SIDE, SIDE)
    plain = predicted(model, x, 50)
    for layer in layers:
        merged.unet.get_submodule(layer.name).weight += layer.delta()
    with closing(loras := Loras(model)):
        loras.load("one", "x", path)
        with loras.active([("one", 1.0)]):
            torch.testing.assert_close(predicted(model, x, 50), predicted(merged, x, 50),
                                       rtol=1e-3, atol=1e-4)
    assert torch.equal(predicted(model, x, 50), plain)


@pytest.mark.mostly_long("sd3", "sana")
@pytest.mark.parametrize("name", ["sd3", "flux", "sana", "qwen", "z-image"])
def test_pefts_loras_are_what_diffusers_makes_of_them(models: Path, name: str,
                                                      tmp_path: Path) -> None:
    layers = drawn(layers_of(opened(models, name)), lambda i: 2 + i % 3, lambda _: None)
    check_lora(models, name, peft_file(layers, tmp_path / "peft.safetensors"))


def kohya(alpha: float, path: Path, fused: bool = False) -> Path:
    """Of FLUX's original blocks, as sd-scripts writes them: ``linear1`` alone, or all but that."""
    g, tensors = torch.Generator().manual_seed(1), dict[str, torch.Tensor]()
    shapes = {f"double_blocks_{i}_{side}_{layer}": shape for i in range(2)
              for side in ("img", "txt") for layer, shape in {
                  "attn_qkv": (96, 32), "attn_proj": (32, 32), "mlp_0": (128, 32),
                  "mlp_2": (32, 128), "mod_lin": (192, 32)}.items()}
    shapes |= {f"single_blocks_{i}_{layer}": shape for i in range(3) for layer, shape in {
        "linear1": (224, 32), "linear2": (32, 160), "modulation_lin": (96, 32)}.items()}
    for layer, (rows, columns) in shapes.items():
        if layer.endswith("linear1") != fused:
            continue
        key = f"lora_unet_{layer}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, columns, generator=g)
        tensors[f"{key}.lora_up.weight"] = 0.05 * torch.randn(rows, 4, generator=g)
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def test_kohyas_loras_of_flux_are_what_diffusers_makes_of_them(models: Path,
                                                               tmp_path: Path) -> None:
    """But for ``linear1``, of which diffusers takes the published width alone."""
    check_lora(models, "flux", kohya(2.0, tmp_path / "kohya.safetensors"))


def test_a_fused_layer_changes_each_part_by_its_rows(models: Path, tmp_path: Path) -> None:
    path, model = kohya(2.0, tmp_path / "x.safetensors", fused=True), opened(models, "flux")
    x = torch.randn(1, 16, SIDE, SIDE)
    with closing(loras := Loras(model)):
        loras.load("one", "x", path)
        with loras.active([("one", 0.5)]):
            found = predicted(model, x, 500)
    tensors = load_file(path)
    for i, block in enumerate(model.unet.single_transformer_blocks):
        key = f"lora_unet_single_blocks_{i}_linear1"
        change = 0.5 * 2 / 4 * tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
        for part, rows in zip((block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp),
                              change.split([32, 32, 32, 128]), strict=True):
            part.weight += rows
    torch.testing.assert_close(predicted(model, x, 500), found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("key", "says"), [
    ("lora_unet_double_blocks_0_img_attn_qkv", r"changes a weight of shape \(65, 32\)"),
    ("lora_unet_final_layer_linear", "only 1 of its 2 layers fit this model"),
    ("lora_unet_double_blocks_7_img_attn_proj", "only 1 of its 2 layers fit this model"),
    ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "only 1 of its 2 layers fit")])
def test_what_is_not_taken_is_an_error(models: Path, tmp_path: Path, key: str, says: str) -> None:
    good = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{k}.lora_{side}.weight": torch.zeros(shape) for k in (good, key) for side, shape in
               (("down", (4, 32)), ("up", (129 if "qkv" in k else 32, 4)))}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=says):
        model_layers(ModelFiles("flux", models / "flux")).placed(
            read_lora("x", tmp_path / "x.safetensors"))


def net_of(name: str, **more: Any) -> Any:
    """A small ControlNet with weights that are no zeros."""
    torch.manual_seed(3)
    if name == "sd3":
        net = SD3ControlNetModel(
            **HEADS, sample_size=16, in_channels=16, out_channels=16, num_layers=2,
            joint_attention_dim=T5_WIDTH + WIDTH + WIDTH, caption_projection_dim=32,
            pooled_projection_dim=2 * POOLED, pos_embed_max_size=24, qk_norm="rms_norm", **more)
    else:
        net = FluxControlNetModel(
            **HEADS, in_channels=64, num_layers=1, num_single_layers=1, guidance_embeds=True,
            joint_attention_dim=T5_WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=[4, 6, 6],
            **more)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return net.eval()


class OneImage:
    """What a technique is given of a store's rows."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def from_folder(self, _folder: str, _rows: Any) -> np.ndarray:
        return self.image[None]

    def cached(self, _key: object, rows: Any, make: Any) -> Any:
        return make(rows)


@pytest.mark.mostly_long("sd3*")
@pytest.mark.parametrize(("name", "more"), [
    ("sd3", {"force_zeros_for_pooled_projection": False}),
    ("sd3", {"force_zeros_for_pooled_projection": True}), ("flux", {})])
def test_a_controlnet_gives_what_its_pipeline_computes(
        models: Path, tmp_path: Path, name: str, more: Any,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the latents of the condition: their mean, where pipelines draw them."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _g=None: self.mode())
    net_of(name, **more).save_pretrained(tmp_path / "net")
    model, plain = opened(models, name), pipeline_of(models, name)
    cls = {"sd3": diffusers.StableDiffusion3ControlNetPipeline,
           "flux": diffusers.FluxControlNetPipeline}[name]
    pipe = cls(**plain.components if name == "sd3" else {
        k: v for k, v in plain.components.items() if k not in ("image_encoder",
                                                               "feature_extractor")},
               controlnet=type(net_of(name)).from_pretrained(tmp_path / "net"))
    pipe.set_progress_bar_config(disable=True)
    image = np.random.default_rng(0).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), np.uint8)
    x = torch.randn(1, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected, t = of_pipeline(pipe, name, x, control_image=Image.fromarray(image),
                              controlnet_conditioning_scale=0.7)
    without, _ = of_pipeline(plain, name, x)
    control = Control(model, load_controlnet(tmp_path / "net", model), ControlNetSpec(
        source="net", images="hints", scale=0.7))
    extra = control.batch(OneImage(image), [0])  # type: ignore[arg-type]
    found = model.predict(x, t, model.embed(PROMPT), extra)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert float((expected - without).norm() / without.norm()) > 0.01


@pytest.mark.parametrize(("name", "change", "says"), [
    ("flux", {"num_mode": 3}, "num_mode: 3 asks for the kind of condition"),
    ("flux", {"conditioning_embedding_channels": 4}, "a condition that is no latents"),
    ("sd3", {"use_pos_embed": False}, "asks for the transformer's positions"),
    ("sd3", {"extra_conditioning_channels": 1}, "a mask beside the condition"),
    ("sd3", {"num_attention_heads": 3}, "num_attention_heads 3, the transformer's is 2")])
def test_other_controlnets_are_refused(models: Path, tmp_path: Path, manifest: WriteManifest,
                                       roots: Roots, name: str, change: Any, says: str) -> None:
    from gate_cache.extraction.plan import plan

    net = net_of(name)
    net.register_to_config(**change)
    shutil.copytree(models / name, tmp_path / "models" / name)
    net.save_pretrained(tmp_path / "models/net")
    loaded = manifest(model={"source": name}, attention={}, conv={
        "c": {"prompt": "a", "controlnet": {"source": "net"}}})
    with pytest.raises(ModelError, match=re.escape(says)):
        plan(Workspace(loaded, roots, "cpu"))


def test_a_store_of_a_transformer_with_both(models: Path, manifest: WriteManifest,
                                            roots: Roots) -> None:
    """The plain pass, and those that share its noise; a LoRA and edges change maps behind them."""
    shutil.copytree(models / "sd3", roots.models / "sd3")
    net_of("sd3").save_pretrained(roots.models / "net")
    layers = drawn(layers_of(opened(models, "sd3")), lambda _: 2, lambda _: None)
    peft_file(layers, roots.models / "lora.safetensors")
    maps = {"prompt": "a", "maps": ["transformer.0.img", "transformer.2.img"]}
    loaded = manifest(dataset={"name": "toyworld", "train": 2, "val": 1, "test": 1},
                      model={"source": "sd3", "size": 32}, attention={}, train={}, conv={
        "plain": maps, "edges": {**maps, "controlnet": {"source": "net"}},
        "lora": {**maps, "lora": {"source": "lora.safetensors"}}})
    store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    first, last = ({n: store[n][f"transformer.{i}.img"][:] for n in ("plain", "edges", "lora")}
                   for i in (0, 2))
    np.testing.assert_array_equal(first["plain"], first["edges"])  # added behind the block
    assert not np.array_equal(last["plain"], last["edges"])
    assert not np.array_equal(first["plain"], first["lora"])
