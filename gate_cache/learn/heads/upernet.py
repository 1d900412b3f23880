"""``upernet``: UPerNet's decoder on three levels (paper, section 5, Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gate_cache.manifest.heads import Head, HeadSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


class UPerNetSpec(HeadSpec):
    """Options of ``upernet``."""

    decoder_channels: int = Field(512, ge=2, description="the auxiliary head has half of it")


def _build(options: UPerNetSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.upernet import UPerNet

    levels = [sizes.assigners * channels for channels in sizes.levels]
    return UPerNet(levels, sizes.classes, options.decoder_channels, sizes.level_tokens)


HEAD = Head("upernet", "segmentation", UPerNetSpec, _build, {"lr": 1e-4})
