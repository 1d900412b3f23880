"""Parts of a model: what their configurations and headers say is honoured or refused, early."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import WriteManifest
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file
from small_models import WRITERS, small_unet, write_controlnet
from transformers import CLIPTextModel, CLIPTokenizer

from gate_cache.core.errors import ModelError, UserError
from gate_cache.core.headers import read_header
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.core.weights import variant_of
from gate_cache.diffusion.models import fields
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.fitting import check_parts
from gate_cache.diffusion.models.layouts import schedule_of
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.models.unets import cross_attentions
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.validate import validate
from gate_cache.workspace.workspace import Workspace

CPU = torch.device("cpu")
DATA = {"name": "toyworld", "train": 2, "val": 0, "test": 0}
HORSE = {"prompt": "a horse"}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
           "text_encoder": "model"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("sd1", "sd2", "sdxl"):
        WRITERS[name](root / name)
    write_controlnet(root / "net", root / "sd1")
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Roots:
    """Roots whose models may be changed; weights are links, which `rewrite` replaces."""
    roots = Roots(*(tmp_path / n for n in ("data", "models", "stores", "runs")))
    shutil.copytree(written, roots.models, copy_function=lambda source, path: (
        os.symlink if source.endswith(".safetensors") else shutil.copy)(source, path))
    return roots


def rewrite(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.unlink()
    save_file(state, path, metadata={"format": "pt"})


def change(folder: Path, **more: Any) -> None:
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **more}))


def files(home: Roots, name: str = "sd1") -> ModelFiles:
    return ModelFiles(name, home.models / name)


def sections(name: str = "sd1", **conv: Any) -> dict[str, Any]:
    return {"dataset": DATA, "model": {"source": name, "size": 64}, "attention": {},
            "conv": conv or {"a": HORSE}, "store": {"dtype": "float32", "batch": 2}}


def refused(home: Roots, manifest: WriteManifest, **given: Any) -> str:
    """What validate, plan and extract alike refuse a manifest with."""
    said = []
    for run in (validate, plan, extract):
        with pytest.raises(UserError) as caught:
            run(Workspace(manifest(**given), home, "cpu"))
        said.append(str(caught.value))
    assert len(set(said)) == 1 and "\n" not in said[0]
    return said[0]


def test_one_lora_by_two_names_is_refused(home: Roots, manifest: WriteManifest) -> None:
    for name in ("a", "b"):
        shutil.copy(HOME / "loras/moderate.safetensors", home.models / f"{name}.safetensors")
    both = [{"source": f"{name}.safetensors"} for name in ("a", "b")]
    given = {**sections("tiny", c={**HORSE, "lora": both}), "model": {"source": "tiny"}}
    assert refused(home, manifest, **given).endswith(
        "c.lora: two of its LoRAs have the same weights; give one, with one scale")


def test_a_store_outside_its_root_is_refused(home: Roots, manifest: WriteManifest) -> None:
    given = {**sections(), "store": {"path": "../a.zarr"}}
    assert "store.path: '../a.zarr' climbs out" in refused(home, manifest, **given)


# ------------------------------------------------------------------------------- configurations


@pytest.mark.parametrize(("known", "cls"), [
    (fields.UNET, UNet2DConditionModel), (fields.DDPM, UNet2DModel),
    (fields.CONTROLNET, ControlNetModel),
    *((known, getattr(diffusers, name)) for name, known in fields.AUTOENCODERS.items()),
    *((known, getattr(diffusers, known.name)) for known in fields.CONTROLNETS.values()),
    *((known, getattr(diffusers, name)) for name, known in fields.TRANSFORMERS.items())])
def test_the_tables_have_every_field_of_the_classes(known: fields.Fields, cls: Any) -> None:
    taken = set(inspect.signature(cls.__init__).parameters) - {"self"}
    assert known.name == cls.__name__ and known.built | known.only.keys() == taken
    for name, (allowed, _) in known.only.items():
        default = inspect.signature(cls.__init__).parameters[name].default
        assert fields.one_of([*default] if isinstance(default, tuple) else default) in allowed


@pytest.mark.parametrize(("part", "more", "says"), [
    ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim: 256 asks for the guidance scale"),
    ("unet", {"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type: image_proj asks for"),
    ("unet", {"attention_type": "gated"}, r"asks for boxes or other places \(GLIGEN\)"),
    ("unet", {"only_cross_attention": [True, True, True, False]}, "only_cross_attention: "),
    ("unet", {"up_block_types": ["SimpleCrossAttnUpBlock2D"] * 4}, "SimpleCrossAttnUpBlock2D is"),
    ("unet", {"new_field": 3}, "UNet2DConditionModel has no 'new_field'"),
    ("vae", {"_class_name": "AutoencoderTiny"}, "its class is AutoencoderTiny; only Autoencoder"),
    ("vae", {"in_channels": 6}, "in_channels: 6 asks for images that are not RGB"),
    ("vae", {"latents_mean": [0.1] * 4}, "latents_mean and latents_std should both have 4"),
    ("vae", {"latents_mean": [0.1] * 3, "latents_std": [1.0] * 3}, "should both have 4 numbers"),
    ("vae", {"latents_mean": [0.1] * 4, "latents_std": [1.0, 0.0, 1.0, 1.0]}, "all above 0"),
    ("vae", {"latents_mean": ["a"] * 4, "latents_std": [1.0] * 4}, "should both have 4 numbers"),
    ("vae", {"scaling_factor": None}, "scaling_factor: None is not a number"),
    ("vae", {"scaling_factor": "0.18215"}, "scaling_factor: '0.18215' is not a number"),
    ("vae", {"scaling_factor": 0}, "scaling_factor: 0 is not a number that latents"),
    ("vae", {"latent_channels": "4"}, "latent_channels: '4' is not a number"),
    ("unet", {"block_out_channels": None}, "block_out_channels: None is not a list of numbers"),
    ("unet", {"block_out_channels": [32, 64]}, "down_block_types: .* has another length than"),
    ("unet", {"layers_per_block": "1"}, "layers_per_block: '1' is not a number, nor a list"),
    ("unet", {"mid_block_type": None}, "weights have 1 mid_block, its configuration says 0"),
    ("text_encoder", {"num_hidden_layers": 2}, "weights have 3 layers, its configuration says 2"),
    ("text_encoder", {"hidden_size": "32"}, "hidden_size: '32' is not a number"),
    ("scheduler", {"num_train_timesteps": "500"}, "num_train_timesteps: '500', not a number of"),
    ("scheduler", {"beta_end": "x"}, "its scheduler has beta_end: 'x', not of 0 … 1"),
    ("scheduler", {"trained_betas": [0.1, "x"]}, "its scheduler has trained_betas: "),
    ("text_encoder", {"architectures": ["T5EncoderModel"], "model_type": "t5"},
     "a T5EncoderModel as text encoder, which is not read"),
    ("text_encoder", {"use_attention_mask": True}, "use_attention_mask asks for masks"),
    ("text_encoder", {"max_position_embeddings": 248}, "max_position_embeddings: 248"),
    ("text_encoder", {"hidden_size": 48}, r"cross_attention_dim: 32, but .* gives 48"),
    ("scheduler", {"beta_schedule": "sigmoid"}, r"a schedule that is not read \(sigmoid\)"),
    ("scheduler", {"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
    ("scheduler", {"use_flow_sigmas": True}, "its scheduler has use_flow_sigmas: True"),
    ("scheduler", {"timestep_type": "continuous"}, "its scheduler has timestep_type: continuous")])
def test_a_field_that_is_not_honoured_is_refused(home: Roots, part: str, more: dict[str, Any],
                                                 says: str) -> None:
    change(home.models / "sd1" / part, **more)
    with pytest.raises(ModelError, match=says) as caught:
        check_parts(files(home))
    assert str(home.models / "sd1") in str(caught.value) or "sd1: " in str(caught.value)


@pytest.mark.parametrize(("part", "more"), [
    ("unet", {"time_cond_proj_dim": None, "new_field": None, "other": False}),
    ("unet", {"decay": 0.9999, "optimization_step": 7, "only_cross_attention": [False] * 4}),
    ("vae", {"latents_mean": None, "latents_std": None, "force_upcast": False})])
def test_a_field_that_asks_for_nothing_is_let_be(home: Roots, part: str,
                                                 more: dict[str, Any]) -> None:
    change(home.models / "sd1" / part, **more)
    check_parts(files(home))


def test_xl_needs_its_own_second_text_encoder(home: Roots) -> None:
    check_parts(files(home, "sdxl"))
    change(home.models / "sdxl/text_encoder_2", projection_dim=32)
    with pytest.raises(ModelError, match="projection_class_embeddings_input_dim: 72, but text_enc"):
        check_parts(files(home, "sdxl"))


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_a_schedule_of_published_fields_is_kept(home: Roots, name: str) -> None:
    config = files(home, name).config("scheduler")
    assert files(home, name).schedule() == schedule_of("", config)


def test_latents_are_shifted_and_scaled_as_the_autoencoder_says(home: Roots) -> None:
    mean, std, shift = [-1.6, 1.1, 3.3, -1.0], [8.4, 5.8, 5.3, 4.4], 0.25
    plain = load(files(home), CPU, torch.float32)
    change(home.models / "sd1/vae", latents_mean=mean, latents_std=std)
    own = load(files(home), CPU, torch.float32)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        z = plain.vae.encode(plain.scaled(pixels)).latent_dist.mode()
        found = own.encode(pixels)
        expected = torch.stack([(z[:, c] - mean[c]) * plain.vae.config.scaling_factor / std[c]
                                for c in range(4)], 1)
        torch.testing.assert_close(found, expected)
        assert (own.decode(found).int() - plain.decode(plain.encode(pixels)).int()).abs().max() <= 1
    change(home.models / "sd1/vae", latents_mean=None, latents_std=None, shift_factor=shift)
    with torch.inference_mode():
        found = load(files(home), CPU, torch.float32).encode(pixels)
        torch.testing.assert_close(found, (z - shift) * plain.vae.config.scaling_factor)


def test_statistics_of_latents_are_in_the_fingerprint(home: Roots,
                                                      manifest: WriteManifest) -> None:
    from gate_cache.diffusion.passes.recipes import latents_recipe

    before = latents_recipe(files(home), Preprocessing(Size.of(64)), "float32")
    change(home.models / "sd1/vae", latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    after = latents_recipe(files(home), Preprocessing(Size.of(64)), "float32")
    assert after.keys() - before.keys() == {"latents_mean", "latents_std"}


# ----------------------------------------------------------------------------- nothing unread


@pytest.mark.parametrize(("part", "name", "early"), [
    ("unet", "extra_module.weight", True),
    ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", True),
    ("unet", "down_blocks.0.resnets.9.conv1.weight", False),
    ("vae", "encoder.down_blocks.0.resnets.0.gate.weight", False),
    ("vae", "reward_head.weight", True),
    ("text_encoder", "text_model.encoder.layers.2.mlp.fc3.weight", False)])
def test_a_tensor_that_nobody_takes_is_refused(home: Roots, part: str, name: str,
                                               early: bool) -> None:
    path = home.models / "sd1" / part / f"{WEIGHTS[part]}.safetensors"
    rewrite(path, {**load_file(path), name: torch.ones(2)})
    with pytest.raises(ModelError) as caught:
        (check_parts if early else lambda f: load(f, CPU, torch.float32))(files(home))
    said = str(caught.value)
    assert name.removeprefix("text_model.") in said and str(path.parent) in said


def test_known_harmless_tensors_are_let_be(home: Roots) -> None:
    path = home.models / "sd1/text_encoder/model.safetensors"
    more = {"text_model.embeddings.position_ids": torch.arange(77)[None],
            "text_projection.weight": torch.ones(4, 32), "logit_scale": torch.ones(())}
    rewrite(path, {**load_file(path), **more})
    load(files(home), CPU, torch.float32)


def test_a_weight_that_the_file_lacks_is_refused(home: Roots) -> None:
    path = home.models / "sd1/vae/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    rewrite(path, {k: v for k, v in state.items() if "quant_conv" not in k})
    with pytest.raises(ModelError, match=r"vae: 4 weights of AutoencoderKL .*: post_quant_conv.b"):
        load(files(home), CPU, torch.float32)


@pytest.mark.parametrize(("part", "more", "says"), [
    ("text_encoder", {"intermediate_size": 96}, r"fc1\.bias' is 64, not 96"),
    ("vae", {"layers_per_block": 2}, "weights of AutoencoderKL not in the file"),
    ("vae", {"block_out_channels": [8, 8, 16]}, r"weights are not of the shapes .*' is 16, not 8"),
    ("unet", {"block_out_channels": [32, 64, 64, 128]}, "weights are not of the shapes that the")])
def test_weights_of_another_shape_are_named(home: Roots, part: str, more: dict[str, Any],
                                            says: str) -> None:
    change(home.models / "sd1" / part, **more)
    with pytest.raises(ModelError, match=says):
        load(files(home), CPU, torch.float32)


# ---------------------------------------------------------------------------------- the files


@pytest.mark.parametrize(("name", "variant"), [
    ("model.safetensors", ""), ("model-00001-of-00002.safetensors", ""),
    ("model.fp16.safetensors", "fp16"), ("model.fp16-00001-of-00002.safetensors", "fp16"),
    ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"), ("model.bin", None)])
def test_the_variant_is_in_a_files_name(name: str, variant: str | None) -> None:
    assert variant_of(name) == variant


def test_another_variant_is_named_with_the_field_that_asks_for_it(
        home: Roots, manifest: WriteManifest) -> None:
    for path in [*(home.models / "sd1").rglob("*.safetensors"),
                 home.models / "net/diffusion_pytorch_model.safetensors"]:
        path.rename(path.with_suffix(".fp16.safetensors"))
    said = refused(home, manifest, **sections())
    assert said.endswith("unet: only weights of variant fp16; set 'model.variant: fp16'")
    given = sections(a={**HORSE, "controlnet": {"source": "net"}})
    given["model"]["variant"] = "fp16"
    said = refused(home, manifest, **given)
    assert said.endswith("net: only weights of variant fp16; set 'a.controlnet.variant: fp16'")
    given["conv"]["a"]["controlnet"]["variant"] = "fp16"
    assert extract(Workspace(manifest(**given), home, "cpu")).rows["a"] == 2
    given["model"]["variant"] = "fp61"
    assert "only weights of variant fp16" in refused(home, manifest, **given)


@pytest.mark.parametrize("name", ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                                  "conv_in.bias"])
def test_weights_that_are_not_finite_are_refused(home: Roots, name: str) -> None:
    """Attention turns NaN among its keys into finite values on some devices: wrong, and silent."""
    path = home.models / "sd1/unet/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state[name].view(-1)[3] = float("nan")
    rewrite(path, state)
    with pytest.raises(ModelError, match=f"unet: '{name}' holds NaN or infinity; get the file"):
        load(files(home), CPU, torch.float32)


def test_quantised_weights_are_refused(home: Roots) -> None:
    path = home.models / "sd1/unet/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.weight"] = (state["conv_in.weight"] * 100).to(torch.int8)
    rewrite(path, state)
    with pytest.raises(ModelError, match=r"unet: 1 weights are whole numbers \(conv_in\.weight"):
        check_parts(files(home))


def test_a_variant_that_only_others_have_is_refused(home: Roots) -> None:
    with pytest.raises(ModelError, match="variant 'fp16', only some without a variant; leave"):
        ModelFiles("sd1", home.models / "sd1", "fp16").digest("unet")


def test_a_missing_shard_is_named(home: Roots) -> None:
    folder = home.models / "sd1/unet"
    unet = UNet2DConditionModel.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder, max_shard_size="10MB")
    check_parts(files(home))
    gone = sorted(folder.glob("*-00002-of-*"))[0]
    gone.rename(home.models / gone.name)
    with pytest.raises(ModelError, match=f"1 of its . weight files not there: {gone.name}"):
        check_parts(files(home))
    (home.models / gone.name).rename(gone)
    next(folder.glob("*.index.json")).unlink()
    with pytest.raises(ModelError, match=r"no index \(\*\.safetensors\.index\.json\) of its"):
        check_parts(files(home))


@pytest.mark.parametrize(("content", "says"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a git-lfs pointer"),
    (b"<!DOCTYPE html><html>Not found</html>", "not a safetensors file"), (b"", "not a safete"),
    (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":', "cut off within its header"),
    (b'\x17\x00\x00\x00\x00\x00\x00\x00{"__metadata__":"words"}', "not a safetensors file"),
    (b'\x00\x00\x01\x00\x00\x00\x00\x00{"a":' + b"[" * 65531, "not a safetensors file")])
def test_what_is_no_weights_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_header(tmp_path / "w.safetensors")


def test_a_header_is_read_and_a_cut_file_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(())}, path, metadata={"k": "v"})
    found = read_header(path)
    assert found.shapes == {"a": (2, 3), "b": ()} and found.metadata == {"k": "v"}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"cut off: .* bytes; fetch it again"):
        read_header(path)


# ------------------------------------------------------------------------------- added tokens


@pytest.fixture
def taught(home: Roots) -> Roots:
    """sd1 with two learnt words, as transformers saves them."""
    folder = home.models / "sd1"
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokens.add_tokens(["<my-cat>", "sks1"])
    encoder.resize_token_embeddings(len(tokens))
    (folder / "text_encoder/model.safetensors").unlink()
    tokens.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    return home


def test_learnt_words_have_their_own_embeddings(taught: Roots) -> None:
    folder, text = taught.models / "sd1", "a photo of <my-cat> and sks1"
    ids = CLIPTokenizer.from_pretrained(folder / "tokenizer")(
        text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = CLIPTextModel.from_pretrained(folder / "text_encoder")(ids)[0]
        found = load(files(taught), CPU, torch.float32).embed(text).states
    assert files(taught).tokens.encode(text).ids == (tuple(ids[0].tolist()),)
    torch.testing.assert_close(found, expected)


def test_learnt_words_decide_the_digest(home: Roots, taught: Roots) -> None:
    before = files(taught).weights["tokenizer"]
    path = taught.models / "sd1/tokenizer/tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"][-1]["rstrip"] = True
    path.write_text(json.dumps(data))
    assert files(taught).weights["tokenizer"] != before


def test_more_ids_than_rows_are_refused(taught: Roots, written: Path,
                                        manifest: WriteManifest) -> None:
    shutil.rmtree(taught.models / "sd1/text_encoder")
    shutil.copytree(written / "sd1/text_encoder", taught.models / "sd1/text_encoder")
    said = refused(taught, manifest, **sections())
    assert "vocab_size: 1002, but its tokenizer has ids up to 1003 (<my-cat>, sks1)" in said


# -------------------------------------------------------------------- schedules, no mid block


@pytest.mark.parametrize("combo", [{"t": 261}, {"denoise": {"from": 120}}])
def test_t_beyond_the_schedule_is_refused(home: Roots, manifest: WriteManifest,
                                          combo: dict[str, Any]) -> None:
    change(home.models / "sd1/scheduler", num_train_timesteps=100)
    said = refused(home, manifest, **sections(a={**HORSE, **combo}))
    assert said.endswith("is beyond the model's schedule, whose last timestep is 99")


def test_v_and_x0_need_no_division_at_the_end_of_a_zero_snr_schedule(
        home: Roots, manifest: WriteManifest) -> None:
    change(home.models / "sd2/scheduler", rescale_betas_zero_snr=True)
    model = load(files(home, "sd2"), CPU, torch.float32)
    assert model.alphas_cumprod[999] == 0
    x, v = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.equal(model.as_epsilon(v, x, 999), x)
    assert torch.equal(model.as_clean(v, x, 999), -v)
    a = float(model.alphas_cumprod[500])
    torch.testing.assert_close(model.as_clean(v, x, 500), a**0.5 * x - (1 - a) ** 0.5 * v)
    model.prediction_type = "sample"
    assert torch.equal(model.as_clean(v, x, 999), v) and torch.equal(
        model.as_epsilon(v, x, 999), x)
    steps = {**HORSE, "denoise": {"from": 999, "steps": 3}}
    loaded = manifest(**sections("sd2", a=steps))
    extract(Workspace(loaded, home, "cpu"))  # refuses what is not finite


def test_noise_cannot_be_predicted_from_noise_alone(home: Roots, manifest: WriteManifest) -> None:
    change(home.models / "sd1/scheduler", rescale_betas_zero_snr=True)
    said = refused(home, manifest, **sections(a={**HORSE, "denoise": {"from": 999}}))
    assert "at 999 this schedule (zero terminal SNR) leaves nothing of the image" in said


def test_a_unet_without_a_mid_block(home: Roots, manifest: WriteManifest) -> None:
    """As distilled ones are, with a ControlNet that shares its down half, against diffusers."""
    from gate_cache import FeatureStore

    folder = home.models / "sd1/unet"
    torch.manual_seed(0)
    shutil.rmtree(folder)
    UNet2DConditionModel.from_config(
        {**small_unet("sd-1.5"), "mid_block_type": None}).save_pretrained(folder)
    net = {**HORSE, "controlnet": {"source": "net"}}
    given = {**sections(plain=HORSE, control=net), "attention": {"attn": HORSE}}
    both = FeatureStore.open(extract(Workspace(manifest(**given), home, "cpu")).store)
    given = sections(control=net)
    given["store"]["path"] = "alone.zarr"
    alone = FeatureStore.open(extract(Workspace(manifest(**given), home, "cpu")).store)
    assert all((both["control"][m][:] == alone["control"][m][:]).all() for m in alone["control"])
    assert (both["control"]["up3"][:] != both["plain"]["up3"][:]).any()
    assert abs(both["attn"]["attn1"][:].sum(1) - 1).max() < 1e-4
    model = load(files(home), CPU, torch.float32)
    text, x = model.embed("a horse"), torch.randn(1, 4, 16, 16)
    with torch.inference_mode():
        expected = UNet2DConditionModel.from_pretrained(folder)(x, 50, text.states).sample
        assert torch.equal(model.predict(x, 50, text), expected)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_cross_attention_layers_are_those_of_the_unet(home: Roots, name: str) -> None:
    unet = UNet2DConditionModel.from_pretrained(home.models / name / "unet")
    found = [unet.get_submodule(n.removesuffix(".processor")).to_q.out_features
             for n in unet.attn_processors if n.endswith("attn2.processor")]
    assert cross_attentions(files(home, name).config("unet")) == found
