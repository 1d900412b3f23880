"""``classifier``: one hidden layer, or a linear one, on pooled features (paper, Table 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from gate_cache.manifest.heads import Head, PooledSpec, Sizes

if TYPE_CHECKING:
    from torch import nn


class ClassifierSpec(PooledSpec):
    """Options of ``classifier``."""

    classifier_hidden: int = Field(256, ge=0, description="units of a hidden layer; 0: none")


def _build(options: ClassifierSpec, sizes: Sizes) -> nn.Module:
    from gate_cache.learn.modules.classifier import Classifier

    return Classifier(sizes.assigners * sizes.channels, sizes.tokens, sizes.classes,
                      options.classifier_hidden)


HEAD = Head("classifier", "classification", ClassifierSpec, _build,
            {"steps": 1_563, "validate_steps": 157, "batch": 64, "lr": 1e-3, "schedule": "cosine",
             "warmup": 0.05})
