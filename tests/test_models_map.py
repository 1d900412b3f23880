"""Several models in a manifest: each combo is of one of them, in one store."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import WriteManifest
from small_models import write_ddpm

from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.extraction.passes import chosen_combos, with_combos
from gate_cache.extraction.plan import plan
from gate_cache.extraction.prune import prune
from gate_cache.extraction.recompute import recompute
from gate_cache.extraction.status import status
from gate_cache.extraction.validate import validate
from gate_cache.manifest.load import load
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

SMALL = {"source": "small", "size": 32, "resample": "lanczos"}
MODELS = {"sd": {"source": "tiny", "size": 64}, "pixels": SMALL}
COMBOS = {"a": {"prompt": "a photo", "maps": ["up1"]}, "b": {"model": "pixels", "maps": ["up1"]}}
SECTIONS = {"model": None, "models": MODELS, "conv": COMBOS, "attention": {}, "train": {},
            "store": {},
            "dataset": {"name": "toyworld", "train": 2, "val": 1, "test": 1}}


def write(path: Path, **sections: Any) -> Path:
    kept = {k: v for k, v in {**SECTIONS, **sections}.items() if v is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def home(roots: Roots) -> Roots:
    write_ddpm(roots.models / "small")
    return roots


@pytest.fixture
def both(home: Roots, tmp_path: Path) -> Workspace:
    return Workspace(load(write(tmp_path / "both.yaml")), home, "cpu")


def test_a_store_holds_what_manifests_of_one_model_each_would(
        both: Workspace, home: Roots, manifest: WriteManifest) -> None:
    done = extract(both)
    assert done.rows == {"latents": 8, "a": 4, "b": 4}
    store = FeatureStore.open(done.store)
    assert [store[n].attrs["model"] for n in "ab"] == ["tiny", "small"]
    assert [store[n].frame.size for n in "ab"] == [(64, 64), (32, 32)]
    for name, model in (("a", MODELS["sd"]), ("b", SMALL)):
        combo = {k: v for k, v in COMBOS[name].items() if k != "model"}
        alone = Workspace(manifest(f"{name}.yaml", **{
            **SECTIONS, "models": {}, "model": model, "conv": {name: combo}}), home, "cpu")
        other = FeatureStore.open(extract(alone).store)
        assert other[name].fingerprint == store[name].fingerprint
        np.testing.assert_array_equal(other[name]["up1"][:], store[name]["up1"][:])
    (pruned,) = prune([both.loaded.path], home)
    assert not pruned.groups and len(pruned.kept) == 4
    assert extract(both).rows == {"latents": 0, "a": 0, "b": 0}
    again = recompute(both, 2)
    assert again.equal and [c.name for c in again.combos] == ["latents", "a", "latents", "b"]


def test_plan_status_and_validate_tell_models_apart(both: Workspace, home: Roots) -> None:
    planned = plan(both)
    assert planned.model == "tiny + small" and planned.sizes == {"sd": 64, "pixels": 32}
    shapes = {line.name: line.shapes for line in planned.lines}
    assert shapes["latents sd"] != shapes["latents pixels"] == {"x0": (3, 32, 32)}
    assert planned.pieces.encoded == 2 and planned.unet_passes == 8
    assert validate(both).absent == []
    state = status(both)
    assert [c.state for c in state.combos] == ["missing"] * 2
    extract(both)
    shutil.rmtree(home.models / "small")
    state = status(both)
    assert [c.state for c in state.combos] == ["done"] * 2
    assert any("weights of pixels are not all on this machine" in n for n in state.notes)
    assert not any("weights of sd" in n for n in state.notes)


def test_messages_name_the_model_as_the_manifest_does(both: Workspace, home: Roots) -> None:
    models = {n: m.model_copy(update={"sources": ["../gone"]}) if n == "pixels" else m
              for n, m in both.manifest.models.items()}
    wrong = both.with_manifest(models=models)
    with pytest.raises(UserError, match=r"^models\.pixels\.source: "):
        plan(wrong)


def test_what_reads_one_model_says_which_combos_are_of_which(both: Workspace) -> None:
    with pytest.raises(UserError, match=r"are of 2 models \(sd, pixels\); this reads one"):
        with_combos(both, chosen_combos(both, []))
    one = with_combos(both, chosen_combos(both, ["b"]))
    assert one.manifest.model.source == "small"
    with pytest.raises(ManifestError, match=r"reads one model, and the manifest has 2 \(sd, pix"):
        _ = both.manifest.model


@pytest.mark.parametrize(("sections", "says"), [
    ({"conv": {**COMBOS, "c": {"model": "pixel", "t": 1}}},
     "conv.c.model: 'pixel' is not a model of this manifest (did you mean 'pixels'?)"),
    ({"conv": {**COMBOS, "c": {"model": ["pixels"]}}}, "conv.c.model: expected text, got a list"),
    ({"conv": {**COMBOS, "c": {**COMBOS["a"], "model": "sd"}}}, "conv.c: has the same settings as"),
    ({"conv": {"a": COMBOS["a"]}}, "models.pixels: no combo is of this model; leave it out, or"),
    ({"model": SMALL}, "model: give 'models' or 'model', not both"),
    ({"models": None}, "model: required, but not given; 'models' names several"),
    ({"models": {**MODELS, "Sd": SMALL}}, "models.Sd: a model's name is lower-case letters"),
    ({"models": {**MODELS, "pixels": {"sorce": "small"}}},
     "models.pixels.sorce: unknown field (did you mean 'source'?)"),
    ({"models": {**MODELS, "sd": {"source": "tiny", "config": "x"}}},
     "models.sd.config: is for a single .safetensors file"),
])
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, sections: dict[str, Any],
                                         says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path / "m.yaml", **sections))
    assert any(says in line for line in caught.value.problems), caught.value.problems
