"""The embedded families as they are shipped: diffusers reads them, and they know their worlds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors import safe_open

from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import CONTROLNETS, HOMES, LORAS, PHOTOS
from gate_cache.diffusion.passes.noise import noise
from gate_cache.diffusion.techniques.controlnet import canny
from gate_cache.extraction.extract import extract
from gate_cache.store.reader import FeatureStore
from gate_cache.toyworld import CATEGORIES, Scene, draw
from gate_cache.toyworld.render import dusk
from gate_cache.workspace.workspace import Workspace
from pipelines.tiny import export
from pipelines.tiny.photo_family import sketch

COUNT = 64


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=HOMES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return StableDiffusionPipeline.from_pretrained(HOMES[family])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Pictures of the test split: the model was not trained on them."""
    return [draw("test", i) for i in range(COUNT)]


def pixels(images: list[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def latents(pipe: Any, images: list[Any]) -> torch.Tensor:
    return pipe.vae.encode(pixels(images)).latent_dist.mode() * pipe.vae.config.scaling_factor


def losses(pipe: Any, x0: torch.Tensor, captions: list[str], t: int,
           net: tuple[Any, torch.Tensor] | None = None) -> torch.Tensor:
    """(N,) denoising losses, the noise always the same."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
    x = pipe.scheduler.add_noise(x0, noise, torch.full((len(x0),), t))
    ids = pipe.tokenizer(captions, padding="max_length", max_length=77,
                         return_tensors="pt").input_ids
    states = pipe.text_encoder(ids)[0]
    extra = {}
    if net:
        down, mid = net[0](x, t, states, controlnet_cond=net[1], return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    predicted = pipe.unet(x, t, states, **extra).sample
    return (predicted - noise).square().mean((1, 2, 3))


def z_score(gain: torch.Tensor) -> float:
    """How many standard errors a mean of paired differences is above zero."""
    return float(gain.mean() / (gain.std() / len(gain) ** 0.5))


def test_all_weights_are_half_precision_safetensors_and_small(family: str) -> None:
    home = HOMES[family]
    weights = sorted(home.rglob("*.safetensors"))
    assert {p.relative_to(home).parts[0] for p in weights} == {
        "unet", "vae", "text_encoder", "controlnet", "loras"}
    for path in weights:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(k).get_dtype() for k in file.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
    assert sum(p.stat().st_size for p in home.rglob("*") if p.is_file()) <= 25e6
    assert not [p for p in home.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_no_file_says_where_it_was_made(family: str) -> None:
    for path in (p for p in HOMES[family].rglob("*") if p.suffix in {".json", ".md", ".txt"}):
        assert not re.search(r'[" (](/|~|[A-Z]:)[\\/]?\w', path.read_text(encoding="utf-8")), path


def test_an_exported_module_does_not_say_where_it_was_loaded(pipe: Any, tmp_path: Path) -> None:
    assert Path(pipe.unet.config["_name_or_path"]).is_absolute()
    export.save(pipe.unet, tmp_path / "unet")
    assert "_name_or_path" not in (tmp_path / "unet" / "config.json").read_text()


def test_the_unet_is_built_like_stable_diffusion_1_5(pipe: Any) -> None:
    ups = [type(block).__name__ for block in pipe.unet.up_blocks]
    assert ups == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3


def test_a_plain_pipeline_draws_a_picture(pipe: Any) -> None:
    made = pipe("a photo of a horse, high quality", height=64, width=64, num_inference_steps=4,
                generator=torch.Generator().manual_seed(0), output_type="np").images
    assert made.shape == (1, 64, 64, 3) and made.std() > 0.05


@pytest.mark.mostly_long("tiny")
def test_the_autoencoder_reconstructs_unseen_pictures(pipe: Any, scenes: list[Scene]) -> None:
    x = pixels([s.image for s in scenes])
    y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (x - y).square().mean((1, 2, 3)))
    assert psnr.mean() > 25


def test_latents_have_about_unit_variance(pipe: Any, scenes: list[Scene]) -> None:
    assert 0.8 < latents(pipe, [s.image for s in scenes]).std() < 1.25


@pytest.mark.mostly_long("tiny-200")
@pytest.mark.parametrize("t", [200, 500, 800])
def test_the_right_caption_helps(pipe: Any, scenes: list[Scene], t: int) -> None:
    x0, captions = latents(pipe, [s.image for s in scenes]), [s.caption for s in scenes]
    wrong = losses(pipe, x0, captions[3:] + captions[:3], t)
    assert z_score(wrong - losses(pipe, x0, captions, t)) > 3


@pytest.mark.long
def test_edges_help_the_controlnet(family: str, pipe: Any, scenes: list[Scene]) -> None:
    images = [s.image for s in scenes]
    edges = torch.from_numpy(canny(np.stack(images), 100, 200)).float()[:, None] / 255
    net = ControlNetModel.from_pretrained(CONTROLNETS[family])
    x0, captions = latents(pipe, images), ["a photo"] * COUNT
    found = losses(pipe, x0, captions, 600, (net, edges.expand(-1, 3, -1, -1)))
    assert z_score(losses(pipe, x0, captions, 600) - found) > 5


@pytest.mark.long
def test_loras_know_their_style(family: str, pipe: Any, scenes: list[Scene]) -> None:
    for name, file in LORAS.items():
        if not name.startswith(f"{family}/"):
            continue
        style = sketch if name == f"{PHOTOS}/sketch" else dusk
        x0, captions = latents(pipe, [style(s.image) for s in scenes]), ["a photo"] * COUNT
        plain = losses(pipe, x0, captions, 600)
        pipe.load_lora_weights(file.parent, weight_name=file.name)
        try:
            assert z_score(plain - losses(pipe, x0, captions, 600)) > 3, name
        finally:
            pipe.unload_lora_weights()
        assert torch.equal(losses(pipe, x0, captions, 600), plain)


def test_stored_maps_are_those_of_diffusers_own_loaders(family: str, tmp_path: Path) -> None:
    """Of each technique that the family comes with, strengths included."""
    style = next(name for name in LORAS if name.startswith(f"{family}/"))
    plain = {"prompt": "a photo", "t": 50}
    loaded = write(tmp_path / "toy.yaml", model={"source": family}, attention={}, dataset={
        "name": "toyworld", "train": 0, "val": 0, "test": 2}, conv={
        "plain": plain, "lora": {**plain, "lora": {"source": style, "scale": 0.7}},
        "control": {**plain, "controlnet": {"source": family, "scale": 0.5}}})
    roots = Roots(*(tmp_path / name for name in ("data", "models", "stores", "runs")))
    store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    images = [draw("test", i).image for i in range(2)]
    pipe = StableDiffusionPipeline.from_pretrained(HOMES[family])
    x0 = latents(pipe, images)
    eps = torch.stack([noise(0, i, x0.shape[1:]) for i in store.samples.ids])
    x = pipe.scheduler.add_noise(x0, eps, torch.full((2,), 50))
    ids = pipe.tokenizer("a photo", padding="max_length", return_tensors="pt").input_ids
    states = pipe.text_encoder(ids)[0].expand(2, -1, -1)
    seen: dict[str, torch.Tensor] = {}
    for i, block in enumerate(pipe.unet.up_blocks):
        block.register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"up{i}": out}))

    def assert_stored(combo: str, **more: Any) -> None:
        pipe.unet(x, 50, states, **more)
        for name, value in seen.items():
            found = store[combo][name][:].astype(np.float32)
            np.testing.assert_allclose(found, value, 2e-3, 3e-3, err_msg=f"{combo} {name}")

    assert_stored("plain")
    edges = torch.from_numpy(canny(np.stack(images), 100, 200)).float()[:, None] / 255
    down, mid = ControlNetModel.from_pretrained(CONTROLNETS[family])(
        x, 50, states, edges.expand(-1, 3, -1, -1), conditioning_scale=0.5, return_dict=False)
    assert_stored("control", down_block_additional_residuals=down,
                  mid_block_additional_residual=mid)
    pipe.load_lora_weights(LORAS[style].parent, weight_name=LORAS[style].name, adapter_name="one")
    pipe.set_adapters("one", 0.7)
    assert_stored("lora")


def test_the_words_of_the_world_are_one_token_each(pipe: Any) -> None:
    for word in (*CATEGORIES, "photo", "quality", "masterpiece"):
        assert len(pipe.tokenizer(word).input_ids) == 3, word
