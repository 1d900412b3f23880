"""``knn``: classes of the nearest training images, by averaged maps (DINO's protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.manifest.heads import SHORT, Head, PooledSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


def _build(options: PooledSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.probes import KNNProbe

    return KNNProbe(sizes.assigners * sizes.channels + sizes.tokens, sizes.classes)


HEAD = Head("knn", "classification", PooledSpec, _build, SHORT)
