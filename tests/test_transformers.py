"""Diffusion transformers: what is read is what unmodified pipelines compute, of random weights."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import WriteManifest
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from small_transformers import WRITERS, write_transformer

from gate_cache.analysis.activations import activations
from gate_cache.core.errors import ModelError, UserError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files.locate import assumed
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Text
from gate_cache.diffusion.models.loading import faster, load
from gate_cache.diffusion.models.published import published
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.reads import without_massive
from gate_cache.diffusion.passes.recipes import combo_maps, plan_combos
from gate_cache.diffusion.techniques.denoise import ddim
from gate_cache.extraction.extract import extract
from gate_cache.extraction.layers import layers
from gate_cache.extraction.plan import plan
from gate_cache.manifest.load import load as load_manifest
from gate_cache.manifest.specs import ModelSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.text.template import INSTRUCTION
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

PROTOCOLS = sorted((Path(__file__).parents[1] / "manifests/protocols").glob("*.yaml"))
CPU, PROMPT = torch.device("cpu"), "a red horse"
TOKENS = {"alpha": 120, "sigma": 300, "sd3": 333, "flux": 512, "schnell": 256, "lumina": 256,
          "sana": 300, "qwen": 512, "z-image": 512}
SIDE = 8
"""Of the latents, so that an image is 4×4 tokens, or 8×8 of Sana's."""
FOLDED = ("flux", "schnell", "qwen")
"""Whose pipelines have 2×2 cells of a latent as channels of a token."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("transformers")
    for name in WRITERS:
        write_transformer(name, home / name)
    return home


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def opened(models: Path, name: str) -> Any:
    return load(ModelFiles(name, models / name), CPU, torch.float32)


class Seen:
    """What an unmodified transformer was given and computed in one pass of its pipeline."""

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.outputs: dict[str, Any] = {}
        self.inputs: dict[str, torch.Tensor] = {}
        self.attended: list[tuple[torch.Tensor, torch.Tensor, Any]] = []
        self.words = 0
        """Tokens of the text, where there are not always as many."""

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """By plain hooks; and by torch's attention, whose queries and keys are noted."""
        real = torch.nn.functional.scaled_dot_product_attention
        inside = [False]

        def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, **more: Any) -> Any:
            if inside[0]:
                self.attended.append((query, key, attn_mask))
            return real(query, key, value, attn_mask=attn_mask, **more)

        def keep(name: str) -> Any:
            def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
                first = args[0] if args else kwargs.get("hidden_states")
                if isinstance(first, torch.Tensor):
                    self.inputs[name] = first
                self.outputs[name] = output
            return hook

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        before = self.transformer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
        hooks = [before, *(m.register_forward_hook(keep(n), with_kwargs=True)
                           for n, m in self.transformer.named_modules())]
        yield
        for hook in hooks:
            hook.remove()
        monkeypatch.undo()


def pipeline_of(models: Path, name: str) -> Any:
    index = json.loads((models / name / "model_index.json").read_text())
    pipe = getattr(diffusers, index["_class_name"]).from_pretrained(models / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def one_step(pipe: Any, name: str, x: torch.Tensor, **more: Any) -> tuple[Any, int]:
    """Run a whole pipeline for one step from x, without guidance; the transformer's t, of ours."""
    more |= {"flux": {"guidance_scale": 3.5}, "schnell": {"guidance_scale": 3.5},
             "qwen": {"true_cfg_scale": 1.0}, "z-image": {"guidance_scale": 0.0}}.get(
        name, {"guidance_scale": 1.0})
    if name in ("alpha", "sigma", "sana"):
        more |= {"use_resolution_binning": False, "clean_caption": False}
    latents = pipe._pack_latents(x, *x.shape) if name in FOLDED else x
    side = 2 * SIDE
    if name == "sana":  # whose pipeline takes multiples of 32 pixels alone
        pipe.check_inputs = lambda *_args: None
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)  # DPM's rounds its times
    if name == "schnell":  # which was trained with shorter texts than its pipeline's default
        more["max_sequence_length"] = 256
    pipe(PROMPT, num_inference_steps=1, height=side, width=side, latents=latents,
         output_type="latent", **more)
    return pipe, 0 if name in ("alpha", "sigma") else 999  # DDIM's only step; σ = 1


def expected_map(name: str, seen: Seen) -> torch.Tensor:
    """A map by the documented grammar alone, from what plain hooks have seen."""
    blocks, number, what, *rest = name.split(".")
    path = f"{'single_' if blocks == 'single' else ''}transformer_blocks.{number}"
    path = path if path in seen.outputs else f"layers.{number}"  # of Lumina 2 and Z-Image
    own = next(n for n in ("attn1", "attention", "attn") if f"{path}.{n}" in seen.outputs)
    if rest and rest[0] in "qkv":
        tokens = seen.outputs[f"{path}.{own}.to_{rest[0]}"]
    elif rest == ["modulated"]:
        after = f"{path.rsplit('.', 1)[0]}.{int(number) + 1}"
        if f"{after}" not in seen.outputs:
            after = "single_transformer_blocks.0"
        tokens = seen.inputs[f"{after}.{own}"]
    else:
        output = seen.outputs[path]
        tokens = output[1] if isinstance(output, tuple) else output
    side = side_of(seen)
    before = -(-side**2 // 32) * 32 if own == "attention" else -side**2  # Z-Image's comes first
    tokens = tokens[:, :side**2] if before > 0 else tokens[:, before:]  # behind FLUX's text
    assert what == "img"
    return tokens.mT.reshape(len(tokens), -1, side, side)


def side_of(seen: Seen) -> int:
    """Cells of a map: a token is 2×2 of the latent's, or one of Sana's."""
    return SIDE // (1 if hasattr(seen.transformer, "patch_embed") and
                    seen.transformer.config.patch_size == 1 else 2)


def expected_attention(seen: Seen, name: str, family: str) -> torch.Tensor:
    """Softmax of the queries and keys that torch was given: the text's columns, the image's rows.

    SD3 has the image's tokens first in its sequence, FLUX the text's; PixArt the text's alone.
    """
    count, side = TOKENS[family], side_of(seen)
    cells = side**2
    if family in ("lumina", "qwen", "z-image"):  # whose texts are as long as they are
        query, key, _ = seen.attended[int(name.split(".")[1]) - 3]  # the last three
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)
        begin, words = -(-cells // 32) * 32, seen.words
        weights = weights[:, :cells, begin : begin + words] if family == "z-image" else \
            weights[:, -cells:, :-cells]
        assert weights.shape[-1] == words
        weights = torch.nn.functional.pad(weights, (0, count - words))
        return weights.mT.reshape(len(weights), count, side, side)
    joint = [(q, k, m) for q, k, m in seen.attended
             if k.shape[2] == (count if family in ("alpha", "sigma", "sana") else count + cells)]
    blocks, number, _ = name.split(".")
    query, key, mask = joint[int(number) + (2 if blocks == "single" else 0)]
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weights = (scores if mask is None else scores + mask).softmax(-1).mean(1)
    if family == "sd3":
        weights = weights[:, :cells, cells:]
    elif family in ("flux", "schnell"):
        weights = weights[:, count:, :count]
    return weights.mT.reshape(len(weights), count, side, side)


@pytest.mark.parametrize("name", WRITERS)
def test_every_map_is_that_of_the_pipelines_own_modules(
        models: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, model = pipeline_of(models, name), opened(models, name)
    family = ModelFiles(name, models / name).family
    x = torch.randn(1, family.latent_channels, SIDE, SIDE)
    seen = Seen(pipe.transformer)
    seen.words = sum(word != "<pad>" for word in model.tokens.encode(PROMPT).words)
    with seen.watching(monkeypatch):
        _, t = one_step(pipe, name, x)
    specs, text = [*family.maps, *family.more], model.embed(PROMPT)
    plain = model.predict(x, t, text)
    with tapped(model.unet, specs) as taps:
        assert torch.equal(model.predict(x, t, text), plain)
        found = taps.take()
    torch.testing.assert_close(model.unet.state_dict(), pipe.transformer.state_dict())
    output = seen.outputs[""][0]
    if name in FOLDED:
        output = pipe._unpack_latents(output, SIDE, SIDE, 1).reshape(x.shape)
    output = output[0][None, :, 0] if name == "z-image" else output
    if name in ("lumina", "z-image"):  # which predict the other way round
        output = -output
    torch.testing.assert_close(plain, output[:, :family.latent_channels], rtol=1e-4, atol=1e-5)
    for spec in specs:
        assert tuple(found[spec.name].shape[1:]) == spec.shape(2 * SIDE, TOKENS[name])
        wanted = expected_attention(seen, spec.name, name) if spec.kind == "attention" else \
            expected_map(spec.name, seen)
        torch.testing.assert_close(found[spec.name], wanted, rtol=1e-4, atol=1e-5, msg=spec.name)


@pytest.mark.parametrize("name", ["lumina", "qwen", "z-image"])
def test_texts_of_several_lengths_in_a_pass(models: Path, name: str) -> None:
    """Whose images lie at other places of the sequences, and are not attended from padding."""
    model, family = opened(models, name), ModelFiles(name, models / name).family
    x, specs = torch.randn(2, 16, SIDE, SIDE), [*family.maps, *family.more]
    texts = [model.embed(prompt) for prompt in ("a", "a red horse of another colour")]
    with tapped(model.unet, specs) as taps:
        model.predict(x, 300, Text.joined(texts))
        both = taps.take()
        for i, text in enumerate(texts):
            model.predict(x[i : i + 1], 300, text)
            for name, alone in taps.take().items():
                torch.testing.assert_close(both[name][i : i + 1], alone, rtol=1e-3, atol=1e-4)
    assert all(float(v.sum(1).max()) <= 1 for k, v in both.items() if k.endswith(".text"))


@pytest.mark.parametrize("name", ["lumina", "qwen", "z-image"])
def test_a_row_does_not_depend_on_other_combos_texts(
        models: Path, manifest: WriteManifest, roots: Roots, name: str) -> None:
    """To the bit: texts of several lengths, which round differently, fill batches of their own."""
    roots, found = Roots(roots.data, models, roots.stores, roots.runs), []
    combos = {"x": {"prompt": "a"}, "y": {"prompt": "a red horse of another colour in the light"}}
    for conv in (combos, {"x": combos["x"]}):
        loaded = manifest(dataset={"name": "toyworld", "train": 1, "val": 1, "test": 1},
                          model={"source": name, "size": 32}, conv=conv, attention={}, train={},
                          store={"path": f"{len(conv)}.zarr", "batch": 4})
        store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
        found.append(store["x"]["transformer.1.img.modulated"][:])
    np.testing.assert_array_equal(*found)
    tokens = ModelFiles(name, models / name).tokens
    assert tokens.seen(PROMPT) < tokens.count(PROMPT) == TOKENS[name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_combo_has_the_maps_of_the_middle_block_by_default(models: Path, name: str) -> None:
    family = ModelFiles(name, models / name).family
    middle = "single.0" if name in ("flux", "schnell") else "transformer.1"
    assert [m.name for m in family.select("conv", None)] == [f"{middle}.img.modulated"]
    assert [m.name for m in family.select("attention", None)] == [f"{middle}.text"]


@pytest.mark.parametrize("name", WRITERS)
def test_half_precision_changes_maps_by_its_rounding_alone(models: Path, name: str) -> None:
    """T5's widest layers, and the autoencoder, stay in float32."""
    family, found = ModelFiles(name, models / name).family, []
    x = torch.randn(1, family.latent_channels, SIDE, SIDE)
    for dtype in (torch.float32, torch.float16):
        model: Any = load(ModelFiles(name, models / name), CPU, dtype)
        with tapped(model.unet, [*family.maps, *family.more]) as taps:
            model.predict(x, 50, model.embed(PROMPT))
            found.append(taps.take())
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    for key, value in found[0].items():
        assert float((found[1][key].float() - value).norm() / value.norm()) < 0.01, key


def test_channels_that_are_massive_in_the_raw_tokens_are_zeroed_image_by_image() -> None:
    raw, values = torch.ones(2, 4, 5), torch.arange(40.0).view(2, 4, 5) + 1
    raw[0, :, 2] = -51  # 51 times the median
    raw[1, :, 2] = 49
    expected = values.clone()
    expected[0, :, 2] = 0
    assert torch.equal(without_massive(values, raw), expected)


def test_sanas_noise_is_that_of_its_solver(models: Path) -> None:
    """Whose 999 steps are at s = 0.999 … 0.001."""
    scheduler = DPMSolverMultistepScheduler.from_pretrained(models / "sana/scheduler")
    scheduler.set_timesteps(999)
    torch.testing.assert_close(scheduler.sigmas[:-1].flip(0), opened(models, "sana").sigmas[:999])


def test_another_chat_template_is_refused(models: Path) -> None:
    model = opened(models, "z-image")
    model.tokenizers["tokenizer"].chat_template = "{{ messages[0].content }}"
    with pytest.raises(ModelError, match=r"^prompt 'a red horse': its pipeline makes 13 tokens"):
        model.embed(PROMPT)


@pytest.mark.parametrize("name", ["sd3", "flux", "schnell", "lumina", "z-image"])
def test_noise_is_the_schedulers_own(models: Path, name: str) -> None:
    """SD 3: σ = 3s / (1 + 2s); FLUX dev's shift depends on sampling, so there is none."""
    model = opened(models, name)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(models / name / "scheduler")
    x0, eps = torch.randn(2, 16, SIDE, SIDE), torch.randn(2, 16, SIDE, SIDE)
    for t in (0, 260, 999):
        time = scheduler.timesteps[999 - t]
        expected = scheduler.scale_noise(x0, time[None], eps)
        torch.testing.assert_close(model.noised(x0, eps, t), expected)
        s = (t + 1) / 1000
        sigma = s if name == "flux" else 3 * s / (1 + 2 * s)
        assert float(model.sigmas[t]) == pytest.approx(sigma, rel=1e-6)
        x, velocity = model.noised(x0, eps, t), eps - x0
        torch.testing.assert_close(model.as_clean(velocity, x, t), x0, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.as_epsilon(velocity, x, t), eps, rtol=1e-4, atol=1e-4)


def test_fluxs_time_is_rounded_as_in_its_pipeline(models: Path, manifest: WriteManifest,
                                                  roots: Roots) -> None:
    """261 is no number of bfloat16: it becomes 260, and 0.261 would become 262 thousandths."""
    model: Any = load(ModelFiles("flux", models / "flux"), CPU, torch.bfloat16)
    pipe = pipeline_of(models, "flux").to(torch.bfloat16)
    pipe.scheduler.register_to_config(use_dynamic_shifting=False)
    pipe.scheduler.set_shift(1.0)
    x, times = torch.randn(1, 16, SIDE, SIDE), []
    for transformer in (pipe.transformer, model.unet):
        transformer.register_forward_pre_hook(
            lambda _m, _a, kwargs: times.append(kwargs["timestep"]), with_kwargs=True)
    one_step(pipe, "flux", x.bfloat16(), sigmas=[0.261])
    model.predict(x, 260, model.embed(PROMPT))
    assert torch.equal(*times) and float(1000 * times[0]) == 260
    recipes = [plan_combos(manifest(model={"source": "flux", "dtype": dtype}, attention={}, conv={
        "a": {"prompt": "a"}}).manifest, ModelFiles("flux", models / "flux"), roots)[0].recipe
        for dtype in ("float32", "bfloat16")]
    assert [r.get("time") for r in recipes] == [None, "rounded"]


def test_a_denoising_step_is_eulers(models: Path) -> None:
    model = opened(models, "sd3")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(models / "sd3" / "scheduler")
    sigmas = [(t + 1) / 1000 for t in (600, 500)]
    scheduler.set_timesteps(sigmas=sigmas)
    x, text = torch.randn(1, 16, SIDE, SIDE), model.embed(PROMPT)
    velocity = model.predict(x, 600, text)
    expected = scheduler.step(velocity, scheduler.timesteps[0], x).prev_sample
    found = ddim(x, [600, 500], model.noised, lambda x, t: (
        model.as_clean(velocity, x, t), model.as_epsilon(velocity, x, t)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_latents_are_shifted_and_scaled_as_the_pipeline_does(models: Path) -> None:
    pipe, model = pipeline_of(models, "sd3"), opened(models, "sd3")
    pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    z = pipe.vae.encode(pixels.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
    torch.testing.assert_close(model.encode(pixels), (z - 0.0609) * 1.5305)


def test_the_token_table_is_that_of_the_tokenizers(models: Path) -> None:
    tokens = ModelFiles("sd3", models / "sd3").tokens
    words = tokens.encode("a cat").words
    assert len(words) == 333 == tokens.count("a cat")
    assert words[0] == "<|startoftext|>" and words[77:83] == ("▁", "a", "▁", "c", "a", "t")
    assert words[83:85] == ("</s>", "<pad>")
    for name in ("alpha", "flux"):  # PixArt's pipelines put prompts into lower case
        own = ModelFiles(name, models / name).tokens
        first = opened(models, name).tokenizers["tokenizer" if name == "alpha" else "tokenizer_2"]
        text = "A cat ".lower().strip() if name == "alpha" else "A cat "
        assert list(own.encode("A cat ").ids[0]) == first(
            text, padding="max_length", max_length=own.count("")).input_ids


def edited(models: Path, tmp_path: Path, name: str, part: str, **fields: Any) -> ModelFiles:
    """A copy of a model with other fields in a configuration."""
    folder = tmp_path / name
    shutil.copytree(models / name, folder)
    file = folder / part
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return ModelFiles(name, folder)


@pytest.mark.parametrize(("name", "part", "fields", "says"), [
    ("sd3", "scheduler/scheduler_config.json", {"use_karras_sigmas": True},
     "has use_karras_sigmas; of models of flow matching, FlowMatchEuler"),
    ("flux", "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"},
     "DDIMScheduler.* is another one"),
    ("sd3", "scheduler/scheduler_config.json", {"shift": 0}, "shift: 0, not a number above 0"),
    ("sd3", "transformer/config.json", {"num_layers": 4},
     "weights have 3 transformer_blocks, its configuration says 4"),
    ("sd3", "transformer/config.json", {"joint_attention_dim": 8},
     "joint_attention_dim: 8, but text_encoder_3 gives 88: parts of different models"),
    ("flux", "transformer/config.json", {"pooled_projection_dim": 8},
     "pooled_projection_dim: 8, but text_encoder gives 32"),
    ("flux", "transformer/config.json", {"in_channels": 384}, "takes 96 channels in patches of 2"),
    ("sd3", "transformer/config.json", {"wings": 2}, "has no 'wings'"),
    ("sigma", "text_encoder/config.json", {"model_type": "gemma"}, "a gemma as text encoder"),
    ("sana", "transformer/config.json", {"guidance_embeds": True}, r"pass \(Sana-Sprint\)"),
    ("qwen", "transformer/config.json", {"zero_cond_t": True}, r"edit \(Qwen-Image-Edit\)"),
    ("z-image", "transformer/config.json", {"all_patch_size": [4]}, "latents in other patches"),
    ("z-image", "text_encoder/config.json", {"model_type": "qwen2"},
     "a qwen2 as text encoder, which is not read here; a qwen3 is"),
    ("z-image", "transformer/config.json", {"n_layers": 4}, "have 3 layers, its conf.* says 4"),
    ("sana", "vae/config.json", {"in_channels": 6}, "asks for images that are not RGB"),
    ("sana", "scheduler/scheduler_config.json", {"use_flow_sigmas": False}, "is another one"),
    ("sd3", "transformer/config.json", {"_class_name": "DiTTransformer2DModel"},
     "nor the transformer of PixArt-Σ, PixArt-α, Stable Diffusion 3, FLUX.1"),
])
def test_what_does_not_fit_is_refused(models: Path, tmp_path: Path, name: str, part: str,
                                      fields: dict[str, Any], says: str) -> None:
    files = edited(models, tmp_path, name, part, **fields)
    with pytest.raises(ModelError, match=says) as caught:
        assert files.family
        load(files, CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_the_first_pixarts_configurations_name_another_class(models: Path, tmp_path: Path) -> None:
    files = edited(models, tmp_path, "sigma", "transformer/config.json",
                   _class_name="Transformer2DModel", num_vector_embeds=None,
                   double_self_attention=False)
    model = load(files, CPU, torch.float32)
    x = torch.randn(1, 4, SIDE, SIDE)
    same = opened(models, "sigma")
    assert torch.equal(model.predict(x, 50, model.embed("a")), same.predict(x, 50, same.embed("a")))


@pytest.mark.parametrize(("change", "says"), [
    (lambda f: (f / "tokenizer_2/tokenizer.json").unlink(), "tokenizer.json: not a tokenizer"),
    (lambda f: shutil.rmtree(f / "text_encoder_2"), "text_encoder_2"),
])
def test_a_folder_without_a_part_is_refused(models: Path, tmp_path: Path,
                                            change: Callable[..., Any], says: str) -> None:
    shutil.copytree(models / "flux", tmp_path / "flux")
    change(tmp_path / "flux")
    with pytest.raises(ModelError, match=says):
        load(ModelFiles("flux", tmp_path / "flux"), CPU, torch.float32)


def test_a_prompt_that_the_pipeline_would_cut_off_is_refused(models: Path) -> None:
    model = opened(models, "alpha")
    assert model.embed("b" * 118).states.shape == (1, 120, 24)
    with pytest.raises(ModelError, match=r"^prompt 'b+…' has 121 tokens, and this model reads 120"):
        model.embed("b" * 119)


def test_what_is_a_unets_is_refused(models: Path) -> None:
    model = opened(models, "sd3")
    with pytest.raises(ModelError, match=r"model\.compile: a transformer's maps"):
        faster(model, ModelSpec.model_validate({"source": "tiny", "compile": True}))
    with pytest.raises(ModelError, match="200 is more than the 96 pixels"):
        ModelFiles("sd3", models / "sd3").family.check_size(200, "model.size")


@pytest.mark.parametrize(("name", "technique", "says"), [
    ("sd3", {"lora": {"source": "tiny/moderate"}}, "only 0 of its .* layers fit this model"),
    ("sd3", {"controlnet": {"source": "tiny"}}, "ControlNetModel; only SD3ControlNetModel is read"),
    ("sigma", {"controlnet": {"source": "tiny"}}, "no ControlNet is read for PixArt-Σ"),
    ("qwen", {"controlnet": {"source": "tiny"}}, "no ControlNet is read for Qwen-Image"),
    ("sana", {"maps": ["transformer.1.self.map"]},
     r"this model has no map 'transformer\.1\.self\.map'.* it offers: transformer\.1\.img\.modul"),
    ("flux", {"ip_adapter": {"source": "a.safetensors", "image_encoder": "b"}},
     "ip_adapter: is for UNets, and 'flux' has a transformer; leave it out")])
def test_techniques_of_other_models_are_refused_in_a_plan(
        models: Path, manifest: WriteManifest, roots: Roots, name: str, technique: Any,
        says: str) -> None:
    roots = Roots(roots.data, models, roots.stores, roots.runs)
    loaded = manifest(model={"source": name}, attention={}, conv={
        "plain": {"prompt": "a"}, "with": {"prompt": "a", **technique}})
    with pytest.raises(UserError, match=says):
        plan(Workspace(loaded, roots, "cpu"))


@pytest.mark.long
def test_a_small_sd3_is_extracted_stored_and_trained_on(models: Path, manifest: WriteManifest,
                                                        roots: Roots) -> None:
    """Rows are maps of our own pass: the model's, at the noise that the definition says."""
    roots = Roots(roots.data, models, roots.stores, roots.runs)
    raw = {"maps": ["transformer.0.img", "transformer.1.img.modulated"]}
    loaded = manifest(
        dataset={"name": "toyworld", "train": 12, "val": 0, "test": 12},
        model={"source": "sd3", "size": 64}, store={"block": 4, "batch": 3},
        conv={"plain": {"prompt": PROMPT, "t": 260}, "raw": {"prompt": "b", "t": 260, **raw},
              "walked": {"prompt": PROMPT, "t": 260, "denoise": {"from": 400, "steps": 2}}},
        attention={"attn": {"prompt": PROMPT, "t": 260}},
        train={"head": "nn", "combos": ["plain", "walked"], "steps": 3, "batch": 2,
               "validate_steps": 3, "attention": "attn"})
    work = Workspace(loaded, roots, "cpu")
    store = FeatureStore.open(extract(work).store)
    assert store["plain"].maps == ("transformer.1.img.modulated",)
    assert store["attn"]["transformer.1.text"].shape[1:] == (333, 16, 16)
    check_row(store, opened(models, "sd3"))
    assert not np.array_equal(store["walked"]["transformer.1.img.modulated"][0],
                              store["plain"]["transformer.1.img.modulated"][0])
    with torch.enable_grad():
        run = train(work, roots.runs / "nn")
    assert len(run.scores) > 1 and all(
        value is not None for scores in run.scores.values() for value in scores.values())
    (seen,) = activations(work, combos=["plain"])
    assert list(seen.levels) == [f"transformer.{i}.img" for i in range(3)]


def check_row(store: FeatureStore, model: Backbone) -> None:
    import zarr

    from gate_cache.diffusion.passes.noise import noise

    group = zarr.open_group(store.path, mode="r")
    (name,) = [n for n in group if n.startswith("latents")]
    x0 = torch.from_numpy(np.asarray(group[f"{name}/x0"][:1]))
    eps = noise(0, store.samples[0], x0.shape[1:])[None]
    sigma = 3 * 0.261 / (1 + 2 * 0.261)
    seen: list[torch.Tensor] = []
    hook = model.unet.transformer_blocks[0].register_forward_hook(
        lambda _m, _a, out: seen.append(out[1]))
    model.predict((1 - sigma) * x0 + sigma * eps, 260, Text.joined([model.embed("b")]))
    hook.remove()
    found = store["raw"]["transformer.0.img"][0]
    np.testing.assert_allclose(found, seen[0][0].T.reshape(found.shape), rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize(("hub", "block", "width", "tokens", "largest"), [
    ("PixArt-alpha/PixArt-XL-2-1024-MS", "transformer.14", 1152, 120, None),
    ("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "transformer.14", 1152, 300, None),
    ("stabilityai/stable-diffusion-3-medium-diffusers", "transformer.12", 1536, 333, 3072),
    ("stabilityai/stable-diffusion-3.5-large", "transformer.19", 2432, 333, 3072),
    ("black-forest-labs/FLUX.1-dev", "single.9", 3072, 512, None),
    ("black-forest-labs/FLUX.1-schnell", "single.9", 3072, 256, None),
    ("Alpha-VLLM/Lumina-Image-2.0", "transformer.13", 2304, 256, 8192),
    ("Efficient-Large-Model/Sana_1600M_1024px_diffusers", "transformer.10", 2240, 300, None),
    ("Qwen/Qwen-Image", "transformer.30", 3072, 512, None),
    ("Tongyi-MAI/Z-Image-Turbo", "transformer.15", 3840, 512, 8192)])
def test_published_models_are_planned_without_their_files(
        manifest: WriteManifest, roots: Roots, hub: str, block: str, width: int, tokens: int,
        largest: int | None) -> None:
    loaded = manifest(model={"source": hub}, conv={"c": {"prompt": "a"}},
                      attention={"a": {"prompt": "a"}})
    lines = {line.name: line.shapes for line in plan(Workspace(loaded, roots, "cpu")).lines}
    sana = "Sana" in hub
    cells = 32 if sana else 64
    assert lines["c"] == {f"{block}.img.modulated": (width, cells, cells)}
    assert lines["a"] == {f"{block}.text": (tokens, cells, cells)}
    found = layers(ModelSpec.model_validate({"source": hub}), roots, every=True)
    assert (found.default_size, found.size_multiple) == (1024, 32 if sana else 16)
    assert next(m.bytes for m in found.layers if m.name == f"{block}.img") == 2 * width * cells**2
    if largest:
        with pytest.raises(ModelError, match=f"more than the {largest} pixels"):
            layers(ModelSpec.model_validate({"source": hub}), roots, size=largest + 16)


@pytest.mark.parametrize(("name", "gigabytes"), [
    ("sd-1.5", 1.7), ("sd-2.1", 1.7), ("sdxl-base", 5.1),
    ("pixart-alpha", 1.2), ("pixart-sigma", 1.2), ("sd-3", 4.2), ("sd-3.5-medium", 4.9),
    ("sd-3.5-large", 16.3), ("flux-dev", 23.8), ("flux-schnell", 23.8), ("lumina-2", 5.2),
    ("sana-1.6b", 3.2), ("sana-0.6b", 1.2), ("sana-1.5-1.6b", 3.2), ("sana-1.5-4.8b", 9.4),
    ("qwen-image", 40.9), ("z-image", 12.3), ("z-image-turbo", 12.3),
    ("ddpm-256", 0.2)])
def test_published_configurations_are_of_models_as_large_as_the_docs_say(
        name: str, gigabytes: float) -> None:
    """Parameters and buffers in bfloat16, of the classes without memory."""
    parts = published(name)
    config = parts.get("transformer") or parts["unet"]
    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(config)
    kept = [*model.parameters(), *model.buffers()]
    assert 2e-9 * sum(v.numel() for v in kept) == pytest.approx(gigabytes, abs=0.06)


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda p: p.stem)
def test_protocols_name_maps_that_their_models_have(path: Path) -> None:
    for manifest in load_manifest(path).manifest.by_model().values():
        files = assumed(manifest.model)
        assert files.sure
        found = combo_maps(manifest, files, files.kind.about_tokens)
        assert found.keys() == manifest.combos.keys()
    assert "probe   manifests" in path.read_text() or "train   manifests" in path.read_text()


@pytest.mark.parametrize("name", ["alpha", "sd3", "flux", "sana", "qwen", "z-image"])
def test_maps_of_a_wide_latent_lie_row_by_row(models: Path, name: str) -> None:
    model, family = opened(models, name), ModelFiles(name, models / name).family
    (spec,) = [m for m in (*family.maps, *family.more) if m.name == "transformer.0.img"]
    tokens: list[Any] = []
    model.unet.get_submodule(spec.modules[0]).register_forward_hook(
        lambda _module, _args, output: tokens.append(output))
    side = SIDE if name == "sana" else SIDE // 2
    x = torch.randn(1, family.latent_channels, SIDE, 2 * SIDE)
    with tapped(model.unet, [spec], 0.5) as taps:
        predicted = model.predict(x, 50, model.embed(PROMPT))
        found = taps.take()[spec.name]
    image = tokens[0][-1] if isinstance(tokens[0], tuple) else tokens[0]
    assert predicted.shape == x.shape
    assert torch.equal(found[0, :, 1, 2], image[0, 2 * side + 2])  # the second row's third cell
    assert tuple(found.shape[1:]) == spec.shape((2 * SIDE, 4 * SIDE))


def test_sana_has_the_instruction_that_its_pipeline_has() -> None:
    """It stands here too, since `plan` counts tokens without torch."""
    given = inspect.signature(diffusers.SanaPipeline.__call__).parameters
    assert "\n".join(given["complex_human_instruction"].default) == INSTRUCTION
