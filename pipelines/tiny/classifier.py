"""A small classifier of toyworld's categories, to judge samples with. Not part of the model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gate_cache.toyworld import CATEGORIES
from pipelines.tiny.autoencoder import scaled
from pipelines.tiny.loop import Plan, fit
from pipelines.tiny.pictures import Pictures

PLAN = Plan("classifier", steps=2000, lr=2e-3, ema=0.99, decay=0.5)
BATCH = 64


def build() -> nn.Module:
    """64 pixels to 8 logits."""
    torch.manual_seed(4)
    widths = (3, 32, 64, 96, 128)
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.SiLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(CATEGORIES)))


def train(model: nn.Module, drawn: Pictures, folder: Path) -> None:
    """Train on drawn pictures, mirrored, shifted and blurred a little at random."""
    labels = torch.tensor([CATEGORIES.index(c) for c in drawn.categories])

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(drawn), (BATCH,), generator=g)
        x = scaled(drawn.pixels[index.numpy()])
        flip, blur, dx, dy = torch.rand(4, generator=g).tolist()
        if flip < 0.5:
            x = x.flip(-1)
        if blur < 0.5:
            x = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), "replicate"), 3, stride=1)
        x = x.roll((int(dx * 9) - 4, int(dy * 9) - 4), (-1, -2))
        return functional.cross_entropy(model(x), labels[index], label_smoothing=0.05)

    fit(PLAN, {"classifier": model}, loss, folder)


@torch.inference_mode()
def recognised(model: nn.Module, pixels: np.ndarray[Any, Any], categories: list[str]) -> float:
    """Share of pictures, (N, 64, 64, 3) uint8, whose category it names."""
    wanted = torch.tensor([CATEGORIES.index(c) for c in categories])
    found = torch.cat([model(scaled(pixels[i : i + 64])).argmax(1)
                       for i in range(0, len(pixels), 64)])
    return round(float((found == wanted).float().mean()), 4)
