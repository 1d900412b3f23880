"""What the embedded model can do, on pictures it has never seen.

Everything is loaded from the exported float16 files by diffusers' own pipelines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import (
    StableDiffusionControlNetImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)

from gate_cache.diffusion.techniques.controlnet import canny
from gate_cache.toyworld import CATEGORIES
from gate_cache.toyworld.captions import with_article
from pipelines.tiny import autoencoder, controlnet, loras
from pipelines.tiny.captions import token_ids
from pipelines.tiny.classifier import recognised
from pipelines.tiny.denoiser import noised
from pipelines.tiny.loop import generator
from pipelines.tiny.pictures import Pictures, Pixels

COUNT = 2000
"""Held-out pictures of each kind."""
TIMES = (50, 150, 300, 450, 600, 750, 900)
SAMPLES, STEPS, GUIDANCE, STRENGTH = 200, 30, 7.5, 0.9


def everything(folder: Path, held_out: Mapping[str, Pictures], judge: Any) -> dict[str, Any]:
    """All figures of the model card."""
    pipe = load(folder)
    drawn = held_out["toyworld"]
    samples, asked = sampled(pipe, SAMPLES)
    found = {
        "autoencoder_psnr_db": {
            k: round(autoencoder.psnr(pipe.vae, v.pixels), 2) for k, v in held_out.items()},
        "text_effect": {k: text_effect(pipe, v.first(1000)) for k, v in held_out.items()},
        "samples": {
            "recognised": recognised(judge, samples, asked), "count": len(asked),
            "guidance": GUIDANCE, "steps": STEPS,
            "classifier_accuracy_test": recognised(judge, drawn.pixels, drawn.categories),
            "classifier_accuracy_reconstructed": recognised(
                judge, autoencoder.reconstructed(pipe.vae, drawn.pixels), drawn.categories)},
        "controlnet": controlnet_effect(pipe, folder, drawn.pixels[:200]),
        "loras": {"style": loras.STYLE, **lora_effect(pipe, folder, loras.RECIPES, {
            "own": loras.style_pictures("train", loras.COUNT),
            "held_out": loras.style_pictures("test", 300)})},
    }
    return found


def missed(figures: Mapping[str, Any]) -> list[str]:
    """What a family should show and this one does not, a line each."""
    lora = figures["loras"]
    own, other = ({n: lora[n][f"{k}_change_percent"] for n in loras.RECIPES}
                  for k in ("own", "held_out"))
    z = {k: min(row["z"] for row in rows) for k, rows in figures["text_effect"].items()}
    wanted = {
        **{f"PSNR on {k}, {found} dB, at least {autoencoder.GATES[k]}":
           found >= autoencoder.GATES[k] for k, found in figures["autoencoder_psnr_db"].items()},
        **{f"caption's effect on {k}, least z {found}, at least 3": found >= 3
           for k, found in z.items()},
        f"samples recognised, {figures['samples']['recognised']:.1%}, at least 70 %":
            figures["samples"]["recognised"] >= 0.7,
        f"ControlNet's edges, {figures['controlnet']['ratio_1px']} times, at least 1.5":
            figures["controlnet"]["ratio_1px"] >= 1.5,
        **{f"LoRA {n} on held-out pictures, {found} %, -5 % or less": found <= -5
           for n, found in other.items()},
        f"overfit ({own['overfit']} %) better than moderate ({own['moderate']} %) on its own":
            own["overfit"] < own["moderate"],
        f"overfit ({other['overfit']} %) worse than moderate ({other['moderate']} %) on others":
            other["overfit"] > other["moderate"],
    }
    return [line for line, reached in wanted.items() if not reached]


def load(folder: Path) -> Any:
    """The family as any user of diffusers loads it, in float32."""
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_controlnet(folder: Path) -> Any:
    """The family's ControlNet, in float32."""
    return ControlNetModel.from_pretrained(folder / "controlnet", dtype=torch.float32)


@torch.inference_mode()
def losses(pipe: Any, x0: torch.Tensor, captions: list[str], t: int, name: str) -> torch.Tensor:
    """(N,) denoising losses at one t; the noise depends on `name` and t alone."""
    noise = torch.randn(x0.shape, generator=generator(f"measure/{name}", t))
    found = []
    for i in range(0, len(x0), 100):
        part, eps = x0[i : i + 100], noise[i : i + 100]
        times = torch.full((len(part),), t)
        states = pipe.text_encoder(token_ids(captions[i : i + 100]))[0]
        out = pipe.unet(noised(part, eps, times), times, encoder_hidden_states=states).sample
        found.append((out - eps).square().mean((1, 2, 3)))
    return torch.cat(found)


def text_effect(pipe: Any, pictures: Pictures) -> list[dict[str, float]]:
    """Loss with each picture's caption and with another's, at each t; z is of paired differences.

    Another's caption is that of the picture three places on, which shows another category.
    """
    x0 = autoencoder.latents(pipe.vae, pictures.pixels)
    others = [*pictures.captions[3:], *pictures.captions[:3]]
    rows = []
    for t in TIMES:
        right = losses(pipe, x0, pictures.captions, t, "text")
        wrong = losses(pipe, x0, others, t, "text")
        gain = wrong - right
        z = float(gain.mean() / (gain.std() / len(gain) ** 0.5))
        rows.append({"t": t, "right": round(float(right.mean()), 5),
                     "shuffled": round(float(wrong.mean()), 5), "z": round(z, 1)})
    return rows


def prompt_of(category: str) -> str:
    """The class prompt that samples are drawn from."""
    return f"a photo of {with_article(category)}, high quality"


def sampled(pipe: Any, count: int, guidance: float = GUIDANCE) -> tuple[Pixels, list[str]]:
    """Pictures drawn from class prompts, the categories taking turns."""
    asked = [CATEGORIES[i % len(CATEGORIES)] for i in range(count)]
    found = []
    for i in range(0, count, 40):
        part = asked[i : i + 40]
        out = pipe([prompt_of(c) for c in part], height=64, width=64, num_inference_steps=STEPS,
                   guidance_scale=guidance, generator=torch.Generator().manual_seed(i),
                   output_type="np").images
        found.append((out * 255).round().astype(np.uint8))
    return np.concatenate(found), asked


def img2img(pipe: Any, pixels: Pixels, net: Any | None, prompt: str = "a photo") -> Pixels:
    """Img2Img at high strength, with or without ControlNet on the input's own edges."""
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    common = {"prompt": [prompt] * len(pixels), "strength": STRENGTH, "guidance_scale": 1.0,
              "num_inference_steps": STEPS, "output_type": "np",
              "image": (autoencoder.scaled(pixels) + 1) / 2,
              "generator": torch.Generator().manual_seed(0)}
    if net is None:
        run: Any = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        extra = {}
    else:
        run = StableDiffusionControlNetImg2ImgPipeline(
            **parts, controlnet=net, requires_safety_checker=False)
        extra = {"control_image": controlnet.edges(pixels)}
    run.set_progress_bar_config(disable=True)
    return np.asarray((run(**common, **extra).images * 255).round(), np.uint8)


def edge_f1(truth: Pixels, found: Pixels, tolerance: int) -> float:
    """Mean F1 of edge maps, (N, H, W); an edge counts as found within `tolerance` pixels."""
    near = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    scores = []
    for a, b in zip(truth > 0, found > 0, strict=True):
        wide_a, wide_b = (cv2.dilate(m.astype(np.uint8), near) > 0 for m in (a, b))
        precision = (b & wide_a).sum() / max(b.sum(), 1)
        recall = (a & wide_b).sum() / max(a.sum(), 1)
        scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    return float(np.mean(scores))


def controlnet_effect(pipe: Any, folder: Path, pixels: Pixels) -> dict[str, float]:
    """F1 between the edges of inputs and of Img2Img results, without and with ControlNet."""
    net = load_controlnet(folder)
    truth = canny(pixels, *controlnet.THRESHOLDS)
    found: dict[str, float] = {"strength": STRENGTH}
    for name, used in (("without", None), ("with", net)):
        made = canny(img2img(pipe, pixels, used), *controlnet.THRESHOLDS)
        for tolerance in (0, 1):
            found[f"{name}_{tolerance}px"] = round(edge_f1(truth, made, tolerance), 4)
    for tolerance in (0, 1):
        ratio = found[f"with_{tolerance}px"] / found[f"without_{tolerance}px"]
        found[f"ratio_{tolerance}px"] = round(ratio, 2)
    return found


def lora_effect(pipe: Any, folder: Path, names: Iterable[str],
                sets: Mapping[str, tuple[Pixels, list[str]]]) -> dict[str, Any]:
    """Mean loss over `TIMES` on each set of pictures, without and with each LoRA."""
    x0 = {k: autoencoder.latents(pipe.vae, v[0]) for k, v in sets.items()}

    def mean_losses() -> dict[str, float]:
        return {k: round(float(torch.stack(
            [losses(pipe, x0[k], sets[k][1], t, f"lora/{k}") for t in TIMES]).mean()), 5)
            for k in sets}

    found: dict[str, Any] = {"none": mean_losses()}
    for name in names:
        pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors")
        found[name] = mean_losses()
        pipe.unload_lora_weights()
        for k in sets:
            found[name][f"{k}_change_percent"] = round(
                100 * (found[name][k] / found["none"][k] - 1), 2)
    return found
