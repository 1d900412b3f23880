"""Amalgamator and head together: a bucket to one descriptor map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from gate_cache.learn.mixing.amalgamator import Amalgamator, FixedWeights, MixedModel
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


def build_gate(spec: TrainSpec, channels: int, chosen: Sequence[int] | None = None,
               tokens: int | None = 0) -> CorrespondenceModel:
    """The full model: n weight assigners and the head.

    Parameters
    ----------
    spec : settings of the training, its head's among them
    channels : C of a bucket's maps
    chosen : which of them are mixed; all by default
    tokens : T of its attention feature, where there is one; None: it is not used
    """
    sizes = _sizes(spec, spec.assigners, channels, tokens)
    mixer = Amalgamator(sizes.channels, spec.assigners, spec.hidden, spec.dropout, spec.weights,
                        spec.assigner_resolution)
    return CorrespondenceModel(mixer, _head(spec, sizes), chosen,
                               None if tokens is None else spec.attention_in)


def build_baseline(spec: TrainSpec, channels: int, weights: list[float],
                   chosen: Sequence[int] | None = None,
                   tokens: int | None = 0) -> CorrespondenceModel:
    """A baseline with given weights: a single feature, or all uniformly; as `build_gate`.

    Parameters
    ----------
    spec, channels, chosen, tokens : as of `build_gate`
    weights : (b,) of each chosen combo
    """
    head = _head(spec, _sizes(spec, 1, channels, tokens))
    return CorrespondenceModel(FixedWeights(weights), head, chosen,
                               None if tokens is None else spec.attention_in)


def inside(spec: TrainSpec, tokens: int | None) -> int:
    """How many of an attention feature's T channels are mixed."""
    return (tokens or 0) if spec.attention_in == "bucket" else 0


def _sizes(spec: TrainSpec, assigners: int, channels: int, tokens: int | None) -> Sizes:
    mixed = inside(spec, tokens)
    return Sizes(assigners, channels + mixed, tokens=(tokens or 0) - mixed)


def _head(spec: TrainSpec, sizes: Sizes) -> nn.Module:
    head: nn.Module = head_of(spec.head.name).build(spec.head, sizes)
    return head
