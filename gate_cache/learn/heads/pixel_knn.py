"""``pixel-knn``: classes of the nearest training pixels, as segmentation transfer is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.manifest.heads import SHORT, Head, PixelProbeSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


def _build(options: PixelProbeSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.probes import KNNProbe

    features = sizes.assigners * sizes.channels + sizes.tokens + sizes.extra
    return KNNProbe(features, sizes.classes, members=True)


HEAD = Head("pixel-knn", "pixels", PixelProbeSpec, _build, SHORT)
