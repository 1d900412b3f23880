"""The UNet and the text encoder, together, on latents. Gates: text effect on the loss, samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.passes.noise import add_noise
from gate_cache.text.tokens import BOS, EOS, read_tokens
from pipelines.tiny import config
from pipelines.tiny.autoencoder import choose
from pipelines.tiny.captions import token_ids, varied
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import Pictures

PLAN = Plan("denoiser", steps=11000, lr=1e-3, warmup=200, decay=0.2, ema=0.999,
            save_every=200)
BATCH = 32
MOST = 50.0  # largest weight of a time

ALPHAS: torch.Tensor = DDIMScheduler(**config.SCHEDULER).alphas_cumprod
"""ᾱ of the forward process, (1000,) float32."""


def build() -> tuple[Any, Any]:
    """A fresh UNet and text encoder, weights drawn from a fixed seed."""
    torch.manual_seed(1)
    vocab = read_tokens(HOME / "tokenizer").vocab
    text = CLIPTextConfig(vocab_size=len(vocab), bos_token_id=vocab[BOS], eos_token_id=vocab[EOS],
                          pad_token_id=vocab[EOS], **config.TEXT)
    unet: Any = UNet2DConditionModel(**config.UNET)
    return unet.to(memory_format=torch.channels_last), CLIPTextModel(text)


def noised(x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(ᾱ_t)·x_0 + sqrt(1 − ᾱ_t)·ε for (N, 4, 16, 16) and (N,) times."""
    return add_noise(x0, noise, t, ALPHAS)


def times(count: int, g: torch.Generator) -> torch.Tensor:
    """(count,) times, one in each of `count` equal parts of 0 … 999."""
    parts = torch.arange(count) + torch.rand(count, generator=g)
    return (parts / count * len(ALPHAS)).long().clamp(max=len(ALPHAS) - 1)


def weighted(predicted: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Loss of predicted noise, over ᾱ_t: as if the velocity were predicted.

    Unweighted, nearly all of the loss is texture at small t, and what the caption decides, layout
    at large t, is learnt last.
    """
    weight = (1 / ALPHAS[t]).clamp(max=MOST)
    return (weight * functional.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))).mean()


def train(unet: Any, text: Any, x_drawn: torch.Tensor, drawn: Pictures, x_photos: torch.Tensor,
          photos: Pictures, folder: Path) -> None:
    """Train both on scaled latents; they hold the kept weights afterwards."""

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        a, b = choose(len(drawn), len(photos), BATCH, g)
        x0 = torch.cat([x_drawn[a], x_photos[b]]).float()
        words = ([varied(drawn.captions[i], drawn.categories[i], g) for i in a]
                 + [varied(photos.captions[i], photos.categories[i], g) for i in b])
        order = torch.randperm(BATCH, generator=g)
        noise, t = torch.randn(x0.shape, generator=g), times(BATCH, g)[order]
        states = text(token_ids(words))[0]
        x = noised(x0, noise, t).contiguous(memory_format=torch.channels_last)
        predicted = unet(x, t, encoder_hidden_states=states).sample
        return weighted(predicted, noise, t)

    fit(PLAN, {"unet": unet, "text_encoder": text}, loss, folder)
