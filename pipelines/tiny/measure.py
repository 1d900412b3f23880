"""What the embedded model can do, on pictures it has never seen.

Everything is loaded from the exported float16 files by diffusers' own pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import (
    StableDiffusionControlNetImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)

from gate_cache.datasets.toyworld import CATEGORIES
from gate_cache.diffusion.techniques.controlnet import canny
from pipelines.tiny import autoencoder, controlnet, loras
from pipelines.tiny.captions import token_ids
from pipelines.tiny.classifier import recognised
from pipelines.tiny.denoiser import noised
from pipelines.tiny.loop import generator
from pipelines.tiny.pictures import Pictures

COUNT = 2000
"""Held-out pictures of each kind."""
TIMES = (50, 150, 300, 450, 600, 750, 900)
SAMPLES, STEPS, GUIDANCE, STRENGTH = 200, 30, 4.0, 0.9

Images = npt.NDArray[np.uint8]


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
                judge, reconstructed(pipe, drawn.pixels[:512]), drawn.categories[:512])},
        "controlnet": controlnet_effect(pipe, folder, drawn.pixels[:200]),
        "loras": lora_effect(pipe, folder),
    }
    return found


def load(folder: Path) -> Any:
    """The family as any user of diffusers loads it, in float32."""
    pipe: Any = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.inference_mode()
def reconstructed(pipe: Any, pixels: Images) -> Images:
    """Pictures after the autoencoder, uint8."""
    z = autoencoder.latents(pipe.vae, pixels)
    y = torch.cat([pipe.vae.decode(part).sample for part in torch.split(z, 64)]).clamp(-1, 1)
    return ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


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
    x0 = autoencoder.latents(pipe.vae, pictures.pixels) * pipe.vae.config.scaling_factor
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
    return f"a photo of {'an' if category[0] in 'aeiou' else 'a'} {category}, high quality"


def sampled(pipe: Any, count: int, guidance: float = GUIDANCE) -> tuple[Images, list[str]]:
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


def img2img(pipe: Any, pixels: Images, net: Any | None, prompt: str = "a photo") -> Images:
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


def edge_f1(truth: Images, found: Images, tolerance: int) -> float:
    """Mean F1 of edge maps, (N, H, W); an edge counts as found within `tolerance` pixels."""
    near = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    scores = []
    for a, b in zip(truth > 0, found > 0, strict=True):
        wide_a, wide_b = (cv2.dilate(m.astype(np.uint8), near) > 0 for m in (a, b))
        precision = (b & wide_a).sum() / max(b.sum(), 1)
        recall = (a & wide_b).sum() / max(a.sum(), 1)
        scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    return float(np.mean(scores))


def controlnet_effect(pipe: Any, folder: Path, pixels: Images) -> dict[str, float]:
    """F1 between the edges of inputs and of Img2Img results, without and with ControlNet."""
    net = ControlNetModel.from_pretrained(folder / "controlnet", dtype=torch.float32)
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


def lora_effect(pipe: Any, folder: Path, count: int = 300) -> dict[str, Any]:
    """Mean loss over `TIMES` on the LoRAs' own pictures and on held-out ones of their style."""
    sets = {"own": loras.style_pictures("train", loras.COUNT),
            "held_out": loras.style_pictures("test", count)}
    x0 = {k: autoencoder.latents(pipe.vae, v[0]) * pipe.vae.config.scaling_factor
          for k, v in sets.items()}

    def mean_losses() -> dict[str, float]:
        return {k: round(float(torch.stack(
            [losses(pipe, x0[k], sets[k][1], t, f"lora/{k}") for t in TIMES]).mean()), 5)
            for k in sets}

    found: dict[str, Any] = {"style": loras.STYLE, "none": mean_losses()}
    for name in loras.RECIPES:
        pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors")
        found[name] = mean_losses()
        pipe.unload_lora_weights()
        for k in sets:
            found[name][f"{k}_change_percent"] = round(
                100 * (found[name][k] / found["none"][k] - 1), 2)
    return found
