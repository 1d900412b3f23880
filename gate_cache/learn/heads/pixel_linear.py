"""``pixel-linear``: a logistic regression of single pixels, solved and not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.manifest.heads import SHORT, Head, PixelProbeSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


def _build(options: PixelProbeSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.probes import LinearProbe

    features = sizes.assigners * sizes.channels + sizes.tokens + sizes.extra
    return LinearProbe(features, sizes.classes, members=True)


HEAD = Head("pixel-linear", "pixels", PixelProbeSpec, _build, SHORT)
