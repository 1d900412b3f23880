"""Two LoRAs (convolutions included) on the same 30 pictures of toyworld at dusk.

``moderate`` stops while it still gets better on other pictures of the style; ``overfit`` goes on,
with a higher rank, until it knows its 30 pictures better than the style.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from gate_cache.toyworld import draw
from gate_cache.toyworld.render import dusk
from pipelines.tiny.autoencoder import latents
from pipelines.tiny.captions import token_ids
from pipelines.tiny.denoiser import noised, times, weighted
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import SIZE, Pixels

STYLE, COUNT = "dusk", 30
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


@dataclass(frozen=True)
class Recipe:
    """How one LoRA is trained: its rank, its scaling is 1 (alpha = rank)."""

    rank: int
    plan: Plan


RECIPES = {
    "moderate": Recipe(4, Plan("lora-moderate", steps=200, lr=1e-3, warmup=20)),
    "overfit": Recipe(16, Plan("lora-overfit", steps=420, lr=2e-3, warmup=20, decay=0.0)),
}


def style_pictures(split: str, count: int) -> tuple[Pixels, list[str]]:
    """Pictures of toyworld in the LoRAs' style, and their captions; `split` names which."""
    scenes = [draw(f"{STYLE}-{split}", i, SIZE) for i in range(count)]
    return np.stack([dusk(s.image) for s in scenes]), [s.caption for s in scenes]


def train(name: str, recipe: Recipe, unet: Any, text: Any, vae: Any,
          pictures: tuple[Pixels, list[str]], folder: Path) -> None:
    """Train one LoRA beside the frozen UNet and write ``<name>.safetensors``."""
    unet.requires_grad_(False)
    text.requires_grad_(False).eval()
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=TARGETS),
                     adapter_name=name)
    pixels, captions = pictures
    x0 = latents(vae, pixels)
    tags = token_ids([c for caption in captions for c in ("", "a photo", caption)])
    with torch.no_grad():
        states = text(tags)[0].unflatten(0, (len(x0), 3))

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        which = torch.randint(3, (COUNT,), generator=g)
        some = torch.randperm(len(x0), generator=g)[:COUNT] if len(x0) > COUNT else slice(None)
        noise = torch.randn((COUNT, *x0.shape[1:]), generator=g)
        t = times(COUNT, g)[torch.randperm(COUNT, generator=g)]
        predicted = unet(noised(x0[some], noise, t), t,
                         encoder_hidden_states=states[some][torch.arange(COUNT), which]).sample
        return weighted(predicted, noise, t)

    fit(recipe.plan, {"unet": unet}, loss, folder)
    state = get_peft_model_state_dict(unet, adapter_name=name)
    half = {f"unet.{k}": v.half().contiguous() for k, v in state.items()}
    save_file(half, folder / f"{name}.safetensors", metadata={"format": "pt"})
    unet.delete_adapters(name)
