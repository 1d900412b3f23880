"""How alike two pictures are: SSIM, PSNR, and whether their edges are at the same places."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Signal-to-noise ratio in dB, of two (H, W, 3) uint8 pictures; infinite for equal ones."""
    error = float((a.double() - b.double()).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity of two (H, W, 3) uint8 pictures (Wang et al. 2004).

    Of their luma, with the authors' Gaussian window (11 pixels, σ = 1.5) and constants; the mean
    over all places where the window fits. 1 for equal pictures. Smaller pictures have a smaller
    window.
    """
    x, y = (picture.double() @ torch.tensor(_LUMA, dtype=torch.float64) for picture in (a, b))
    side = min(_WINDOW, (min(x.shape) - 1) // 2 * 2 + 1)
    kernel = _gaussian(side)

    def blurred(values: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(values[None, None], kernel[None, None])[0, 0]

    mx, my = blurred(x), blurred(y)
    vx, vy = blurred(x * x) - mx * mx, blurred(y * y) - my * my
    both = blurred(x * y) - mx * my
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    top = (2 * mx * my + c1) * (2 * both + c2)
    return float((top / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def edge_f1(a: torch.Tensor, b: torch.Tensor, tolerance: int = 1) -> float:
    """F1 of two (H, W) edge maps; an edge counts as found within `tolerance` pixels.

    1 where neither has an edge, 0 where only one has.
    """
    a, b = a > 0, b > 0
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    precision = float((b & _wide(a, tolerance)).sum() / b.sum())
    recall = float((a & _wide(b, tolerance)).sum() / a.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _gaussian(side: int) -> torch.Tensor:
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    one = torch.exp(-(at**2) / (2 * _SIGMA**2))
    return torch.outer(one, one) / one.sum() ** 2


def _wide(edges: torch.Tensor, by: int) -> torch.Tensor:
    grown = functional.max_pool2d(edges[None, None].float(), 2 * by + 1, 1, by)
    return grown[0, 0] > 0
