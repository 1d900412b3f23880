"""``upernet``: UPerNet's decoder on three levels (paper, section 5, Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gate_cache.manifest.heads import DenseSpec, Head, Sizes

if TYPE_CHECKING:
    from torch import nn


class UPerNetSpec(DenseSpec):
    """Options of ``upernet``."""

    decoder_channels: int | None = Field(None, ge=2, description="the auxiliary head has half of"
                                         " them [512, or the widest level's where it has fewer]")


def _build(options: UPerNetSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.upernet import UPerNet

    levels = [sizes.assigners * channels for channels in sizes.levels]
    width = options.decoder_channels or min(512, max(sizes.levels))
    return UPerNet(levels, sizes.classes, width, sizes.level_tokens)


HEAD = Head("upernet", "segmentation", UPerNetSpec, _build,
            {"lr": 1e-3, "schedule": "cosine", "warmup": 0.05})
