"""The autoencoder: 64 pixels to 16×16×4 latents of unit variance. Gate: PSNR on test splits."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch.nn import functional

from pipelines.tiny import config
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import Pictures, Pixels

PLAN = Plan("autoencoder", steps=1800, lr=2e-3, weight_decay=0.0, ema=0.99)
BATCH = 16
PHOTOS = 0.3  # share of photographs in a batch
KL = 1e-6  # weight of the divergence, that of Stable Diffusion's autoencoder
GATES = {"toyworld": 25.0, "cifar": 23.0}  # least PSNR on test splits, dB


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
        # sorted: they are memory maps, which are read forwards faster
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
    """Posterior means times the scaling factor, (N, 4, 16, 16) float32."""
    z = torch.cat([model.encode(scaled(pixels[i : i + batch])).latent_dist.mode()
                   for i in range(0, len(pixels), batch)])
    return z * float(model.config.scaling_factor)


@torch.inference_mode()
def reconstructed(model: Any, pixels: np.ndarray[Any, Any], batch: int = 64) -> Pixels:
    """Pictures after the autoencoder, (N, 64, 64, 3) uint8."""
    z = latents(model, pixels, batch) / model.config.scaling_factor
    y = torch.cat([model.decode(part).sample for part in torch.split(z, batch)]).clamp(-1, 1)
    return ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def psnr(model: Any, pixels: np.ndarray[Any, Any]) -> float:
    """Mean over pictures of 10·log10(255² / MSE), in dB, of reconstructions in 8 bits."""
    decibels: list[float] = []
    for i in range(0, len(pixels), 500):
        part = pixels[i : i + 500]
        error = np.square(part - reconstructed(model, part).astype(np.float64)).mean((1, 2, 3))
        decibels += (10 * np.log10(255**2 / error)).tolist()
    return fmean(decibels)


def with_unit_latents(model: Any, pixels: np.ndarray[Any, Any]) -> None:
    """Set the scaling factor so that latents have unit variance."""
    model.register_to_config(scaling_factor=1.0)
    model.register_to_config(scaling_factor=1 / float(latents(model, pixels).std()))


def build() -> Any:
    """A fresh autoencoder, weights drawn from a fixed seed."""
    torch.manual_seed(0)
    return AutoencoderKL(**config.VAE)
