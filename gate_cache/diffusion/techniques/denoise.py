"""Denoising from an earlier t before the maps are read (paper, A.2; DDIM, Song et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch


def timesteps(start: int, stop: int, steps: int) -> list[int]:
    """`steps` + 1 whole timesteps, evenly from `start` down to `stop`."""
    return [round(start + (stop - start) * i / steps) for i in range(steps + 1)]


def ddim(x: torch.Tensor, times: list[int], alphas_cumprod: torch.Tensor,
         predict: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    """Deterministic DDIM steps (η = 0) along `times`, in float32.

    Parameters
    ----------
    x : (B, 4, h, w) float32, x at ``times[0]``
    predict : (x, t) to the predicted noise, the same shape

    Returns
    -------
    (B, 4, h, w) float32, x at ``times[-1]``
    """
    for now, then in pairwise(times):
        eps = predict(x, now).float()
        a, b = alphas_cumprod[now], alphas_cumprod[then]
        clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = b.sqrt() * clean + (1 - b).sqrt() * eps
    return x
