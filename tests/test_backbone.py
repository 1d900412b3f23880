"""Stable Diffusion 1.x in diffusers layout: a folder written by the test, real loading code."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROMPT, WriteManifest, tiny_config
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from gate_cache import FeatureStore
from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import CONTROLNETS, HOME
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.text.tokens import read_tokens
from gate_cache.workspace.workspace import Workspace

CONV = {"plain": PROMPT, "control": {"prompt": "a photo", "controlnet": {"source": "nets/canny"}}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root with the tiny family as plain diffusers saves it."""
    root = tmp_path_factory.mktemp("models")
    StableDiffusionPipeline.from_pretrained(HOME).save_pretrained(root / "org" / "model")
    ControlNetModel.from_pretrained(CONTROLNETS["tiny"]).save_pretrained(root / "nets" / "canny")
    return root


@pytest.fixture
def own(written: Path, roots: Roots) -> Roots:
    """Roots with a copy of that models root, to be damaged at will."""
    shutil.copytree(written, roots.models)
    return roots


def sections(source: str = "org/model") -> dict[str, object]:
    return {"model": {"source": source, "size": 64}, "conv": CONV, "attention": {}}


def test_a_folder_gives_the_same_maps_as_the_modules_it_was_saved_from(
        own: Roots, manifest: WriteManifest, toy: tuple[object, object, Path]) -> None:
    result = extract(Workspace(manifest(**sections()), own, "cpu"))
    found, built_in = FeatureStore.open(result.store), FeatureStore.open(toy[2])
    for combo in CONV:
        for name in found[combo]:
            np.testing.assert_allclose(found[combo][name][:].astype(np.float32),
                                       built_in[combo][name][:], rtol=2e-3, atol=2e-3)


def test_moving_the_models_recomputes_nothing(own: Roots, manifest: WriteManifest,
                                              tmp_path: Path) -> None:
    extract(Workspace(manifest(**sections()), own, "cpu"))
    moved = Roots(own.data, tmp_path / "elsewhere", own.stores, own.runs)
    shutil.move(own.models, moved.models)
    assert not any(extract(Workspace(manifest(**sections()), moved, "cpu")).rows.values())


def test_other_weights_are_another_combo(own: Roots, manifest: WriteManifest) -> None:
    extract(Workspace(manifest(**sections()), own, "cpu"))
    file = own.models / "org/model/unet/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_out.bias"] = state["conv_out.bias"] + 1
    save_file(state, file)
    rows = extract(Workspace(manifest(**sections()), own, "cpu")).rows
    assert rows == {"latents": 0, "plain": 7, "control": 7}


@pytest.mark.long
def test_bfloat16_is_another_combo_and_close(own: Roots, manifest: WriteManifest) -> None:
    first = extract(Workspace(manifest(**sections()), own, "cpu")).store
    model = {"source": "org/model", "size": 64, "dtype": "bfloat16"}
    loaded = manifest(**{**sections(), "model": model, "store": {"path": "bf16.zarr", "block": 3,
                                                                "batch": 2}})
    second = extract(Workspace(loaded, own, "cpu")).store
    a = FeatureStore.open(first)["plain"]["up2"][:].astype(np.float32)
    b = FeatureStore.open(second)["plain"]["up2"][:].astype(np.float32)
    assert 0 < np.abs(a - b).mean() < 0.05 * np.abs(a).mean() + 0.02


@pytest.mark.parametrize(("damage", "message"), [
    ("no weights", "no weights; put"),
    ("pickled", "only pickled weights"),
    ("missing weight", "1 weight of UNet2DConditionModel not in the file"),
    ("truncated", "cut off within its header; fetch it again"),
    ("no config", "config.json: cannot be read"),
    ("another unet", "not the UNet of a Stable Diffusion"),
    ("no component", "no 'scheduler' in it"),
])
def test_a_damaged_model_is_refused(own: Roots, manifest: WriteManifest, damage: str,
                                    message: str) -> None:
    folder = own.models / "org/model/unet"
    file = folder / "diffusion_pytorch_model.safetensors"
    if damage in ("no weights", "pickled"):
        file.rename(folder / ("w.bin" if damage == "pickled" else "w.txt"))
    elif damage == "missing weight":
        save_file({k: v for k, v in load_file(file).items() if k != "conv_out.bias"}, file)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "no component":
        shutil.rmtree(own.models / "org/model/scheduler")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(
            {**config, "addition_embed_type": "image"}))
    with pytest.raises(ModelError, match=message) as caught:
        extract(Workspace(manifest(**sections()), own, "cpu"))
    assert "\n" not in str(caught.value)


def test_a_controlnet_of_another_model_is_refused(own: Roots, manifest: WriteManifest) -> None:
    config = {**tiny_config("controlnet"), "cross_attention_dim": 32}
    net = ControlNetModel.from_config(config)
    net.save_pretrained(own.models / "nets" / "canny")
    with pytest.raises(ModelError, match="this ControlNet is for another model"):
        extract(Workspace(manifest(**sections()), own, "cpu"))


@pytest.mark.parametrize("source", ["no/such-model", "sd15", "../outside", "/abs/path"])
def test_a_model_that_is_nowhere_is_named(roots: Roots, manifest: WriteManifest,
                                          source: str) -> None:
    alone = {**sections(source), "conv": {"plain": PROMPT}}
    with pytest.raises(ModelError, match=re.escape(source)) as caught:
        extract(Workspace(manifest(**alone), roots, "cpu"))
    assert "\n" not in str(caught.value)


def test_model_and_controlnet_that_are_nowhere_are_named_together(
        roots: Roots, manifest: WriteManifest) -> None:
    with pytest.raises(ModelError) as caught:
        extract(Workspace(manifest(**sections("sd15")), roots, "cpu"))
    assert [line.split("'")[1] if "'sd15'" in line else line.split(":")[0]
            for line in str(caught.value).splitlines()] == ["sd15", "nets/canny"]


def test_a_plan_without_the_model_assumes_stable_diffusion(roots: Roots,
                                                           manifest: WriteManifest) -> None:
    said = plan(Workspace(manifest(model={"source": "org/sd-1-5"}, conv={"plain": PROMPT}), roots))
    shapes = next(line.shapes for line in said.lines if line.name == "plain")
    assert shapes == {"up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64),
                      "up3": (320, 64, 64)}
    assert any("counted as Stable Diffusion 1.5" in note for note in said.notes)


@pytest.mark.slow
def test_the_real_architecture_at_512_pixels(roots: Roots, manifest: WriteManifest) -> None:
    """SD 1.5's published UNet and VAE with random weights: 5 GB of memory, minutes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = read_tokens(HOME / "tokenizer")
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4),
        unet=UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
        text_encoder=CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokens.vocab), hidden_size=768, intermediate_size=3072,
            num_hidden_layers=12, num_attention_heads=12, projection_dim=768)),
        tokenizer=CLIPTokenizer(vocab=tokens.vocab, merges=tokens.merges, model_max_length=77),
        scheduler=DDIMScheduler.from_config(tiny_config("scheduler")), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipe.to(torch.bfloat16).save_pretrained(roots.models / "sd15")
    del pipe
    loaded = manifest(
        dataset={"name": "toyworld", "train": 1, "val": 0, "test": 1, "image_size": 512},
        model={"source": "sd15", "dtype": "bfloat16"}, conv={"plain": PROMPT},
        attention={"attn": {"prompt": "a photo"}}, store={"batch": 1})
    result = extract(Workspace(loaded, roots, "cpu"))
    store = FeatureStore.open(result.store)
    assert [store["plain"][n].shape[1:] for n in store["plain"]] == [
        (1280, 16, 16), (1280, 32, 32), (640, 64, 64), (320, 64, 64)]
    assert [store["attn"][n].shape[1:] for n in store["attn"]] == [
        (77, 16, 16), (77, 32, 32), (77, 64, 64)]
    assert store.block == 16
    assert np.isfinite(store["plain"]["up3"][0].astype(np.float32)).all()
