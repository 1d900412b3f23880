"""``conv``: one more 3×3 convolution after each assigner's sum (paper, C.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gate_cache.manifest.heads import CorrespondenceSpec, Head, Sizes

if TYPE_CHECKING:
    from torch import nn


class ConvSpec(CorrespondenceSpec):
    """Options of ``conv``."""

    conv_channels: int = Field(384, ge=1, description="of each convolution")


def _build(options: ConvSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.matching import ConvHead

    return ConvHead(sizes.channels, sizes.assigners, options.conv_channels)


HEAD = Head("conv", "correspondence", ConvSpec, _build)
