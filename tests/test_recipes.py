"""Fingerprints change with all that decides values and nothing else; what is missing is named."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import tiny_config
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save_file

from gate_cache.core import digest_cache as memo
from gate_cache.core.digest_cache import remembered_sha256
from gate_cache.core.errors import ModelError
from gate_cache.core.fingerprint import differences, file_sha256, fingerprint
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.core.weights import shapes_in, weight_files
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.models.embedded import CONTROLNETS, HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import latents_recipe, missing_inputs, plan_combos
from gate_cache.manifest.load import load
from gate_cache.manifest.specs import ModelSpec
from gate_cache.text.tokens import read_tokens

BASE: dict[str, Any] = {
    "dataset": {"name": "toyworld"},
    "model": {"source": "tiny"},
    "conv": {"a": {
        "prompt": "a cat",
        "t": 50,
        "controlnet": {"source": "tiny"},
        "lora": {"source": "tiny/moderate"},
        "denoise": {"from": 60, "steps": 2},
    }},
}
A = ("conv", "a")


@pytest.fixture(autouse=True)
def memo_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Remembered digests go to the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(models=tmp_path / "models")


def changed(manifest: dict[str, Any], *at: str, to: Any) -> dict[str, Any]:
    """A copy with one field set, its section made where there is none."""
    found = copy.deepcopy(manifest)
    section = found
    for key in at[:-1]:
        section = section.setdefault(key, {})
    section[at[-1]] = to
    return found


def recipes(manifest: dict[str, Any], roots: Roots, name: str = "m") -> list[dict[str, Any]]:
    roots.models.mkdir(exist_ok=True)
    path = roots.models.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    loaded = load(path).manifest
    files = locate(loaded.model, roots)
    assert files
    return [p.recipe for p in plan_combos(loaded, files, roots)]


def fingerprints(manifest: dict[str, Any], roots: Roots, name: str = "m") -> list[str]:
    return [fingerprint(r) for r in recipes(manifest, roots, name)]


# ------------------------------------------------------------------------------ the manifest


@pytest.mark.parametrize("manifest", [
    changed(BASE, "conv", to={"renamed": BASE["conv"]["a"]}),
    changed(BASE, "dataset", "train", to=3),
    changed(BASE, "store", "dtype", to="float32"),
    changed(BASE, "store", "block", to=8),
    changed(BASE, "store", "batch", to=1),
    changed(BASE, "store", "path", to="elsewhere.zarr"),
    changed(BASE, "train", "seed", to=9),
    changed(BASE, "x-note", to="anything"),
    changed(BASE, "model", "size", to=64),
    changed(BASE, "model", "fit", to="squash"),
    changed(BASE, *A, "seed", to=0),
    changed(BASE, *A, "ensemble", to=1),
    changed(BASE, *A, "noise", to="gaussian"),
    changed(BASE, *A, "mirror", to=False),
    changed(BASE, "train", "attention_in", to="head"),
    changed(BASE, *A, "controlnet", "scale", to=1),
    changed(BASE, *A, "lora", to=[{"source": "tiny/moderate", "scale": 1.0}]),
    changed(BASE, *A, "maps", to=["up3", "up0", "up2", "up1"]),
])
def test_fingerprint_keeps_when_no_value_depends_on_it(
    manifest: dict[str, Any], roots: Roots,
) -> None:
    assert fingerprints(manifest, roots) == fingerprints(BASE, roots)


def test_fingerprint_keeps_when_the_manifest_is_renamed(roots: Roots) -> None:
    assert fingerprints(BASE, roots, "one") == fingerprints(BASE, roots, "two")


def test_fingerprint_keeps_when_combos_are_added_before_it(roots: Roots) -> None:
    more = changed(BASE, "conv", to={"z": {"prompt": "z"}, **BASE["conv"]})
    assert fingerprints(more, roots)[1:] == fingerprints(BASE, roots)


@pytest.mark.parametrize("manifest", [
    changed(BASE, *A, "prompt", to="a dog"),
    changed(BASE, *A, "seed", to=1),
    changed(BASE, *A, "ensemble", to=2),
    changed(changed(BASE, *A, "denoise", to=None), *A, "noise", to="none"),
    changed(BASE, *A, "mirror", to=True),
    changed(BASE, *A, "t", to=51),
    changed(BASE, *A, "denoise", to=None),
    changed(BASE, *A, "denoise", "from", to=61),
    changed(BASE, *A, "denoise", "steps", to=3),
    changed(BASE, *A, "controlnet", to=None),
    changed(BASE, *A, "controlnet", "low", to=99),
    changed(BASE, *A, "controlnet", "high", to=201),
    changed(BASE, *A, "controlnet", "scale", to=0.5),
    changed(BASE, *A, "lora", to=[]),
    changed(BASE, *A, "lora", "scale", to=0.5),
    changed(BASE, *A, "lora", "source", to="tiny/overfit"),
    changed(BASE, *A, "lora", to=[{"source": "tiny/moderate"}, {"source": "tiny/overfit"}]),
    changed(BASE, *A, "maps", to=["up0"]),
    changed(BASE, "model", "dtype", to="bfloat16"),
    changed(BASE, "model", "size", to=128),
    changed(BASE, "model", "fit", to="pad"),
    changed(BASE, "model", "resample", to="opencv"),
    changed(BASE, "model", "resample", to="lanczos"),
    changed(BASE, "model", "background", to="black"),
    changed(changed(BASE, "conv", to={}), "attention", to=BASE["conv"]),
])
def test_fingerprint_changes_when_values_do(manifest: dict[str, Any], roots: Roots) -> None:
    assert fingerprints(manifest, roots) != fingerprints(BASE, roots)


def test_recipes_of_the_first_filter_are_those_of_before_there_was_a_choice(roots: Roots) -> None:
    """Also in the order of their keys: the store's bytes are the same."""
    (recipe,) = recipes(changed(BASE, "model", "resample", to="opencv"), roots)
    assert list(recipe) == ["kind", "settings", "maps", "size", "latents", "weights", "schedule",
                            "compute"]
    files = ModelFiles("tiny", HOME)
    latents = latents_recipe(files, Preprocessing(Size.of(64), "squash", "opencv", None), "float32")
    assert latents == {
        "kind": "latents", "vae": files.weights["vae"], "size": 64, "resize": "squash",
        "scaling_factor": tiny_config("vae")["scaling_factor"], "preprocessing": 1,
        "compute": "float32"}
    assert list(latents) == ["kind", "vae", "scaling_factor", "size", "resize", "preprocessing",
                             "compute"]
    assert recipe["latents"] == fingerprint(latents)


@pytest.mark.parametrize(("model", "said"), [
    ({}, {"resample": "bicubic", "background": "#ffffff"}),
    ({"background": "white"}, {"resample": "bicubic", "background": "#ffffff"}),
    ({"resample": "lanczos", "background": [1, 2, 255]},
     {"resample": "lanczos", "background": "#0102ff"}),
    ({"resample": "opencv", "background": "#FFF"}, {"background": "#ffffff"}),
])
def test_recipes_say_the_filter_and_the_background(roots: Roots, model: dict[str, Any],
                                                   said: dict[str, str]) -> None:
    (recipe,) = recipes({**BASE, "model": {**BASE["model"], **model}}, roots)
    assert {k: recipe[k] for k in ("resample", "background") if k in recipe} == said


def test_recipe_is_plain_json_that_reads_back_the_same(roots: Roots) -> None:
    (recipe,) = recipes(BASE, roots)
    assert fingerprint(json.loads(json.dumps(recipe))) == fingerprint(recipe)


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) \
        != fingerprint({"a": 1, "b": [3]})


# --------------------------------------------------------------------------- weights on disk

FOLDER = changed(changed(changed(
    BASE, "model", "source", to="sd"), *A, "controlnet", "source", to="canny"),
    *A, "lora", "source", to="lora.safetensors")


TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@cache
def shapes_of(part: str) -> dict[str, tuple[int, ...]]:
    """Tensors of tiny's part; a LoRA's are one pair."""
    if part == "canny":
        return shapes_in([CONTROLNETS["tiny"] / "diffusion_pytorch_model.safetensors"])
    if part in ("unet", "vae", "text_encoder"):
        return shapes_in(sorted((HOME / part).glob("*.safetensors")))
    rows, columns = shapes_of("unet")[f"{TO_Q}.weight"]
    return {f"unet.{TO_Q}.lora_A.weight": (2, columns), f"unet.{TO_Q}.lora_B.weight": (rows, 2)}


def write_weights(path: Path, seed: int = 0) -> None:
    """Tensors of the part's names and shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.full(shape, seed, np.float16)
               for name, shape in shapes_of(path.parent.name).items()}, path)


def write_config(path: Path, config: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))


@pytest.fixture
def models(roots: Roots) -> Path:
    """A models root with a Stable Diffusion in diffusers layout, a ControlNet and a LoRA."""
    sd, tokens = roots.models / "sd", read_tokens(HOME / "tokenizer")
    for part in ("unet", "vae", "text_encoder"):
        write_config(sd / part / "config.json", tiny_config(part))
        write_weights(sd / part / "model.safetensors")
    write_config(sd / "scheduler" / "scheduler_config.json", tiny_config("scheduler"))
    write_config(sd / "tokenizer" / "vocab.json", tokens.vocab)
    (sd / "tokenizer" / "merges.txt").write_text("\n".join(" ".join(m) for m in tokens.merges))
    write_config(roots.models / "canny" / "config.json", tiny_config("controlnet"))
    write_weights(roots.models / "canny" / "model.safetensors")
    write_weights(roots.models / "lora.safetensors")
    return roots.models


@pytest.mark.parametrize("file", [
    "sd/unet/model.safetensors", "sd/vae/model.safetensors", "sd/text_encoder/model.safetensors",
    "canny/model.safetensors", "lora.safetensors",
])
def test_other_weights_are_another_fingerprint(models: Path, roots: Roots, file: str) -> None:
    before = fingerprints(FOLDER, roots)
    write_weights(models / file, seed=1)
    assert fingerprints(FOLDER, roots) != before


@pytest.mark.parametrize(("file", "key", "value"), [
    ("sd/unet/config.json", "attention_head_dim", 8),
    ("sd/vae/config.json", "scaling_factor", 0.5),
    ("sd/text_encoder/config.json", "num_attention_heads", 8),
    ("sd/scheduler/scheduler_config.json", "beta_end", 0.02),
    ("sd/scheduler/scheduler_config.json", "prediction_type", "v_prediction"),
    ("sd/tokenizer/special_tokens_map.json", "pad_token", "!"),
    ("canny/config.json", "attention_head_dim", 8),
])
def test_another_configuration_is_another_fingerprint(
    models: Path, roots: Roots, file: str, key: str, value: Any,
) -> None:
    before = fingerprints(FOLDER, roots)
    config = json.loads((models / file).read_text()) if (models / file).exists() else {}
    write_config(models / file, {**config, key: value})
    assert fingerprints(FOLDER, roots) != before


def move(models: Path) -> None:
    (models / "deep").mkdir()
    for name in ("sd", "canny", "lora.safetensors"):
        shutil.move(models / name, models / "deep" / name)


def copy_anew(models: Path) -> None:
    shutil.copytree(models, models / "deep", copy_function=shutil.copyfile)


def moved(manifest: dict[str, Any]) -> dict[str, Any]:
    found = changed(manifest, "model", "source", to="deep/sd")
    found = changed(found, *A, "controlnet", "source", to="deep/canny")
    return changed(found, *A, "lora", "source", to="deep/lora.safetensors")


@pytest.mark.parametrize("act", [move, copy_anew])
def test_fingerprint_keeps_when_models_are_elsewhere(
    models: Path, roots: Roots, act: Callable[[Path], None],
) -> None:
    before = fingerprints(FOLDER, roots)
    act(models)
    assert fingerprints(moved(FOLDER), roots) == before


def test_fingerprint_keeps_when_files_are_touched(models: Path, roots: Roots) -> None:
    before = fingerprints(FOLDER, roots)
    for path in models.rglob("*.safetensors"):
        os.utime(path, (1, 1))
    assert fingerprints(FOLDER, roots) == before


@pytest.mark.parametrize("key", ["_name_or_path", "_diffusers_version"])
def test_fingerprint_keeps_when_notes_of_diffusers_change(
    models: Path, roots: Roots, key: str,
) -> None:
    before = fingerprints(FOLDER, roots)
    write_config(models / "sd/unet/config.json",
                 {**tiny_config("unet"), key: "other"})
    assert fingerprints(FOLDER, roots) == before


def test_the_variant_names_the_weights_that_count(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"):
        (tmp_path / name).touch()
    assert [p.name for p in weight_files(tmp_path, None)] == ["model.safetensors"]
    assert [p.name for p in weight_files(tmp_path, "fp16")] == ["model.fp16.safetensors"]


# ---------------------------------------------------------------------------------- the memo

BIG = memo.SMALL + 8


def write_anew(path: Path, byte: bytes) -> None:
    """Replace a file by another of the same size and times."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(byte * path.stat().st_size)
    os.utime(fresh, ns=times)
    fresh.replace(path)


def write_in_place(path: Path, byte: bytes) -> None:
    """Overwrite a file and set its times back; its change time cannot be."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(byte * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("size", [8, BIG])
@pytest.mark.parametrize("write", [write_anew, write_in_place])
def test_memo_notices_other_content_of_the_same_size_and_times(
    tmp_path: Path, write: Callable[[Path, bytes], None], size: int,
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"a" * size)
    first = remembered_sha256(path)
    write(path, b"b")
    assert first != remembered_sha256(path) == file_sha256(path)


def test_memo_hashes_a_large_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"a" * BIG)
    first = remembered_sha256(path)
    monkeypatch.setattr(memo, "file_sha256", lambda _: pytest.fail("hashed again"))
    assert remembered_sha256(path) == first


@pytest.mark.parametrize("content", ["", "{", "[]", "entry"])
def test_damaged_memo_is_forgotten(tmp_path: Path, memo_home: Path, content: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"a" * BIG)
    (memo_home / "gate-cache").mkdir(parents=True)
    text = json.dumps({str(path.resolve()): 3}) if content == "entry" else content
    (memo_home / "gate-cache" / "sha256.json").write_text(text)
    assert remembered_sha256(path) == file_sha256(path)


def test_memo_may_be_impossible_to_write(tmp_path: Path, memo_home: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"a" * BIG)
    memo_home.write_text("a file where the cache's folder should be")
    assert remembered_sha256(path) == file_sha256(path)


def test_memo_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"a" * BIG)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without a home
    monkeypatch.chdir(tmp_path)
    assert remembered_sha256(path) == file_sha256(path)
    assert list(tmp_path.iterdir()) == [path]


# -------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(("old", "new", "lines"), [
    ({"a": 1}, {"a": 1}, []),
    ({"prompt": "a"}, {"prompt": "b"}, ['prompt changed: "a" → "b"']),
    ({}, {"seed": 1}, ["seed added: 1"]),
    ({"settings": {"t": 1, "seed": 0}}, {"settings": {"t": 2, "seed": 0}}, ["t changed: 1 → 2"]),
    ({"b": 1, "a": [1]}, {"b": 2, "a": [2]}, ["a changed: [1] → [2]", "b changed: 1 → 2"]),
    ({"c": {"x": 1}}, {}, ['c removed: {"x": 1}']),
    ({"weights": {"unet": "1f"}}, {"weights": {"unet": "2e"}}, ["weights of unet changed"]),
    ({"latents": "1f"}, {"latents": "2e"}, ["what images are made into latents by changed"]),
    ({"p": "x" * 99 + "a"}, {"p": "x" * 99 + "b"},
     ['p changed: …xxxxxxxxxxxxa" → …xxxxxxxxxxxxb"']),
    ({"p": ""}, {"p": "x" * 99}, ['p changed: "" → "' + "x" * 56 + "…"]),
])
def test_differences_are_a_line_per_leaf(
    old: dict[str, Any], new: dict[str, Any], lines: list[str],
) -> None:
    assert differences(old, new) == lines


def test_differences_of_two_recipes_name_the_setting(roots: Roots) -> None:
    (old,), (new,) = (recipes(m, roots) for m in (BASE, changed(BASE, *A, "seed", to=4)))
    assert differences(old, new) == ["seed changed: 0 → 4"]


# -------------------------------------------------------------------------- what is missing


def refusal(manifest: dict[str, Any], roots: Roots) -> str:
    with pytest.raises(ModelError) as caught:
        recipes(manifest, roots)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_lora_is_named(models: Path, roots: Roots) -> None:
    manifest = changed(BASE, *A, "lora", "source", to="tiny/moderat")
    assert f"a.lora.source: {models / 'tiny/moderat'}: no such LoRA file" \
        " (did you mean 'tiny/moderate'?)" in refusal(manifest, roots)


def test_lora_that_is_pickled_is_refused(models: Path, roots: Roots) -> None:
    (models / "lora.bin").touch()
    assert "not a .safetensors file" in refusal(changed(BASE, *A, "lora", "source", to="lora.bin"),
                                                roots)


@pytest.mark.parametrize("left", [[], ["diffusion_pytorch_model.bin"]])
def test_component_without_safetensors_is_named(
    models: Path, roots: Roots, left: list[str],
) -> None:
    (models / "sd/unet/model.safetensors").unlink()
    for name in left:
        (models / "sd/unet" / name).touch()
    why = "only pickled weights (.bin)" if left else "no weights"
    assert f"{models / 'sd/unet'}: {why}" in refusal(FOLDER, roots)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_component_is_named(models: Path, roots: Roots, component: str) -> None:
    shutil.rmtree(models / "sd" / component)
    assert f"no '{component}' in it; expected a Stable Diffusion in diffusers layout" in refusal(
        FOLDER, roots)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_configuration_is_named(models: Path, roots: Roots, content: str) -> None:
    (models / "sd/unet/config.json").write_text(content)
    assert str(models / "sd/unet/config.json") in refusal(FOLDER, roots)


def test_map_that_the_model_lacks_is_named(roots: Roots) -> None:
    assert "no map 'up7'" in refusal(changed(BASE, *A, "maps", to=["up7"]), roots)


def test_model_of_another_family_is_refused(models: Path, roots: Roots) -> None:
    config = {**tiny_config("unet"), "addition_embed_type": "t"}
    write_config(models / "sd/unet/config.json", config)
    assert "not the UNet of a Stable Diffusion 1.x, 2.x or XL" in refusal(FOLDER, roots)


def test_source_that_is_nothing_names_what_was_meant(roots: Roots) -> None:
    with pytest.raises(ModelError, match=r"'tyni' is neither 'tiny'.*\(did you mean 'tiny'\?\)"):
        locate(ModelSpec(source="tyni"), roots)


# ----------------------------------------------------------------------------------- the hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
def test_hub_id_that_is_not_here_is_no_error_until_it_is_needed(roots: Roots) -> None:
    spec = ModelSpec(source="nobody/nothing")
    assert locate(spec, roots) is None
    with pytest.raises(ModelError, match=r"^nobody/nothing: not on this machine: .*<models root>/"):
        locate(spec, roots, download=True)


@pytest.mark.usefixtures("offline")
def test_controlnet_that_is_not_here_is_named(roots: Roots) -> None:
    manifest = changed(BASE, *A, "controlnet", "source", to="nobody/nothing")
    assert "a.controlnet.source: 'nobody/nothing' is not on this machine" in refusal(
        manifest, roots)


@pytest.mark.usefixtures("offline")
def test_all_that_is_missing_is_listed(tmp_path: Path, roots: Roots) -> None:
    combo = {"controlnet": {"source": "nobody/nothing"}, "lora": {"source": "gone.safetensors"}}
    manifest = {**BASE, "conv": {n: {"prompt": n, **combo} for n in ("a", "b")}}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    lines = missing_inputs(load(tmp_path / "m.yaml").manifest, roots)
    assert [line.split(":")[0] for line in lines] == [
        "a.controlnet.source", "a.lora.source", "b.controlnet.source", "b.lora.source"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("source", ["a--b/c", "a/b..c", "a/b.git", "a/b-"])
def test_hub_id_that_the_hub_refuses_is_a_model_error(roots: Roots, source: str) -> None:
    with pytest.raises(ModelError):
        locate(ModelSpec(source=source), roots)


class Hub:
    """Stands in for `snapshot_download`: one repository, and the folder it was fetched to."""

    files = tuple(f"{part}/{name}" for part in (
        "unet", "vae", "text_encoder", "tokenizer", "scheduler") for name in (
            "x.json", "x.bin", "model.safetensors", "model.fp16.safetensors"))

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, repo: str, revision: str | None = None, local_files_only: bool = False,
                 allow_patterns: Any = None, ignore_patterns: Any = None) -> str:
        for name in filter_repo_objects(self.files, allow_patterns=allow_patterns,
                                        ignore_patterns=ignore_patterns):
            path = self.folder / name
            if local_files_only and not path.exists():
                raise LocalEntryNotFoundError(f"{name} is missing")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(self.folder)


def test_model_that_was_fetched_is_found_without_network(
    tmp_path: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path / "hub"))
    spec = ModelSpec(source="somebody/something")
    assert locate(spec, roots, download=True) == ModelFiles(spec.source, tmp_path / "hub")
    assert locate(spec, roots) == ModelFiles(spec.source, tmp_path / "hub")
    assert not list((tmp_path / "hub").rglob("*.bin"))
    assert not list((tmp_path / "hub").rglob("*.fp16.*"))


def test_model_of_which_a_part_was_fetched_is_completed(
    tmp_path: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub's library calls a snapshot complete that another tool fetched in part."""
    hub = Hub(tmp_path / "hub")
    (hub.folder / "vae").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(hub.folder)
                        if k["local_files_only"] else hub(*a, **k))
    spec = ModelSpec(source="somebody/something")
    assert locate(spec, roots) is None
    assert locate(spec, roots, download=True) == ModelFiles(spec.source, hub.folder)
