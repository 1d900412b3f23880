"""``linear``: a logistic regression of averaged maps, solved, not trained (a linear probe)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gate_cache.manifest.heads import SHORT, Head, HeadSpec, PooledSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


def probe(kind: str, members: bool = False) -> Callable[[HeadSpec, Sizes], nn.Module]:
    """How a probe of all of a vector's features is built.

    Parameters
    ----------
    kind : one of ``learn.modules.probes.PROBES``
    members : whether its values have an axis of ensemble members, as those of pixels
    """
    def build(_: HeadSpec, sizes: Sizes) -> nn.Module:
        from gate_cache.learn.modules.probes import PROBES

        features = sizes.assigners * sizes.channels + sizes.tokens + sizes.extra
        return PROBES[kind](features, sizes.classes, members)

    return build


HEAD = Head("linear", "classification", PooledSpec, probe("linear"), SHORT)
