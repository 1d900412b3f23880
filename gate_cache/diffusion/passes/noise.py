"""Noise as a definition: anyone can recompute it from a seed and a sample's id (docs/store.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def generator(*words: object) -> torch.Generator:
    """Randomness by name, on the CPU: the same numbers whatever was drawn before.

    Seeded by the first 8 bytes of sha256 of the words with ``/`` between, big-endian, shifted
    right by one.
    """
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise(seed: int, sample_id: str, shape: Sequence[int]) -> torch.Tensor:
    """Gaussian noise of one sample, float32 on the CPU: the same whatever batch or order.

    Drawn from the `generator` called ``"<seed>/<sample id>"``.
    """
    return torch.randn(tuple(shape), generator=generator(seed, sample_id), dtype=torch.float32)


def add_noise(latents: torch.Tensor, eps: torch.Tensor, t: int | torch.Tensor,
              alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(ᾱ_t)·x_0 + sqrt(1 − ᾱ_t)·ε, in float32.

    Parameters
    ----------
    latents, eps : (B, 4, h, w) float32, x_0 and ε
    t : one time, or (B,) times
    alphas_cumprod : (T,) float32, ᾱ
    """
    alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * eps
