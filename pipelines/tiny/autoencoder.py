"""The autoencoder: 64 pixels to 16×16×4 latents of unit variance. Gate: PSNR on test splits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipelines.tiny import config
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import Pictures

PLAN = Plan("autoencoder", steps=1800, lr=2e-3, weight_decay=0.0, ema=0.99)
BATCH = 16
PHOTOS = 0.3  # share of photographs in a batch
KL = 1e-6
GATES = {"toyworld": 25.0, "cifar": 23.0}


def scaled(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in -1 … 1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def choose(drawn: int, photos: int, batch: int, g: torch.Generator) -> tuple[list[int], list[int]]:
    """Indices into the drawn pictures and into the photographs for one batch."""
    n = round(batch * PHOTOS)
    return (torch.randint(drawn, (batch - n,), generator=g).tolist(),
            torch.randint(photos, (n,), generator=g).tolist())


def train(model: Any, drawn: Pictures, photos: Pictures, folder: Path) -> None:
    """Train the autoencoder; `model` holds the kept weights afterwards."""

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        a, b = choose(len(drawn), len(photos), BATCH, g)
        x = scaled(np.concatenate([drawn.pixels[sorted(a)], photos.pixels[sorted(b)]]))
        if torch.rand((), generator=g) < 0.5:
            x = x.flip(-1)
        posterior = model.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=g)
        y = model.decode(z).sample
        apart = functional.mse_loss(y, x) + 0.1 * functional.l1_loss(y, x)
        return torch.as_tensor(apart + KL * posterior.kl().mean())

    fit(PLAN, {"vae": model}, loss, folder)


@torch.inference_mode()
def latents(model: Any, pixels: np.ndarray[Any, Any], batch: int = 64) -> torch.Tensor:
    """Posterior means, (N, 4, 16, 16) float32, not yet scaled."""
    return torch.cat([model.encode(scaled(pixels[i : i + batch])).latent_dist.mode()
                      for i in range(0, len(pixels), batch)])


@torch.inference_mode()
def psnr(model: Any, pixels: np.ndarray[Any, Any], batch: int = 64) -> float:
    """Mean over pictures of 10·log10(255² / MSE), in dB, of reconstructions rounded to 8 bits."""
    found: list[float] = []
    for i in range(0, len(pixels), batch):
        x = scaled(pixels[i : i + batch])
        y = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((x - ((y + 1) * 127.5).round() / 127.5 + 1) * 127.5).square().mean((1, 2, 3))
        found += (10 * torch.log10(255**2 / error)).tolist()
    return math.fsum(found) / len(found)


def with_unit_latents(model: Any, pixels: np.ndarray[Any, Any]) -> float:
    """Set the scaling factor so that scaled latents have unit variance; answer it."""
    factor = 1 / float(latents(model, pixels).std())
    model.register_to_config(scaling_factor=factor)
    return factor


def build() -> Any:
    """A fresh autoencoder, weights drawn from a fixed seed."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(**config.VAE)
