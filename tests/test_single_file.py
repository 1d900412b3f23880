"""A single .safetensors file in the original layout against the folder it was written from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WriteManifest
from original_layout import write_single_file
from safetensors.torch import load_file, save_file
from small_models import WRITERS

from gate_cache import FeatureStore
from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.models.fitting import check_parts
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.published import published
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.extraction.extract import extract
from gate_cache.extraction.layers import layers
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

KINDS = ("sd1", "sd2", "sdxl")
CONFIGS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2",
           "scheduler")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root with folders, single files of the same weights, and their configurations."""
    root = tmp_path_factory.mktemp("models")
    for name in KINDS:
        WRITERS[name](root / name)
        files = ModelFiles(name, root / name)
        write_single_file(root / f"{name}.safetensors", root / name,
                          {part: files.config(part) for part in ("unet", "vae")})
        for part in CONFIGS:
            for path in (root / name / part).glob("*.json"):
                (root / f"{name}-config" / part).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, root / f"{name}-config" / part)
    return root


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Roots:
    shutil.copytree(written, tmp_path / "models")
    return Roots(*(tmp_path / n for n in ("data", "models", "stores", "runs")))


def spec(name: str) -> ModelSpec:
    return ModelSpec(source=f"{name}.safetensors", config=f"{name}-config", size=64)


def found(name: str, home: Roots) -> ModelFiles:
    files = locate(spec(name), home)
    assert files is not None
    return files


@pytest.mark.mostly_long("sd1")
@pytest.mark.parametrize("name", KINDS)
def test_every_weight_is_that_of_the_folder(name: str, home: Roots) -> None:
    one = load(found(name, home), torch.device("cpu"), torch.float32)
    folder = load(ModelFiles(name, home.models / name), torch.device("cpu"), torch.float32)
    for part in ("unet", "vae", *folder.text_encoders):
        a, b = getattr(one, part).state_dict(), getattr(folder, part).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        assert not getattr(one, part).training
    with torch.no_grad():
        assert torch.equal(one.embed("a horse").states, folder.embed("a horse").states)


def test_extract_yields_the_folders_maps(home: Roots, manifest: WriteManifest) -> None:
    sections: dict[str, Any] = {
        "dataset": {"name": "toyworld", "train": 2, "val": 0, "test": 0}, "attention": {},
        "conv": {"a": {"prompt": "a horse"}}}
    stores = [FeatureStore.open(extract(Workspace(
                  manifest(f"{i}.yaml", model=model, **sections), home, "cpu")).store)
              for i, model in enumerate((spec("sd1").model_dump(exclude_none=True, by_alias=True),
                                         {"source": "sd1", "size": 64}))]
    assert stores[0]["a"].attrs["model"] == "sd1.safetensors"
    assert stores[0]["a"].fingerprint != stores[1]["a"].fingerprint
    for name in stores[0]["a"].maps:
        assert (stores[0]["a"][name][:] == stores[1]["a"][name][:]).all()


def test_layers_describes_a_file(home: Roots) -> None:
    one, folder = layers(spec("sd2"), home), layers(ModelSpec(source="sd2"), home)
    assert (one.layers, one.predicts) == (folder.layers, "v_prediction")
    assert one.digests.keys() == folder.digests.keys() and one.digests != folder.digests
    assert (one.kind, folder.kind) == ("Stable Diffusion",) * 2


def test_averaged_weights_are_taken_where_the_file_has_them(home: Roots) -> None:
    path = home.models / "sd1.safetensors"
    state = load_file(path)
    averaged = {"model_ema." + k.removeprefix("model.").replace(".", ""): v + 1
                for k, v in state.items() if k.startswith("model.diffusion_model.")}
    save_file({**state, **averaged}, path)
    unet = load(found("sd1", home), torch.device("cpu"), torch.float32).unet
    folder = load_file(home.models / "sd1/unet/diffusion_pytorch_model.safetensors")
    assert torch.equal(unet.conv_in.weight, folder["conv_in.weight"] + 1)


def test_the_file_and_its_configuration_decide_the_digests(home: Roots) -> None:
    before = found("sd1", home).weights
    path = home.models / "sd1-config/unet/config.json"
    path.write_text(path.read_text().replace('"attention_head_dim": 4', '"attention_head_dim": 8'))
    after = found("sd1", home).weights
    assert [k for k in before if before[k] != after[k]] == ["unet"]
    state = load_file(home.models / "sd1.safetensors")
    save_file({**state, "more": torch.ones(1)}, home.models / "sd1.safetensors")
    again = found("sd1", home).weights
    assert [k for k in after if after[k] != again[k]] == ["unet", "vae", "text"]


@pytest.mark.parametrize(("name", "known"), [("sd1", "sd-1.5"), ("sdxl", "sdxl-base")])
def test_tokenizers_alone_are_enough_for_a_published_architecture(
        home: Roots, name: str, known: str) -> None:
    for part in CONFIGS:
        if not part.startswith("tokenizer"):
            shutil.rmtree(home.models / f"{name}-config" / part, ignore_errors=True)
    files = found(name, home)
    assert files.config("unet") == published(known)["unet"]
    assert files.schedule() == published(known)["scheduler"]
    with pytest.raises(ModelError, match="is 32×4×3×3, its configuration says 320×4"):
        load(files, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(("name", "remove", "says"), [
    ("sd1", "sd1-config/tokenizer", "put its vocab.json and merges.txt into .*/tokenizer$"),
    ("sdxl", "sdxl-config/tokenizer_2", "merges.txt into .*/tokenizer_2$"),
    ("sd2", "sd2-config/scheduler", "does not say what it predicts: put its scheduler_config")])
def test_what_a_single_file_lacks_is_named(home: Roots, name: str, remove: str,
                                           says: str) -> None:
    shutil.rmtree(home.models / remove)
    with pytest.raises(ModelError, match=says):
        found(name, home)


@pytest.mark.mostly_long("sd1*")
@pytest.mark.parametrize(("source", "config", "says"), [
    ("sd1.safetensors", None, "a single file has no tokenizer; put that into a folder"),
    ("gone.safetensors", "sd1-config", "no such file; put it there"),
    ("sd1.ckpt", "sd1-config", "pickled checkpoints are not read"),
    ("256x256_diffusion.pt", None, "pickled checkpoints are not read"),
    ("lora.safetensors", "sd1-config", "not a whole Stable Diffusion"),
    ("noise.safetensors", "sd1-config", "not a safetensors file")])
def test_other_files_are_refused(home: Roots, source: str, config: str | None, says: str) -> None:
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, home.models / "lora.safetensors")
    (home.models / "noise.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match=says) as caught:
        locate(ModelSpec(source=source, config=config), home)
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_a_weight_is_refused(home: Roots) -> None:
    path, key = home.models / "sd1.safetensors", "model.diffusion_model.out.2.bias"
    save_file({k: v for k, v in load_file(path).items() if k != key}, path)
    with pytest.raises(ModelError, match="1 weight of UNet2DConditionModel not in the file"):
        load(found("sd1", home), torch.device("cpu"), torch.float32)


# --------------------------------------------------------------------- what a file says of itself


def remade(home: Roots, name: str, more: dict[str, torch.Tensor],
           metadata: dict[str, str] | None = None) -> None:
    path = home.models / f"{name}.safetensors"
    save_file({**load_file(path), **more}, path, metadata=metadata)


V_PRED, ZTSNR = {"v_pred": torch.zeros(0)}, {"ztsnr": torch.zeros(0)}


@pytest.mark.mostly_long("more0-*", "more1-*")
@pytest.mark.parametrize(("more", "metadata", "predicts", "zero"), [
    ({}, None, "epsilon", False), (V_PRED, None, "v_prediction", False),
    ({**V_PRED, **ZTSNR}, None, "v_prediction", True), (ZTSNR, None, "epsilon", True),
    ({}, {"modelspec.prediction_type": "v"}, "v_prediction", False),
    (V_PRED, {"modelspec.prediction_type": "epsilon"}, "v_prediction", False)])
def test_markers_of_a_file_decide_the_schedule(
        home: Roots, more: dict[str, torch.Tensor], metadata: dict[str, str] | None, predicts: str,
        zero: bool) -> None:
    shutil.rmtree(home.models / "sdxl-config/scheduler")
    remade(home, "sdxl", more, metadata)
    model = load(found("sdxl", home), torch.device("cpu"), torch.float32)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = (1 - betas).cumprod(0).sqrt()
    if zero:  # Lin et al. 2024, algorithm 1
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert model.prediction_type == predicts
    torch.testing.assert_close(model.alphas_cumprod, root**2, rtol=1e-4, atol=1e-6)
    assert (model.alphas_cumprod[-1] == 0) == zero


def test_a_marker_and_a_configuration_that_disagree_are_refused(home: Roots) -> None:
    remade(home, "sd1", V_PRED)
    with pytest.raises(ModelError, match=r"the file itself says prediction_type: v_prediction .*"
                                         r"model\.config says epsilon"):
        found("sd1", home).schedule()
    path = home.models / "sd1-config/scheduler/scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    assert found("sd1", home).schedule()["prediction_type"] == "v_prediction"


def test_a_file_of_2_that_says_what_it_predicts_needs_no_scheduler(home: Roots) -> None:
    shutil.rmtree(home.models / "sd2-config/scheduler")
    for said, predicts in (("epsilon", "epsilon"), ("v", "v_prediction")):
        remade(home, "sd2", {}, {"modelspec.prediction_type": said})
        assert found("sd2", home).schedule()["prediction_type"] == predicts


@pytest.mark.mostly_long("sd1-*")
@pytest.mark.parametrize(("name", "key"), [
    ("sd1", "model.diffusion_model.input_blocks.1.0.gate.weight"),
    ("sd1", "model.diffusion_model.time_embed.7.weight"), ("sd1", "control_model.x.weight"),
    ("sd1", "first_stage_model.encoder.head.weight"), ("sdxl", "edm_vpred.sigma_max"),
    ("sd1", "cond_stage_model.transformer.text_model.encoder.layers.9.mlp.fc1.weight"),
    ("sd2", "cond_stage_model.model.transformer.resblocks.9.mlp.c_fc.weight"),
    ("sdxl", "conditioner.embedders.1.model.adapter.weight")])
def test_a_tensor_of_a_file_that_nobody_takes_is_refused(home: Roots, name: str, key: str) -> None:
    remade(home, name, {key: torch.ones(2)})
    with pytest.raises(ModelError, match=r"safetensors: 1 tensor (not read by|not part of) "):
        load(found(name, home), torch.device("cpu"), torch.float32)


def test_buffers_and_copies_that_files_carry_are_let_be(home: Roots) -> None:
    names = ("betas", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1", "model_ema.decay",
             "model_ema.num_updates", "first_stage_model.loss.discriminator.main.0.weight",
             "cond_stage_model.transformer.text_model.embeddings.position_ids",
             "cond_stage_model.transformer.text_projection.weight", "alphas_cumprod_prev")
    remade(home, "sd1", {name: torch.ones(3) for name in names})
    load(found("sd1", home), torch.device("cpu"), torch.float32)


def test_a_file_without_an_autoencoder_is_refused_early(home: Roots) -> None:
    path = home.models / "sd1.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "first_stage" not in k}, path)
    with pytest.raises(ModelError, match="no autoencoder in it"):
        check_parts(found("sd1", home))


def test_a_suffix_in_capitals_is_a_file_too(home: Roots, manifest: WriteManifest) -> None:
    (home.models / "sd1.safetensors").rename(home.models / "SD1.SAFETENSORS")
    loaded = manifest(model={"source": "SD1.SAFETENSORS", "config": "sd1-config"})
    assert locate(loaded.manifest.model, home) is not None
