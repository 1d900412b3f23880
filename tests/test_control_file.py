"""ControlNets and IP-Adapters against the model they are put beside; ControlNets as one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteManifest
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from original_layout import controlnet_key
from safetensors.torch import load_file, save_file
from small_models import small_unet, write_controlnet, write_sd1, write_sdxl
from test_techniques import ADAPTER, plus_projection, write_ip_adapter
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from gate_cache import FeatureStore
from gate_cache.core.errors import ModelError, NotThere
from gate_cache.core.roots import Roots
from gate_cache.core.weights import shapes_in
from gate_cache.diffusion.files.control_file import inferred_config, plain_names
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.modules import load_controlnet
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.techniques.controlnet import ControlNet
from gate_cache.diffusion.techniques.ip_adapter import IPAdapter, _Loaded
from gate_cache.extraction.extract import extract
from gate_cache.manifest.specs import ControlNetSpec, IPAdapterSpec
from gate_cache.workspace.workspace import Workspace

WEIGHTS = "diffusion_pytorch_model.safetensors"
HORSE = {"prompt": "a horse"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_sd1(root / "sd1")
    write_sdxl(root / "sdxl")
    for name in ("sd1", "sdxl"):
        write_controlnet(root / f"{name}-net", root / name)
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Roots:
    """Roots in which files may be added."""
    roots = Roots(*(tmp_path / n for n in ("data", "models", "stores", "runs")))
    roots.models.mkdir()
    for path in written.iterdir():
        (roots.models / path.name).symlink_to(path)
    return roots


def fit(home: Roots, model: str = "sd1", **spec: Any) -> None:
    ControlNet("c", ControlNetSpec(**spec)).fits(ModelFiles(model, home.models / model), home)


def other_net(folder: Path, like: Path, more: dict[str, Any], **config: Any) -> None:
    """A ControlNet whose configuration, or that of the UNet it is made from, is another."""
    base = json.loads((like / "config.json").read_text())
    net = ControlNetModel.from_config({**base, **more})
    net.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


@pytest.mark.parametrize(("more", "says"), [
    ({"layers_per_block": 2}, r"layers per block \[2, 2, 2, 2\], the UNet's is \[1, 1, 1, 1\]"),
    ({"block_out_channels": [32, 64, 64, 64]}, r"channels \[32, 64, 64, 64\], the UNet's is"),
    ({"cross_attention_dim": 48}, "text width 48, the UNet's is 32"),
    ({"conditioning_channels": 6}, "conditioning_channels: 6 asks for a condition that is not an"),
    ({"conditioning_embedding_out_channels": [8, 16]}, "condition's stride 2, the UNet's is 4"),
    ({"in_channels": 9}, "latent channels 9, the UNet's is 4"),
    ({"class_embed_type": "timestep"}, "class_embed_type: timestep asks for a class label")])
def test_a_controlnet_that_does_not_fit_is_refused(home: Roots, more: dict[str, Any],
                                                   says: str) -> None:
    fit(home, source="sd1-net")
    other_net(home.models / "other", home.models / "sd1-net", more)
    with pytest.raises(ModelError, match=says) as caught:
        fit(home, source="other")
    assert str(caught.value).startswith(str(home.models / "other/config.json"))


@pytest.mark.parametrize(("config", "says"), [
    ({"_class_name": "ControlNetUnionModel", "num_control_type": 6}, "its class is ControlNetUni"),
    ({"conditioning_embedding_out_channels": 8}, "out_channels: 8 is not a list of numbers"),
    ({"num_control_type": 6}, "ControlNetModel has no 'num_control_type'"),
    ({"mid_block_type": None}, "mid_block_type: None asks for a network without it"),
    ({"controlnet_conditioning_channel_order": "hsv"}, "hsv asks for another order of colours")])
def test_a_controlnet_of_another_kind_is_refused(home: Roots, config: dict[str, Any],
                                                 says: str) -> None:
    other_net(home.models / "other", home.models / "sd1-net", {}, **config)
    with pytest.raises(ModelError, match=says):
        fit(home, source="other")


def test_a_controlnet_of_xl_is_not_one_of_1(home: Roots) -> None:
    fit(home, "sdxl", source="sdxl-net")
    for model, net in (("sd1", "sdxl-net"), ("sdxl", "sd1-net")):
        with pytest.raises(ModelError, match="this ControlNet is for another model"):
            fit(home, model, source=net)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_single_file_is_what_its_folder_is(home: Roots, name: str,
                                             manifest: WriteManifest) -> None:
    shutil.copy(home.models / f"{name}-net" / WEIGHTS, home.models / "canny.safetensors")
    nets = {"folder": {"source": f"{name}-net"}, "file": {"source": "canny.safetensors"}}
    given = ControlNetSpec(source="canny.safetensors", config=f"{name}-net")
    assert ControlNet("c", given).digests(home) == ControlNet(
        "c", ControlNetSpec(**nets["folder"])).digests(home)
    loaded = manifest(
        dataset={"name": "toyworld", "train": 1, "val": 0, "test": 0}, attention={},
        model={"source": name, "size": 64}, store={"dtype": "float32", "batch": 1},
        conv={**{k: {**HORSE, "controlnet": v} for k, v in nets.items()}, "plain": HORSE})
    store = FeatureStore.open(extract(Workspace(loaded, home, "cpu")).store)
    for m in store["plain"]:
        assert np.array_equal(store["folder"][m][:], store["file"][m][:])
    assert not np.array_equal(store["plain"]["up1"][:], store["file"]["up1"][:])


@pytest.mark.mostly_long("-*")
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_a_file_in_the_original_layout_has_the_same_weights(home: Roots, name: str,
                                                            prefix: str) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(home.models / name / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 24, 32))
    for weight in net.parameters():
        torch.nn.init.normal_(weight)
    path, config = home.models / "original.safetensors", dict(unet.config)
    beside = {"model.diffusion_model.out.2.bias": torch.ones(4)} if prefix else {}
    save_file(beside | {prefix + controlnet_key(k, config): v.contiguous()
                        for k, v in net.state_dict().items()}, path)
    found = inferred_config(plain_names(shapes_in([path])), config)
    assert found["conditioning_embedding_out_channels"] == [8, 16, 24, 32]
    loaded = load_controlnet(path, load(ModelFiles(name, home.models / name), CPU, torch.float32),
                             found)
    state = loaded.state_dict()
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    with pytest.raises(ModelError, match="condition's stride 8, the UNet's is 4"):
        fit(home, name, source=path.name)  # the small autoencoder shrinks 4 times


@pytest.mark.parametrize(("change", "says"), [
    ({"task_embedding": (6, 32)}, "1 of its .* tensors are none of one's \\(task_embedding\\)"),
    ({"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_down.weight": (4, 32)},
     "tensors are none of one's"),
    ({"controlnet_down_blocks.8.weight": (128, 128, 1, 1)}, "it adds 9 maps of 32 to 128 channels"),
    ({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (32, 48)},
     "text width 48, the UNet's is 32")])
def test_another_single_file_is_refused(home: Roots, change: dict[str, Any], says: str) -> None:
    state = load_file(home.models / "sd1-net" / WEIGHTS)
    state |= {k: torch.ones(*shape) for k, shape in change.items()}
    if "task_embedding" not in change and "lora" not in str(change):
        state["controlnet_down_blocks.8.bias"] = torch.ones(128)
    if "text" in says:
        state = {k: v for k, v in state.items() if ".8." not in k}
    save_file(state, home.models / "x.safetensors")
    with pytest.raises(ModelError, match=says):
        fit(home, source="x.safetensors")


def test_a_unet_is_no_controlnet(home: Roots) -> None:
    shutil.copy(home.models / "sd1/unet" / WEIGHTS, home.models / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors: not a plain ControlNet: .* none of one"):
        fit(home, source="x.safetensors")


def test_a_tensor_that_only_loading_shows_is_refused(home: Roots) -> None:
    model = load(ModelFiles("sd1", home.models / "sd1"), CPU, torch.float32)
    state = load_file(home.models / "sd1-net" / WEIGHTS)
    path = home.models / "x.safetensors"
    save_file({**state, "down_blocks.0.gate.weight": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=r"1 tensor not read by ControlNetModel: down_blocks"):
        load_controlnet(path, model, inferred_config(shapes_in([path]), model.unet.config))


@pytest.mark.parametrize(("source", "more", "kind", "says"), [
    ("gone.safetensors", {}, NotThere, "no such file; put it there"),
    ("net.pth", {}, ModelError, "pickled weights are not read"),
    ("sd15_shuffle.safetensors", {}, ModelError, r"c\.controlnet\.config, the folder of its"),
    ("sd1-net", {"config": "sd1-net"}, ModelError, "is for a single .safetensors file")])
def test_what_a_source_cannot_be_is_said(home: Roots, source: str, more: dict[str, str],
                                         kind: type[ModelError], says: str) -> None:
    save_file({"a": torch.ones(1)}, home.models / "sd15_shuffle.safetensors")
    with pytest.raises(kind, match=says) as caught:
        ControlNet("c", ControlNetSpec(source=source, **more)).check(home)
    assert type(caught.value) is kind


# ------------------------------------------------------------------------------------ IP-Adapter


def fit_adapter(home: Roots, **spec: Any) -> None:
    technique = IPAdapter("c", IPAdapterSpec(**{**ADAPTER, **spec}))
    technique.fits(ModelFiles("sd1", home.models / "sd1"), home)


@pytest.fixture
def adapted(home: Roots, written: Path) -> Roots:
    write_ip_adapter(home.models, unet=UNet2DConditionModel.from_pretrained(written / "sd1/unet"))
    return home


def write_encoder(folder: Path, hidden: int, projection: int) -> None:
    CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8, projection_dim=projection)).save_pretrained(folder)


@pytest.mark.parametrize(("plus", "says"), [
    (False, "encoder: its projection_dim is 80, the adapter takes 24"),
    (True, "encoder: its hidden_size is 48, the adapter takes 32")])
def test_an_adapter_needs_its_own_image_encoder(home: Roots, written: Path, plus: bool,
                                                says: str) -> None:
    unet = UNet2DConditionModel.from_pretrained(written / "sd1/unet")
    write_ip_adapter(home.models, plus, unet)
    fit_adapter(home)
    write_encoder(home.models / "encoder", 48, 80)
    with pytest.raises(ModelError, match=says):
        fit_adapter(home)


@pytest.mark.parametrize(("drop", "add", "says"), [
    ("ip_adapter.1.to_k_ip.weight", {}, "19 of its 19 tensors fit this model, which takes 20"),
    ("", {"ip_adapter.99.to_k_ip.weight": (2, 2)}, "20 of its 21 tensors fit this model"),
    ("", {"ip_adapter.1.to_k_ip.weight": (32, 48)}, "19 of its 20 tensors fit this model"),
    ("", {"image_proj.proj.weight": (4 * 48, 24)}, "its image tokens have width 48, the UNet's"),
    ("", {"ip_adapter.1.to_k_lora.down.weight": (2, 2)}, "FaceID needs a face's embedding")])
def test_an_adapter_of_another_model_is_refused(adapted: Roots, drop: str, add: dict[str, Any],
                                                says: str) -> None:
    path = adapted.models / "ip.safetensors"
    state = {k: v for k, v in load_file(path).items() if k != drop}
    save_file(state | {k: torch.ones(*shape) for k, shape in add.items()}, path)
    with pytest.raises(ModelError, match=says):
        fit_adapter(adapted)


def test_adapters_of_whole_numbers_or_none_are_refused(adapted: Roots) -> None:
    path, key = adapted.models / "ip.safetensors", "ip_adapter.1.to_k_ip.weight"
    state = load_file(path)
    save_file({**state, key: state[key].to(torch.int8)}, path)
    with pytest.raises(ModelError, match=f"'{key}' holds whole numbers: a quantised file"):
        fit_adapter(adapted)
    save_file({**state, key: torch.full_like(state[key], torch.nan)}, path)
    model = load(ModelFiles("sd1", adapted.models / "sd1"), CPU, torch.float32)
    with pytest.raises(ModelError, match=f"'{key}' holds NaN or infinity"):
        _Loaded(model, path, adapted.models / "encoder", None)


def test_an_encoder_of_another_kind_or_variant_is_refused(adapted: Roots) -> None:
    folder = adapted.models / "encoder"
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"set 'c\.ip_adapter\.variant: fp16'"):
        fit_adapter(adapted)
    fit_adapter(adapted, variant="fp16")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(ModelError, match="a siglip as image encoder, which is not read"):
        fit_adapter(adapted, variant="fp16")


@pytest.mark.parametrize("kind", ["plus", "full"])
def test_adapters_on_patches_do_what_diffusers_does(adapted: Roots, kind: str) -> None:
    width, hidden = 32, 32
    path = adapted.models / "ip.safetensors"
    full = {"proj.0.weight": torch.randn(hidden, hidden) / 5, "proj.0.bias": torch.zeros(hidden),
            "proj.2.weight": torch.randn(width, hidden) / 5, "proj.2.bias": torch.zeros(width),
            "proj.3.weight": torch.ones(width), "proj.3.bias": torch.zeros(width)}
    layers = {k: v for k, v in load_file(path).items() if k.startswith("ip_adapter")}
    projection = full if kind == "full" else plus_projection(hidden, width)
    save_file(layers | {f"image_proj.{k}": v for k, v in projection.items()}, path)
    fit_adapter(adapted)
    model = load(ModelFiles("sd1", adapted.models / "sd1"), CPU, torch.float32)
    technique = IPAdapter("c", IPAdapterSpec(**ADAPTER, scale=0.7))
    opened, x = technique.open(model, adapted), torch.randn(1, 4, 16, 16)

    class Inputs:
        def images(self, rows: Any) -> Any:
            return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

    text = model.embed("a horse")
    with torch.inference_mode(), opened.active():
        extra: Any = opened.batch(Inputs(), [0])  # type: ignore[arg-type]
        found = model.predict(x, 50, text, extra)
        embeds = extra(None)
    pipe: Any = StableDiffusionPipeline.from_pretrained(adapted.models / "sd1")
    pipe.unet._load_ip_adapter_weights([{
        "image_proj": projection,
        "ip_adapter": {k.split(".", 1)[1]: v for k, v in layers.items()}}],
        low_cpu_mem_usage=False)
    pipe.set_ip_adapter_scale(0.7)
    with torch.inference_mode():
        expected = pipe.unet(x, 50, text.states, **embeds).sample
    torch.testing.assert_close(found, expected)
    assert small_unet("sd-1.5")["cross_attention_dim"] == width
