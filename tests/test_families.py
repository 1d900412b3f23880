"""Stable Diffusion 2.x, XL and DDPM: small random models as diffusers saves them, end to end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteManifest
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from original_layout import unet_key
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from small_models import LONG, SIZES, WRITERS, sdxl_unet, write_controlnet, write_ddpm
from test_techniques import ADAPTER, write_ip_adapter

from gate_cache import FeatureStore
from gate_cache.core.errors import ManifestError, ModelError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.lora.adapters import Loras
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Call, Text
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.extractor import Extractor
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.recipes import latents_recipe, plan_combos
from gate_cache.diffusion.techniques.denoise import ddim
from gate_cache.extraction.engine import Engine
from gate_cache.extraction.extract import extract
from gate_cache.extraction.lora.files import LoraOutput
from gate_cache.extraction.lora.train import train_lora
from gate_cache.extraction.lora.trainer import LoraSettings
from gate_cache.extraction.plan import plan
from gate_cache.extraction.validate import validate
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

CPU = torch.device("cpu")
TEXT, PIXELS = ("sd1", "sd2", "sdxl"), ("ddpm", "bare")
DATA = {"name": "toyworld", "train": 3, "val": 0, "test": 0}
STEPS = {"from": 60, "steps": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root with one of each kind, ControlNets and a LoRA."""
    root = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(root / name)
    for name in TEXT:
        write_controlnet(root / f"{name}-net", root / name)
        write_lora(root / f"{name}-lora.safetensors", root / name)
    return root


@pytest.fixture
def home(models: Path, tmp_path: Path) -> Roots:
    """Roots with those models, not to be changed."""
    return Roots(*(tmp_path / n for n in ("data",)), models, *(
        tmp_path / n for n in ("stores", "runs")))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def write_lora(path: Path, model: Path) -> None:
    """As diffusers saves one that was trained on the UNet and on the last text encoder."""
    xl = (model / "text_encoder_2").is_dir()
    pipe: Any = (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(
        model)
    te = "text_encoder_2" if xl else "text_encoder"
    states = {}
    for name, modules in (("unet", ["to_q", "to_v"]), (te, ["q_proj", "out_proj"])):
        module = getattr(pipe, name)
        module.add_adapter(LoraConfig(r=2, lora_alpha=1, target_modules=modules), "style")
        for key, weight in module.named_parameters():
            if "lora_B" in key:
                weight.data.normal_(0, 0.3)
        states[name] = get_peft_model_state_dict(module, adapter_name="style")
    pipe.save_lora_weights(
        path.parent, weight_name=path.name, unet_lora_layers=states["unet"],
        unet_lora_adapter_metadata=pipe.unet.peft_config["style"].to_dict(),
        **{f"{te}_lora_layers": states[te],
           f"{te}_lora_adapter_metadata": getattr(pipe, te).peft_config["style"].to_dict()})


def opened(models: Path, name: str, dtype: torch.dtype = torch.float32) -> Backbone:
    return load(ModelFiles(name, models / name), CPU, dtype)


def sections(name: str) -> dict[str, Any]:
    """Combos of every technique that a kind of model has."""
    found = {"dataset": DATA, "model": {"source": name, "size": SIZES[name]},
             "store": {"block": 2, "batch": 2}}
    if name in PIXELS:
        conv = {"t50": {}, "t400": {"t": 400}, "steps": {"denoise": STEPS}}
        return {**found, "conv": conv, "attention": {}}
    net, lora = {"source": f"{name}-net"}, {"source": f"{name}-lora.safetensors"}
    conv = {"plain": {"prompt": "a horse"}, "control": {"prompt": "a horse", "controlnet": net},
            "lora": {"prompt": "a horse", "lora": lora}, "long": {"prompt": LONG}}
    return {**found, "conv": conv, "attention": {
        "attn": {"prompt": "a horse", "controlnet": net, "lora": lora, "denoise": STEPS}}}


# ------------------------------------------------------------------------------------ end to end


@pytest.mark.mostly_long("ddpm", "bare")
@pytest.mark.parametrize("name", WRITERS)
def test_extract_resumes_and_yields_the_plan(name: str, home: Roots, manifest: WriteManifest,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after a block and run again; the modules are then what they were."""
    loaded, digests = manifest(**sections(name)), [state_digest(opened(home.models, name))]
    assert validate(Workspace(loaded, home)).absent == []
    planned = plan(Workspace(loaded, home))

    run, close = Engine.run, Extractor.close

    def first_block_only(engine: Engine, work: Any, blocks: Any, told: Any) -> None:
        run(engine, work, list(blocks)[:1], told)
        raise KeyboardInterrupt

    def closed(extractor: Extractor) -> None:
        close(extractor)
        digests.append(state_digest(extractor.model))

    monkeypatch.setattr(Extractor, "close", closed)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(Engine, "run", first_block_only)
        extract(Workspace(loaded, home, "cpu"))
    rows = extract(Workspace(loaded, home, "cpu")).rows
    assert rows == {"latents": 1, **dict.fromkeys(loaded.manifest.combos, 1)}
    assert not any(extract(Workspace(loaded, home, "cpu")).rows.values())
    store = FeatureStore.open(planned.store)
    for line in planned.lines[2:]:
        assert line.shapes == {m: store[line.name][m].shape[1:] for m in store[line.name]}
        for values in (store[line.name][m][:].astype(np.float32) for m in store[line.name]):
            assert np.isfinite(values).all() and values.std() > 0
    assert len(digests) == 3 and len(set(digests)) == 1


def state_digest(model: Backbone) -> str:
    """Of every weight's bytes, and of the processors' and hooks' kinds."""
    modules = {"unet": model.unet, **model.text_encoders}
    found = hashlib.sha256()
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            found.update(f"{name}.{key}{value.shape}".encode() + value.numpy().tobytes())
    processors = getattr(model.unet, "attn_processors", {}).values()
    hooked = [m for m in model.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    return found.hexdigest() + str(sorted({type(p).__name__ for p in processors})) + str(hooked)


@pytest.mark.long
def test_techniques_of_xl_change_the_maps(home: Roots, manifest: WriteManifest) -> None:
    store = FeatureStore.open(extract(Workspace(manifest(**sections("sdxl")), home, "cpu")).store)
    maps = {name: store[name]["up1"][:] for name in ("plain", "control", "lora", "long")}
    names = list(maps)
    assert not [(a, b) for a in names for b in names if a < b and np.array_equal(maps[a], maps[b])]
    assert list(store["attn"].maps) == ["attn0", "attn1"]
    np.testing.assert_allclose(store["attn"]["attn1"][:].astype(np.float32).sum(1), 1, atol=1e-2)


@pytest.mark.long
def test_guidance_and_ip_adapter_work_with_xl(home: Roots, models: Path, tmp_path: Path,
                                              manifest: WriteManifest) -> None:
    own = Roots(home.data, tmp_path / "own", home.stores, home.runs)
    shutil.copytree(models / "sdxl", own.models / "sdxl")
    write_ip_adapter(own.models, unet=opened(models, "sdxl").unet)
    steps = {"prompt": "a horse", "denoise": STEPS}
    conv = {"steps": steps, "guided": {**steps, "guidance": {"scale": 4.0, "negative": LONG[:9]}},
            "ip": {**steps, "ip_adapter": ADAPTER}}
    loaded = manifest(**{**sections("sdxl"), "conv": conv, "attention": {}})
    store = FeatureStore.open(extract(Workspace(loaded, own, "cpu")).store)
    maps = [store[name]["up2"][:].astype(np.float32) for name in conv]
    assert np.isfinite(maps).all()
    assert not np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])


@pytest.mark.mostly_long("False")
@pytest.mark.parametrize("original", [False, True])
def test_a_kohya_lora_of_xl_is_that_of_diffusers(models: Path, tmp_path: Path,
                                                 original: bool) -> None:
    """With the UNet's modules under diffusers' and under the original names."""
    model = opened(models, "sdxl")
    config = ModelFiles("sdxl", models / "sdxl").config("unet")
    source = models / "sdxl-lora.safetensors"
    state = {}
    for key, value in load_file(source).items():
        part, module = key.split(".", 1)
        module, kind = module.rsplit(".lora_", 1)
        if part == "unet" and original:
            module = unet_key(f"{module}.weight", config).removesuffix(".weight")
        name = f"lora_{'unet' if part == 'unet' else 'te2'}_{module.replace('.', '_')}"
        state[f"{name}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = value
        state[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(state, tmp_path / "kohya.safetensors")
    x, found = torch.randn(1, 4, 16, 16), []
    for path in (source, tmp_path / "kohya.safetensors"):
        loras = Loras(model)
        loras.load("d", path.name, path)
        with loras.active([("d", 1.0)]):
            found.append(model.predict(x, 50, model.embed("a horse")))
        loras.close()
    torch.testing.assert_close(*found)
    assert not torch.allclose(found[0], model.predict(x, 50, model.embed("a horse")), atol=1e-3)


@pytest.mark.parametrize("name", WRITERS)
def test_of_a_hub_repository_no_more_is_fetched_than_is_read(
        models: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories have the same weights as a single file, in other formats and pickled beside."""
    known = [p.relative_to(models / name).as_posix() for p in (models / name).rglob("*.*")]
    beside = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
              "v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/model.onnx"]
    fetched: list[str] = []

    def fetch(repo: str, local_files_only: bool, allow_patterns: Any, ignore_patterns: Any,
              **_: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError(repo)
        fetched.extend(filter_repo_objects([*known, *beside], allow_patterns=allow_patterns,
                                           ignore_patterns=ignore_patterns))
        for part in fetched:
            (tmp_path / "hub" / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(models / name / part, tmp_path / "hub" / part)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    spec = ModelSpec(source=f"somebody/{name}")
    assert locate(spec, Roots(), download=True) == ModelFiles(spec.source, tmp_path / "hub")
    assert sorted(fetched) == sorted(known)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: tmp_path / "hub")
    assert locate(spec, Roots()) == ModelFiles(spec.source, tmp_path / "hub")
    next((tmp_path / "hub").rglob("diffusion_pytorch_model.safetensors")).unlink()
    assert locate(spec, Roots()) is None


# --------------------------------------------------------------------- against plain diffusers


def conv_maps(unet: Any, run: Any) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    hooks = [b.register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"up{i}": out}))
             for i, b in enumerate(unet.up_blocks)]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", TEXT)
def test_maps_are_those_of_the_pipelines_own_unet_and_text(models: Path, name: str) -> None:
    model = opened(models, name)
    x = torch.randn(2, 4, 16, 16)
    specs = [s for s in ModelFiles(name, models / name).family.maps if s.kind == "conv"]
    text = Text.joined([model.embed("a red horse")] * 2)
    with tapped(model.unet, specs) as taps:
        found = taps.read(lambda: model.predict(x, 50, text))
    cls: Any = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    pipe = cls.from_pretrained(models / name)
    encoded = pipe.encode_prompt("a red horse", device=CPU, num_images_per_prompt=1,
                                 do_classifier_free_guidance=False)
    added = {"text_embeds": encoded[2], "time_ids": pipe._get_add_time_ids(
        (64, 64), (0, 0), (64, 64), torch.float32, pipe.text_encoder_2.config.projection_dim)
    } if name == "sdxl" else None
    states = encoded[0].expand(2, -1, -1)
    if added:
        added = {k: v.expand(2, -1) for k, v in added.items()}
    expected = conv_maps(pipe.unet, lambda: pipe.unet(x, 50, states, added_cond_kwargs=added))
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key])


def test_xl_joins_the_pieces_of_both_encoders(models: Path) -> None:
    model = opened(models, "sdxl")
    text, first = model.embed(LONG), LONG.split()[:75]
    assert text.states.shape == (1, 2 * 77, 80) and text.added["text_embeds"].shape == (1, 24)
    piece = model.embed(" ".join(first))
    torch.testing.assert_close(text.states[:, :77], piece.states)
    torch.testing.assert_close(text.added["text_embeds"], piece.added["text_embeds"])


@pytest.mark.parametrize(("name", "prediction"), [
    ("sd2", "v_prediction"), ("ddpm", "epsilon"), ("ddpm", "sample")])
def test_a_ddim_step_is_that_of_diffusers(models: Path, name: str, prediction: str) -> None:
    model = opened(models, name)
    assert name != "sd2" or model.prediction_type == prediction
    model.prediction_type = prediction
    schedule = {**ModelFiles(name, models / name).schedule(), "prediction_type": prediction}
    scheduler = DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(100)
    x, text = torch.randn(1, model.unet.config.in_channels, 16, 16), model.embed("")
    expected = scheduler.step(model.predict(x, 60, text), 60, x, eta=0.0).prev_sample
    found = ddim(x, [60, 50], model.noised, lambda x, t: (
        model.as_clean(model.predict(x, t, text), x, t),
        model.as_epsilon(model.predict(x, t, text), x, t)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_ddpm_sees_pixels_and_its_maps_are_its_up_blocks(models: Path) -> None:
    model = opened(models, "ddpm")
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    x = model.encode(pixels)
    assert x.dtype == torch.float32 and x.shape == (2, 3, 32, 32)
    torch.testing.assert_close((x.permute(0, 2, 3, 1) + 1) * 127.5, pixels.float())
    unet = DDPMPipeline.from_pretrained(models / "ddpm").unet
    expected = conv_maps(unet, lambda: unet(x, 50))
    layout = ModelFiles("ddpm", models / "ddpm").family
    with tapped(model.unet, layout.maps) as taps:
        found = taps.read(lambda: model.predict(x, 50, model.embed("")))
    assert {k: v.shape[1:] for k, v in found.items()} == {
        m.name: m.shape(32) for m in layout.maps}
    for key in found:
        assert torch.equal(found[key], expected[key])


def test_a_ddpm_that_learned_variances_gives_the_mean(tmp_path: Path) -> None:
    write_ddpm(tmp_path / "ddpm", out_channels=6)
    model = opened(tmp_path, "ddpm")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.predict(x, 50, model.embed("")), model.unet(x, 50).sample[:, :3])


def test_the_vae_of_xl_is_not_computed_in_half_precision(models: Path, tmp_path: Path) -> None:
    files = ModelFiles("sdxl", models / "sdxl")
    half = opened(models, "sdxl", torch.float16)
    assert (half.vae.dtype, half.unet.dtype) == (torch.float32, torch.float16)
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(half.encode(image), opened(models, "sdxl").encode(image))
    how = Preprocessing(Size.of(64))
    assert latents_recipe(files, how, "float16") == latents_recipe(files, how, "float32")
    shutil.copytree(models / "sdxl", tmp_path / "fixed")
    config = tmp_path / "fixed/vae/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))
    assert ModelFiles("fixed", tmp_path / "fixed").latents_dtype("float16") == "float16"
    assert ModelFiles("sd1", models / "sd1").latents_dtype("float16") == "float16"


# ------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(("name", "weights"), [
    ("sd1", {"unet", "text", "tokenizer"}), ("sd2", {"unet", "text", "tokenizer"}),
    ("sdxl", {"unet", "text", "tokenizer", "text_2", "tokenizer_2"}), ("ddpm", {"unet"})])
def test_a_recipe_has_the_digests_of_its_kind(name: str, weights: set[str], home: Roots,
                                              manifest: WriteManifest) -> None:
    conv = {"a": {} if name == "ddpm" else {"prompt": ""}}
    loaded = manifest(**{**sections(name), "conv": conv, "attention": {}}).manifest
    (found,) = plan_combos(loaded, ModelFiles(name, home.models / name), home)
    assert found.recipe["weights"].keys() == weights


@pytest.mark.parametrize("file", ["text_encoder_2/model.safetensors", "tokenizer_2/pad"])
def test_the_second_encoder_decides_too(file: str, home: Roots, tmp_path: Path,
                                        manifest: WriteManifest) -> None:
    loaded = manifest(**{**sections("sdxl"), "attention": {}, "conv": {"a": {"prompt": "a"}}})
    shutil.copytree(home.models / "sdxl", tmp_path / "other")
    path = tmp_path / "other" / file
    if path.name == "pad":
        (path.parent / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    else:
        state = load_file(path)
        save_file({k: v + 1 for k, v in state.items()}, path)
    prints = [fingerprint(plan_combos(loaded.manifest, ModelFiles("m", folder), home)[0].recipe)
              for folder in (home.models / "sdxl", tmp_path / "other")]
    assert prints[0] != prints[1]


def test_tokenizers_that_split_differently_are_refused(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sdxl", tmp_path / "other")
    path = tmp_path / "other/tokenizer_2/tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match="tokenizers split prompts differently"):
        _ = ModelFiles("other", tmp_path / "other").weights


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("combo", "section", "says"), [
    ({}, "attention", "attention.a: this model takes no text"),
    ({"prompt": "x"}, "conv", "conv.a.prompt: this model takes no text; leave the prompt out"),
    ({"controlnet": {"source": "sd1-net"}}, "conv", "conv.a.controlnet: this model is an uncond"),
    ({"lora": {"source": "sd1-lora.safetensors"}}, "conv", "conv.a.lora: this model is an unc"),
    ({"ip_adapter": {"source": "x", "image_encoder": "y"}}, "conv", "conv.a.ip_adapter: this"),
    ({"denoise": STEPS, "guidance": {"scale": 2.0}}, "conv", "conv.a.guidance: this model is")])
def test_a_ddpm_refuses_what_needs_text(home: Roots, manifest: WriteManifest, says: str,
                                        combo: dict[str, Any], section: str) -> None:
    named = {"conv": {}, "attention": {}, section: {"a": combo}}
    loaded = manifest(dataset=DATA, model={"source": "ddpm", "size": 32}, **named)
    with pytest.raises(ManifestError) as caught:
        plan(Workspace(loaded, home))
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_a_text_model_needs_a_prompt_be_it_empty(home: Roots, manifest: WriteManifest) -> None:
    loaded = manifest(dataset=DATA, conv={"a": {"t": 20}, "b": {"prompt": ""}},
                      attention={"c": {"t": 10}})
    with pytest.raises(ManifestError) as caught:
        validate(Workspace(loaded, home))
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "conv.a.prompt", "attention.c.prompt"]


@pytest.mark.parametrize(("name", "field", "value", "says"), [
    ("sd2", "in_channels", 9, "made for inpainting, depth or upscaling"),
    ("sd2", "num_class_embeds", 1000, "wants a class label"),
    ("sd2", "addition_embed_type", "image", "not the UNet of a Stable Diffusion"),
    ("sd2", "_class_name", "UNet3DConditionModel", "not the UNet of a Stable Diffusion"),
    ("ddpm", "in_channels", 1, "takes 1 channels, not RGB images"),
    ("ddpm", "num_class_embeds", 10, "wants a class label"),
    ("ddpm", "time_embedding_type", "fourier", "score-based UNet")])
def test_other_unets_are_refused(models: Path, tmp_path: Path, name: str, field: str, value: Any,
                                 says: str) -> None:
    shutil.copytree(models / name, tmp_path / "other")
    path = tmp_path / "other/unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ModelError, match=says) as caught:
        _ = ModelFiles("other", tmp_path / "other").family
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "says"), [
    ({"beta_schedule": None}, "has no betas"),
    ({"beta_schedule": "sigmoid"}, "a schedule that is not read"),
    ({"beta_start": 0.02, "beta_end": 0.0001}, "beta_end: 0.0001, so noise does not grow"),
    ({"prediction_type": "flow"}, "predicts 'flow'; known are epsilon, v_prediction, sample")])
def test_other_schedules_are_refused(models: Path, tmp_path: Path, change: dict[str, Any],
                                     says: str) -> None:
    shutil.copytree(models / "ddpm", tmp_path / "other")
    path = tmp_path / "other/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=says):
        opened(tmp_path, "other")


@pytest.mark.parametrize("lora", ["sd2-lora.safetensors", "sd1-lora.safetensors"])
def test_a_lora_of_another_kind_is_refused(home: Roots, manifest: WriteManifest,
                                           lora: str) -> None:
    conv = {"a": {"prompt": "x", "lora": {"source": lora}}}
    loaded = manifest(**{**sections("sdxl"), "conv": conv, "attention": {}})
    with pytest.raises(ModelError, match=lora):
        extract(Workspace(loaded, home, "cpu"))


@pytest.mark.parametrize("name", ["sdxl", "ddpm"])
def test_training_a_lora_is_for_other_kinds(home: Roots, manifest: WriteManifest,
                                            name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name}: .*for Stable Diffusion 1.x and 2.x only"):
        train_lora(Workspace(manifest(**sections(name)), home, "cpu"), LoraSettings(),
                   LoraOutput(1), images=2)


def test_a_controlnet_of_another_kind_is_refused(home: Roots, manifest: WriteManifest) -> None:
    conv = {"a": {"prompt": "x", "controlnet": {"source": "sd2-net"}}}
    loaded = manifest(**{**sections("sdxl"), "conv": conv, "attention": {}})
    with pytest.raises(ModelError, match="this ControlNet is for another model"):
        extract(Workspace(loaded, home, "cpu"))


def test_the_time_ids_are_the_inputs_size(models: Path) -> None:
    model = opened(models, "sdxl")
    seen: list[Call] = []
    model.predict(torch.randn(2, 4, 16, 24), 50, Text.joined([model.embed("a")] * 2),
                  lambda call: seen.append(call) or {})
    assert seen[0].text.added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
    assert sdxl_unet().config.addition_embed_type == "text_time"
