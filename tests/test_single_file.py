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
from gate_cache.diffusion.backbone import load
from gate_cache.diffusion.published import published
from gate_cache.diffusion.sources import ModelFiles, locate
from gate_cache.errors import ModelError
from gate_cache.roots import Roots
from gate_cache.specs import ModelSpec
from gate_cache.stages.extract import extract
from gate_cache.stages.layers import layers

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
    stores = [FeatureStore.open(extract(manifest(f"{i}.yaml", model=model, **sections), home,
                                        device="cpu").store)
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
    with pytest.raises(ModelError, match="1 weights of UNet2DConditionModel are not in the file"):
        load(found("sd1", home), torch.device("cpu"), torch.float32)
