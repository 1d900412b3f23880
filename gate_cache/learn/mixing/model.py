"""Amalgamator and head together: a bucket to one descriptor map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from gate_cache.learn.mixing.amalgamator import Amalgamator, FixedWeights
from gate_cache.learn.mixing.mixed_model import MixedModel
from gate_cache.learn.tasks.task import Output
from gate_cache.manifest.heads import Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Bucket
    from gate_cache.manifest.specs import TrainSpec


class CorrespondenceModel(MixedModel):
    """Amalgamate a bucket (`Amalgamator`), then apply the head."""

    def forward(self, bucket: Bucket) -> Output:
        """A batch of buckets to descriptors (B, D, h, w) of unit length over D."""
        mixed = self.mixer(self.of_bucket(bucket.conv))
        return Output(self.head(mixed.maps, self.attended(bucket.attention)), mixed.weights)


def build_gate(spec: TrainSpec, channels: int, chosen: Sequence[int] | None = None,
               attention: bool = True) -> CorrespondenceModel:
    """The full model: n weight assigners and the head."""
    mixer = Amalgamator(channels, spec.assigners, spec.hidden, spec.dropout,
                        spec.assigner_resolution)
    head = _head(spec, channels, spec.assigners)
    return CorrespondenceModel(mixer, head, chosen, attention)


def build_baseline(spec: TrainSpec, channels: int, weights: list[float],
                   chosen: Sequence[int] | None = None,
                   attention: bool = True) -> CorrespondenceModel:
    """A baseline with given weights: a single feature, or all uniformly."""
    return CorrespondenceModel(FixedWeights(weights), _head(spec, channels, 1), chosen, attention)


def _head(spec: TrainSpec, channels: int, assigners: int) -> nn.Module:
    made: nn.Module = head_of(spec.head.name).build(spec.head, Sizes(assigners, channels))
    return made
