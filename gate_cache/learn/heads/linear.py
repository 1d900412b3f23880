"""``linear``: a logistic regression of averaged maps, solved, not trained (a linear probe)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.manifest.heads import SHORT, Head, PooledSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


def _build(options: PooledSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.probes import LinearProbe

    return LinearProbe(sizes.assigners * sizes.channels + sizes.tokens, sizes.classes)


HEAD = Head("linear", "classification", PooledSpec, _build, SHORT)
