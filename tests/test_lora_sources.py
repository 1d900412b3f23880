"""Which LoRA files are refused, in what words; where they may be; what tells one from others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WriteManifest
from huggingface_hub.errors import LocalEntryNotFoundError
from lora_files import Changed, State, Written, diffusers, drawn, kohya, sgm, weights
from original_layout import write_single_file
from safetensors.torch import save_file
from small_models import WIDTH, WRITERS

from gate_cache.core.digest_cache import remembered_sha256
from gate_cache.core.errors import ModelError, UserError
from gate_cache.core.fingerprint import differences
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.lora.file import read_lora
from gate_cache.diffusion.lora.fit import model_layers
from gate_cache.diffusion.lora.source import lora_path
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.embedded import HOME, LORAS
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.techniques.lora import lora_digest
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.validate import validate
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PLAIN = {f"{Q}.lora_down.weight": torch.ones(4, 32), f"{Q}.lora_up.weight": torch.ones(32, 4)}


# --------------------------------------------------------------------------------- refused in words


def settings(**more: Any) -> dict[str, str]:
    told = {"unet.r": 4, "unet.lora_alpha": 8, **{f"unet.{k}": v for k, v in more.items()}}
    return {"lora_adapter_metadata": json.dumps(told)}


DOTTED = {"unet.a.to_q.lora_A.weight": torch.ones(4, 8), "unet.a.to_q.lora_B.weight":
          torch.ones(8, 4)}
REFUSED: dict[str, tuple[State, dict[str, str], str]] = {
    "LoHa": ({f"{Q}.hada_w1_a": torch.ones(2, 2)}, {}, f"LoHa: '{Q}.hada_w1_a'"),
    "LoKr": ({f"{Q}.lokr_w1": torch.ones(2, 2)}, {}, f"LoKr: '{Q}.lokr_w1'"),
    "IA3": ({f"{Q}.weight": torch.ones(4), f"{Q}.on_input": torch.ones(1)}, {}, "IA3: '"),
    "Tucker": ({**PLAIN, f"{Q}.lora_mid.weight": torch.ones(4, 4, 3, 3)}, {},
               f"Tucker decomposition (lora_mid): '{Q}.lora_mid.weight'"),
    "DoRA": ({**PLAIN, f"{Q}.dora_scale": torch.ones(32, 1)}, {}, f"DoRA: '{Q}.dora_scale'"),
    "DoRA, peft": ({**DOTTED, "unet.a.to_q.lora_magnitude_vector": torch.ones(8)}, {}, "DoRA: '"),
    "bias": ({**DOTTED, "unet.a.to_q.lora_B.bias": torch.ones(8)}, {},
             "biases: 'unet.a.to_q.lora_B.bias'"),
    "differences": ({**PLAIN, f"{Q}.diff": torch.ones(4)}, {}, "whole differences of weights: '"),
    "norms": ({**PLAIN, "lora_unet_norm.w_norm": torch.ones(4)}, {}, "differences of weights: '"),
    "embeddings": ({**PLAIN, "bundle_emb.x.string_to_param.*": torch.ones(1, 4)}, {},
                   "embeddings: 'bundle_emb.x.string_to_param.*'"),
    "half a pair": ({k: v for k, v in PLAIN.items() if "lora_up" not in k}, {},
                    f"no 'up' beside '{Q}.lora_down.weight'"),
    "the other half": ({k: v for k, v in PLAIN.items() if "lora_down" not in k}, {},
                       f"no 'down' beside '{Q}.lora_up.weight'"),
    "alpha alone": ({**PLAIN, "lora_unet_x.alpha": torch.tensor(1.0)}, {},
                    "alphas alone, no weights beside 'lora_unet_x.alpha'"),
    "empty": ({}, {}, "holds no tensors"),
    "ranks": ({**PLAIN, f"{Q}.lora_up.weight": torch.ones(32, 5)}, {}, "are no pair"),
    "two alphas": ({**PLAIN, f"{Q}.alpha": torch.ones(2)}, {}, f"'{Q}.alpha' holds F32 × 2"),
    "whole numbers": ({**PLAIN, f"{Q}.lora_up.weight": torch.ones(32, 4, dtype=torch.int8)}, {},
                      f"'{Q}.lora_up.weight' holds numbers of type I8, quantised ones"),
    "no number": ({**PLAIN, f"{Q}.alpha": torch.tensor(float("nan"))}, {},
                  f"'{Q}.alpha' is nan"),
    "twice": ({**PLAIN, **{k.replace(
        Q, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"): v.clone()
        for k, v in PLAIN.items()}}, {}, "are of one layer"),
    "no JSON": (DOTTED, {"lora_adapter_metadata": "{not json"}, "cannot be read (not a JSON"),
    "other rank": (DOTTED, settings(r=8), "has rank 4, the adapter's settings say 8"),
    "no rank": (DOTTED, settings(r="four"), "r is 'four', not a number"),
    "no pattern": (DOTTED, settings(alpha_pattern={"(": 1}), "of its settings is not a pattern"),
    "no mapping": (DOTTED, settings(alpha_pattern=[1]), "alpha_pattern is not a mapping"),
    "told DoRA": (DOTTED, settings(use_dora=True), "says use_dora, which is not plain LoRA"),
    "PiSSA": (DOTTED, settings(init_lora_weights="pissa_niter_4"), "init_lora_weights: pissa"),
    "two strengths": ({**DOTTED, "unet.a.to_q.alpha": torch.tensor(2.0)}, settings(),
                      "has an alpha of 2.0, the adapter's settings make it 8"),
}


@pytest.mark.parametrize(("content", "says"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a git-lfs pointer"),
    (b"", "not a safetensors file"), (b'\x10' + bytes(7) + b'{"a":', "cut off within its header")])
def test_a_file_that_is_no_weights_is_said_to_be(tmp_path: Path, content: bytes,
                                                 says: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_lora("x.safetensors", tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    state, metadata, says = REFUSED[kind]
    path = Written(state, metadata).save(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=rf"^mine\.safetensors: .*{re.escape(says)}") as caught:
        read_lora("mine.safetensors", path)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------ does it fit


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("sd1", "sd2", "sdxl"):
        WRITERS[name](root / name)
        configs = {c: ModelFiles(name, root / name).config(c) for c in ("unet", "vae")}
        write_single_file(root / f"{name}.safetensors", root / name, configs)
    return root


def loaded(files: ModelFiles) -> Backbone:
    return load(files, torch.device("cpu"), torch.float32)


@pytest.mark.mostly_long("sd1-*")
@pytest.mark.parametrize("form", ["kohya", "original", "diffusers"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd1.safetensors", "sdxl.safetensors"])
def test_headers_tell_every_layer_of_a_model(models: Path, tmp_path: Path, name: str,
                                             form: str) -> None:
    """Folders and single files; each name of every layer is found, with its shape."""
    folder = ModelFiles(name, models / name.removesuffix(".safetensors"))
    files = ModelFiles(name, folder.path, None, "", models / name) if "." in name else folder
    every = drawn(weights(loaded(folder)), lambda i: 1, lambda i: None)
    forms: dict[str, Callable[[list[Changed]], Written]] = {
        "kohya": kohya, "diffusers": diffusers,
        "original": lambda changed: kohya(changed, sgm(folder.config("unet")))}
    path = forms[form](every).save(tmp_path / "a.safetensors")
    found = model_layers(files).placed(read_lora("a", path))
    assert len(found) == len(every)
    assert {tuple(c.down.shape[1:]) for c in every} >= {x.shapes[0][1:] for x, _ in found}
    if files is folder:
        assert {(p.part, p.name) for _, p in found} == {(c.part, c.name) for c in every} or \
            {p.name.removeprefix("text_model.") for _, p in found} == {
                c.name.removeprefix("text_model.") for c in every}


MISFITS: dict[str, tuple[State, str]] = {
    "wider": ({k: v.repeat(1, 2) if "lora_down" in k else v for k, v in PLAIN.items()},
              r"changes a weight of shape \(32, 64\), this model's is \(32, 32\)"),
    "of another model": ({k.replace("_0_attn1", "_7_attn1"): v for k, v in PLAIN.items()},
                         r"only 0 of its 1 layers fit this model; no such layer: 'lora_unet_down"),
    "of XL's text": ({f"lora_te2_{k.removeprefix('lora_unet_')}": v for k, v in PLAIN.items()},
                     "no such layer: 'lora_te2_"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_is_told_before_anything_is_loaded(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    state, says = MISFITS[kind]
    roots.models.mkdir()
    save_file(state, roots.models / "a.safetensors")
    sections = manifest(conv={"mine": {"prompt": "x", "lora": {"source": "a.safetensors"}}},
                        attention={})
    says = rf"^mine\.lora\.source: a\.safetensors: .*{says}"
    for looks in (validate, plan):
        with pytest.raises(UserError, match=says):
            looks(Workspace(sections, roots))
    monkeypatch.setattr("gate_cache.diffusion.models.loading.load", None)
    with pytest.raises(ModelError, match=says):
        extract(Workspace(sections, roots, "cpu"))


def test_a_layer_that_may_be_of_either_text_encoder_is_refused(models: Path, tmp_path: Path
                                                              ) -> None:
    name = "lycoris_text_model_encoder_layers_0_self_attn_q_proj"
    pair = {"down": torch.ones(1, WIDTH), "up": torch.ones(WIDTH, 1)}
    path = Written({f"{name}.lora_{side}.weight": value for side, value in pair.items()}).save(
        tmp_path / "a.safetensors")
    one = model_layers(ModelFiles("sd1", models / "sd1"))
    assert [p.part for _, p in one.placed(read_lora("a", path))] == ["text_encoder"]
    with pytest.raises(ModelError, match="may be of text_encoder or text_encoder_2"):
        model_layers(ModelFiles("sdxl", models / "sdxl")).placed(read_lora("a", path))


# ---------------------------------------------------------------------------------- where it may be


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(LORAS["tiny/moderate"], folder / name)


def test_a_folder_holds_one_lora_or_the_usual_one(tmp_path: Path) -> None:
    roots = Roots(models=tmp_path)
    put(tmp_path / "one", "style.safetensors")
    put(tmp_path / "usual", "a.safetensors", "pytorch_lora_weights.safetensors")
    put(tmp_path / "many", "b.safetensors", "a.safetensors")
    (tmp_path / "none").mkdir()
    assert lora_path("one", "c", roots).name == "style.safetensors"
    assert lora_path("usual", "c", roots).name == "pytorch_lora_weights.safetensors"
    with pytest.raises(ModelError, match=r"^c: many: several files in it \(a\.safetensors,"
                       r" b\.safetensors\); name one, as in 'source: many/a\.safetensors'"):
        lora_path("many", "c", roots)
    assert lora_path("many/a.safetensors", "c", roots) == tmp_path / "many/a.safetensors"
    for source, says in (("none", r"none: no \.safetensors file in it"),
                         ("x.ckpt", "pickled weights are not read"),
                         ("tiny/moderat", r"no such LoRA file \(did you mean 'tiny/mod")):
        with pytest.raises(ModelError, match=says):
            lora_path(source, "c", roots)


def test_of_a_hub_repository_only_the_lora_is_fetched(tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    hub, there = tmp_path / "hub", ["README.md", "unet/diffusion_pytorch_model.safetensors"]
    fetched: list[str] = []

    def snapshot(repo: str, local_files_only: bool, allow_patterns: list[str], **_: Any) -> str:
        if local_files_only and not hub.exists():
            raise LocalEntryNotFoundError(repo)
        if not local_files_only:
            fetched.extend(n for n in allow_patterns if n in there)
            put(hub, *[n for n in allow_patterns if n in there])
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda repo: there)
    roots = Roots(models=tmp_path / "models")
    with pytest.raises(ModelError, match=r"^c: somebody/style: no \.safetensors file in it"):
        lora_path("somebody/style", "c", roots, download=True)
    there += ["a.safetensors", "b.safetensors"]
    with pytest.raises(ModelError, match=r"name one, as in 'source: somebody/style/a\.safe"):
        lora_path("somebody/style", "c", roots, download=True)
    with pytest.raises(ModelError, match="no such LoRA file"):
        lora_path("somebody/style/b.safetensors", "c", roots)
    found = lora_path("somebody/style/b.safetensors", "c", roots, download=True)
    assert (found, fetched) == (hub / "b.safetensors", ["b.safetensors"])
    assert lora_path("somebody/style/b.safetensors", "c", roots) == found


# ------------------------------------------------------------------------------ what tells it apart


def digest_of(path: Path, alphas: list[float | None], told: bool = False) -> str:
    model = loaded(ModelFiles("tiny", HOME))
    chosen = [w for w in weights(model) if w[1].endswith(("to_q", "q_proj"))]
    changed = drawn(chosen, lambda i: 4, lambda i: alphas[i % len(alphas)])
    return lora_digest("a", (diffusers(changed) if told else kohya(changed)).save(path))


@pytest.mark.parametrize("alphas, told, same", [
    ([3.0], False, True), ([None], False, True), ([3.0, 1.0], False, False),
    ([3.0, None], False, False), ([3.0, 1.0], True, True)])
def test_only_where_strengths_were_wrong_is_the_digest_another_than_the_files(
        tmp_path: Path, alphas: list[float | None], told: bool, same: bool) -> None:
    path = tmp_path / "a.safetensors"
    digest = digest_of(path, alphas, told)
    assert (digest == remembered_sha256(path)) == same
    old, new = ({"weights": {"lora": [d]}} for d in (remembered_sha256(path), digest))
    assert differences(old, new) == ([] if same else [
        "lora: the same file, but other strengths of its layers: release 0.1 did not read all of"
        " them from the file"])


def test_settings_beside_a_file_are_in_its_digest(tmp_path: Path) -> None:
    name = "base_model.model.mid_block.attentions.0.proj_in"
    path = Written({f"{name}.lora_A.weight": torch.ones(4, 8),
                    f"{name}.lora_B.weight": torch.ones(8, 4)}).save(tmp_path / "a.safetensors")
    found = []
    for alpha in (4, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        found.append(lora_digest("a", path))
    assert len({*found, remembered_sha256(path)}) == 3


def test_a_store_of_the_first_release_goes_on_only_where_its_values_were_right(
        roots: Roots, manifest: WriteManifest) -> None:
    """The recipes of release 0.1 had the file's sha256, whatever its alphas."""
    from gate_cache.diffusion.passes.recipes import plan_combos

    files = locate(ModelSpec(source="tiny"), roots)
    assert files is not None
    roots.models.mkdir()
    for alphas, same in (([2.0], True), ([2.0, 1.0], False)):
        path = roots.models / "a.safetensors"
        digest_of(path, list(alphas))
        sections = manifest(conv={"x": {"prompt": "x", "lora": {"source": "a.safetensors"}}},
                            attention={})
        recipe = plan_combos(sections.manifest, files, roots)[0].recipe
        assert (recipe["weights"]["lora"] == [remembered_sha256(path)]) == same
