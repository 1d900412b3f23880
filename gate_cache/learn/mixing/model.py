"""Amalgamator and head together: a bucket to one descriptor map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gate_cache.learn.mixing.amalgamator import (
    Amalgamator,
    FixedWeights,
    MixedModel,
    Projection,
)
from gate_cache.learn.tasks.task import Output
from gate_cache.manifest.heads import Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Bucket
    from gate_cache.manifest.specs import TrainSpec


class CorrespondenceModel(MixedModel):
    """Amalgamate a bucket (`Amalgamator`), then apply the head."""

    def forward(self, bucket: Bucket) -> Output:
        """A batch of buckets to descriptors (B, D, h, w) of unit length over D."""
        maps, beside = self.parts(bucket.conv, bucket.attention)
        mixed = self.mixer(maps)
        return Output(self.head(mixed.maps, beside), mixed.weights)


def build_model(spec: TrainSpec, channels: int, weights: list[float] | None = None,
                chosen: Sequence[int] | None = None,
                tokens: int | None = 0) -> CorrespondenceModel:
    """GATE, n weight assigners and the head; or a baseline with given weights.

    Parameters
    ----------
    spec : settings of the training, its head's among them
    channels : C of a bucket's maps
    weights : of each chosen map, for a baseline; None or empty: assigners learn them
    chosen : which of the maps are mixed; all by default
    tokens : T of its attention feature, where there is one; None: it is not used
    """
    n, mixed = 1 if weights else spec.assigners, inside(spec, tokens)
    width, projection = projected(spec, channels)
    sizes = Sizes(n, width + mixed, tokens=(tokens or 0) - mixed)
    mixer = FixedWeights(weights) if weights else Amalgamator(
        sizes.channels, n, spec.hidden, spec.dropout, spec.weights, spec.assigner_resolution)
    return CorrespondenceModel(mixer, head_of(spec.head.name).build(spec.head, sizes), chosen,
                               None if tokens is None else spec.attention_in, projection)


def projected(spec: TrainSpec, channels: int) -> tuple[int, Projection | None]:
    """C of maps before they are mixed, and what brings them to it where models are projected."""
    width = spec.mix.projection if spec.mix else None
    return (width, Projection(channels, width)) if width else (channels, None)


def inside(spec: TrainSpec, tokens: int | None) -> int:
    """How many of an attention feature's T channels are mixed."""
    return (tokens or 0) if spec.attention_in == "bucket" else 0
