"""ControlNet on Canny edges: its own copy of the UNet's down half, the UNet itself frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel

from gate_cache.diffusion.techniques.controlnet import canny
from pipelines.tiny import config
from pipelines.tiny.autoencoder import choose
from pipelines.tiny.captions import token_ids, varied
from pipelines.tiny.denoiser import BATCH, noised, times, weighted
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import Pictures, Pixels

PLAN = Plan("controlnet", steps=1000, lr=1e-3, warmup=50, ema=0.99)
THRESHOLDS = (100, 200)
PLAIN = 0.5  # share of captions replaced by "a photo", so that edges must be used


def build(unet: Any) -> Any:
    """A ControlNet that starts as the UNet's down half, its outputs at zero."""
    torch.manual_seed(2)
    net: Any = ControlNetModel(**{**config.CONTROLNET,
                                  "layers_per_block": unet.config.layers_per_block})
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        getattr(net, part).load_state_dict(getattr(unet, part).state_dict())
    return net


def edges(pixels: Any) -> torch.Tensor:
    """Control images, (N, 3, 64, 64) float32 in 0 … 1, of (N, 64, 64, 3) uint8 pictures."""
    found = torch.from_numpy(canny(np.asarray(pixels), *THRESHOLDS)).float() / 255
    return found[:, None].expand(-1, 3, -1, -1)


Batch = Callable[[torch.Generator], tuple[torch.Tensor, Pixels, list[str]]]
"""Draws latents (N, 4, 16, 16), their pictures (N, 64, 64, 3), and what is said of them."""


def train(net: Any, unet: Any, text: Any, batch: Batch, folder: Path, plan: Plan = PLAN) -> None:
    """Train `net`, which holds the kept weights afterwards."""
    for module in (unet, text):
        module.requires_grad_(False).eval()

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        x0, pixels, words = batch(g)
        plain = torch.rand(len(x0), generator=g) < PLAIN
        words = ["a photo" if p else w for p, w in zip(plain.tolist(), words, strict=True)]
        noise = torch.randn(x0.shape, generator=g)
        t = times(len(x0), g)[torch.randperm(len(x0), generator=g)]
        states = text(token_ids(words))[0]
        x = noised(x0, noise, t)
        down, mid = net(x, t, encoder_hidden_states=states, controlnet_cond=edges(pixels),
                        return_dict=False)
        predicted = unet(x, t, encoder_hidden_states=states, down_block_additional_residuals=down,
                         mid_block_additional_residual=mid).sample
        return weighted(predicted, noise, t)

    fit(plan, {"controlnet": net}, loss, folder)


def of_two_kinds(x_drawn: torch.Tensor, drawn: Pictures, x_photos: torch.Tensor,
                 photos: Pictures) -> Batch:
    """Batches of pictures that the autoencoder has encoded."""

    def batch(g: torch.Generator) -> tuple[torch.Tensor, Pixels, list[str]]:
        a, b = choose(len(drawn), len(photos), BATCH, g)
        words = ([varied(drawn.captions[i], drawn.categories[i], g) for i in a]
                 + [varied(photos.captions[i], photos.categories[i], g) for i in b])
        return (torch.cat([x_drawn[a], x_photos[b]]).float(),
                np.concatenate([drawn.pixels[a], photos.pixels[b]]), words)

    return batch
