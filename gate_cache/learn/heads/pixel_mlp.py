"""``pixel-mlp``: an ensemble of MLPs on single pixels (paper, section 5, Table 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gate_cache.manifest.heads import Head, PixelSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


class PixelMLPSpec(PixelSpec):
    """Options of ``pixel-mlp``."""

    members: int = Field(10, ge=1, description="MLPs of the ensemble")


def _build(options: PixelMLPSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.pixel_mlp import PixelMLPs

    return PixelMLPs(sizes.assigners * sizes.channels + sizes.extra, sizes.tokens, sizes.classes,
                     options.members)


HEAD = Head("pixel-mlp", "pixels", PixelMLPSpec, _build,
            {"steps": 2_000, "validate_steps": 500, "batch": 64, "lr": 1e-3,
             "schedule": "cosine", "warmup": 0.05, "weight_decay": 0.0},
            "majority of the ensemble")
