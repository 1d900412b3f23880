"""``nn``: nearest neighbour on the amalgamated map itself (paper, C.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.manifest.heads import CorrespondenceSpec, Head, Sizes

if TYPE_CHECKING:
    from torch import nn


def _build(options: CorrespondenceSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.matching import NearestNeighbour

    return NearestNeighbour()


HEAD = Head("nn", "correspondence", CorrespondenceSpec, _build, learns=False)
