"""The GATE guideline: Img2Img as diffusers does it, judged against its input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import WriteManifest
from PIL import Image
from small_models import write_ddpm

from gate_cache.analysis.guideline import Guideline, Img2Img, distinct, guideline
from gate_cache.analysis.score import Selection
from gate_cache.cli import main
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.passes.noise import noise
from gate_cache.learn.metrics.image_similarity import edge_f1, psnr, ssim
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Combo
from gate_cache.report.figures.content_shift import page
from gate_cache.workspace.workspace import Workspace

Toy = tuple[Loaded, Roots, Path]
IMAGE = "train/bird/00001"


def run(toy: Toy, how: Img2Img, combos: list[str], loaded: Loaded | None = None) -> Guideline:
    return guideline(Workspace(loaded or toy[0], toy[1], "cpu"), how,
                     Selection(combos=combos, images=[IMAGE]))


# ------------------------------------------------------------------------------------ similarity


def picture(seed: int = 0, side: int = 32) -> torch.Tensor:
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return torch.from_numpy(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))


def test_equal_pictures_are_as_like_as_can_be() -> None:
    a = picture()
    edges = torch.from_numpy(cv2.Canny(a.numpy(), 50, 100))
    assert ssim(a, a) == pytest.approx(1) and psnr(a, a) == np.inf
    assert edges.any() and edge_f1(edges, edges) == 1


def test_psnr_is_of_the_mean_squared_error() -> None:
    a = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert psnr(a, a + 51) == pytest.approx(20 * np.log10(5))


def test_ssim_is_that_of_its_authors_formula() -> None:
    """One window's worth of picture, with the sums written out."""
    a, b = (picture(s, 11) for s in (0, 1))
    x, y = (p.double() @ torch.tensor([0.299, 0.587, 0.114]).double() for p in (a, b))
    one = cv2.getGaussianKernel(11, 1.5)
    w = torch.from_numpy(one @ one.T)
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
    both = (w * (x - mx) * (y - my)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(a, b) == pytest.approx(float(expected))


def test_ssim_falls_with_noise_and_takes_small_pictures() -> None:
    a = picture()
    generator = torch.Generator().manual_seed(0)
    noised = [(a.float() + s * torch.randn(a.shape, generator=generator)).clamp(0, 255).byte()
              for s in (5, 20, 80)]
    found = [ssim(a, b) for b in noised]
    assert found == sorted(found, reverse=True) and found[0] > 0.9 > 0.5 > found[-1]
    assert ssim(a[:4, :9], a[:4, :9]) == pytest.approx(1)


def test_edges_count_within_a_pixel() -> None:
    a = torch.zeros(9, 9)
    a[:, 4] = 255
    near, far = a.roll(1, 1), a.roll(2, 1)
    assert (edge_f1(a, near), edge_f1(a, far)) == (1, 0)
    assert edge_f1(a, near + far) == pytest.approx(2 * 0.5 / 1.5)
    assert (edge_f1(a, a * 0), edge_f1(a * 0, a * 0)) == (0, 1)


# --------------------------------------------------------------------------------------- Img2Img


@torch.inference_mode()
def diffusers_img2img(image: np.ndarray, prompt: str, start: int, step: int) -> np.ndarray:
    """The embedded model run by diffusers' own pipeline parts and its DDIM scheduler."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(HOME, dtype=torch.float32)
    scheduler: Any = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(1000 // step)
    text, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    scale = pipe.vae.config.scaling_factor
    latents = pipe.vae.encode(pixels).latent_dist.mode() * scale
    eps = noise(0, IMAGE, latents.shape[1:])[None]
    x = scheduler.add_noise(latents, eps, torch.tensor([start]))
    for t in range(start, 0, -step):
        x = scheduler.step(pipe.unet(x, t, encoder_hidden_states=text).sample, t, x).prev_sample
    made = pipe.vae.decode(x / scale).sample[0].permute(1, 2, 0)
    return np.asarray(((made + 1) * 127.5).round().clamp(0, 255).byte())


def test_it_is_diffusers_img2img(toy: Toy) -> None:
    found = run(toy, Img2Img(0.7, 7, 1), ["plain"])
    assert (found.start, found.steps) == (700, 7)
    prompt = toy[0].manifest.conv["plain"].prompt
    image = found.inputs[IMAGE]
    for row, words in zip(found.rows, ("a photo", prompt), strict=True):
        expected = diffusers_img2img(image, words, 700, 100)
        apart = np.abs(row.pictures[IMAGE].astype(int) - expected)
        assert apart.max() <= 2 and apart.mean() < 0.1


def test_less_strength_is_closer(toy: Toy) -> None:
    weak, strong = (run(toy, Img2Img(s, 3, 2), ["plain"]).rows[0].mean for s in (0.1, 0.9))
    assert all(weak[m].mean > strong[m].mean for m in ("SSIM", "edges", "PSNR"))


def test_gains_are_against_the_same_noise(toy: Toy, manifest: WriteManifest) -> None:
    loaded = manifest(conv={"same": {"prompt": "a photo", "t": 10}}, attention={})
    found = run(toy, Img2Img(0.5, 2, 2), [], loaded)
    reference, same = found.rows
    assert np.array_equal(reference.pictures[IMAGE], same.pictures[IMAGE])
    assert same.gain is not None and same.gain["SSIM"].mean == 0 and same.closer == 0
    assert same.values["SSIM"].shape == (1, 2) and np.ptp(same.values["SSIM"]) > 0


def test_guidance_steers_the_steps(toy: Toy, manifest: WriteManifest) -> None:
    guided = {"prompt": "a horse", "denoise": {"from": 60}, "guidance": {"scale": 6.0}}
    loaded = manifest(conv={"without": {"prompt": "a horse"}, "guided": guided}, attention={})
    _, without, with_it = run(toy, Img2Img(0.7, 3, 1), [], loaded).rows
    assert with_it.techniques == "guidance 6"
    assert not np.array_equal(without.pictures[IMAGE], with_it.pictures[IMAGE])


def test_techniques_change_the_result_and_the_bound_is_the_autoencoders(toy: Toy) -> None:
    found = run(toy, Img2Img(0.6, 3, 1), ["lora", "control", "attn"])
    pictures = [r.pictures[IMAGE].tobytes() for r in found.rows]
    assert len(set(pictures)) == 4
    assert found.bound["SSIM"].mean > max(r.mean["SSIM"].mean for r in found.rows)
    height, width = page(found).shape[:2]
    assert width > 5 * 128 and height > 128


def test_combos_that_differ_in_seed_alone_are_one_technique() -> None:
    combos = {"a": Combo(prompt="p"), "b": Combo(prompt="p", seed=1, t=100, maps=["up1"]),
              "c": Combo(prompt="q")}
    assert list(distinct(combos)) == ["a", "c"]


# --------------------------------------------------------------------------------------- command


def command(monkeypatch: pytest.MonkeyPatch, roots: Roots, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["gate-cache", "guideline", *map(str, words), "--stores",
                                     str(roots.stores), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.long
def test_the_command(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    asked = [toy[0].path, "--combo", "control", "--images", 2, "--steps", 2, "--seeds", 1,
             "--out", tmp_path]
    assert command(monkeypatch, toy[1], *asked) == 0
    said = capsys.readouterr().out
    assert "ControlNet 1" in said and "autoencoder" in said
    with Image.open(tmp_path / "toy-guideline.png") as drawn:
        assert drawn.height > 2 * 128
    assert command(monkeypatch, toy[1], *asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in found["rows"]] == ["reference", "control"]
    ids = [s.id for s in Workspace(toy[0], toy[1]).dataset().samples()]
    assert len(found["images"]) == 2 and set(found["images"]) <= set(ids)


@pytest.mark.parametrize("more, said", [
    (["--combo", "plan"], "has no combo 'plan'"),
    (["--image", "zebra"], "'zebra' is not an image of its data set"),
    (["--strength", 0.01, "--steps", 20], "more than the 10 timesteps of --strength 0.01"),
])
def test_bad_input_is_a_line(more: list[object], said: str, toy: Toy,
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, toy[1], toy[0].path, *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_model_without_techniques_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    write_ddpm(tmp_path / "models" / "ddpm")
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({
        "dataset": {"name": "toyworld", "train": 2, "val": 0, "test": 0},
        "model": {"source": "ddpm"}, "conv": {"a": {"t": 50}}}))
    roots = Roots(models=tmp_path / "models", stores=tmp_path)
    assert command(monkeypatch, roots, path, "--models", roots.models) == 2
    assert "a model without text input takes no techniques" in capsys.readouterr().err
