"""``gate-cache layers``: what it says is what a plan says, for models that are here and not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate_cache.cli import app
from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.extraction.layers import ModelMaps, layers
from gate_cache.manifest.specs import ModelSpec


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def of(model: str, roots: Roots, size: int | None = None) -> ModelMaps:
    return layers(ModelSpec(source=model), roots, size)


def shapes(found: ModelMaps) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.shape for layer in found.layers}


def test_tiny_has_the_maps_of_its_family_and_its_digests(roots: Roots) -> None:
    found, files = of("tiny", roots, 128), ModelFiles("tiny", HOME)
    assert shapes(found) == {m.name: m.shape(128, 77) for m in files.family.maps}
    assert found.digests == files.weights and found.notes == []
    assert (found.latent, found.default_size, found.predicts) == ((4, 32, 32), 64, "epsilon")


@pytest.mark.parametrize(("model", "predicts", "latent", "finest"), [
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "epsilon", (4, 64, 64), (320, 64, 64)),
    ("stabilityai/stable-diffusion-2-1", "v_prediction", (4, 96, 96), (320, 96, 96)),
    ("stabilityai/stable-diffusion-xl-base-1.0", "epsilon", (4, 128, 128), (320, 128, 128))])
def test_well_known_models_need_not_be_here(roots: Roots, model: str, predicts: str,
                                            latent: tuple[int, ...],
                                            finest: tuple[int, ...]) -> None:
    found = of(model, roots)
    assert (found.predicts, found.latent, found.digests) == (predicts, latent, {})
    assert finest in shapes(found).values()
    assert "is not on this machine: this is from the published configurations" in found.notes[0]


def test_a_model_that_is_here_is_preferred_to_the_published_one(roots: Roots) -> None:
    name = "stabilityai/stable-diffusion-2-1"
    shutil.copytree(HOME, roots.models / name)
    assert of(name, roots).default_size == 64


def test_configurations_alone_are_enough(roots: Roots) -> None:
    shutil.copytree(HOME, roots.models / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    found = of("m", roots)
    assert shapes(found) == shapes(of("tiny", roots)) and found.digests == {}
    assert found.notes[0].startswith("no digests: ") and "no weights" in found.notes[0]


@pytest.mark.parametrize(("model", "size", "says"), [
    ("nobody/nothing", None, "not on this machine, and not a model whose configurations are built"),
    ("tiny", 100, "--size: 100 is not a multiple of 32"), ("tyni", None, "did you mean 'tiny'")])
def test_what_cannot_be_described(roots: Roots, model: str, size: int | None, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        of(model, roots, size)
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_table_and_json() -> None:
    run = CliRunner()
    table = run.invoke(app, ["layers", "tiny", "--size", "128"]).stdout
    lines = table.splitlines()
    assert "up3" in table and "32×32×32" in next(line for line in lines if "up3" in line)
    assert any(line.startswith("unet") and "sha256" in line for line in lines)
    found = json.loads(run.invoke(app, ["layers", "tiny", "--json"]).stdout)
    assert found["digests"]["unet"] in table and found["size_multiple"] == 32


def test_a_folder_that_is_typed_need_not_be_below_the_models_root(tmp_path: Path) -> None:
    shutil.copytree(HOME, tmp_path / "own", ignore=shutil.ignore_patterns("*.safetensors"))
    found = CliRunner().invoke(app, ["layers", str(tmp_path / "own"), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["size_multiple"] == 32
