"""``conv-released``: head ``conv`` with the settings of GATE's released code, by one name.

One assigner, which weighs channels; the attention feature inside the convolution (3674 channels for
Stable Diffusion 1.5), which has no bias; a fixed temperature; one pair a step. That code weighs
sparsity by a random walk in steps of 1e-5 from 0, and has no diversity: both are 0 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gate_cache.manifest.heads import CorrespondenceSpec, Head, Sizes

if TYPE_CHECKING:
    from torch import nn


class ReleasedSpec(CorrespondenceSpec):
    """Options of ``conv-released``."""

    temperature: Literal["learnt", "fixed"] = Field("fixed", description="of the loss")


def _build(options: ReleasedSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.matching import ReleasedConvHead

    return ReleasedConvHead(sizes.channels, sizes.assigners, sizes.tokens)


HEAD = Head("conv-released", "correspondence", ReleasedSpec, _build,
            {"assigners": 1, "weights": "channel", "dropout": 0.5, "gamma1": 0.0, "gamma2": 0.0,
             "steps": 1_000, "batch": 1, "validate_steps": 250})
