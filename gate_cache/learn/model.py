"""Amalgamator and head together: a bucket to one descriptor map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gate_cache.learn.amalgamator import Amalgamator, FixedWeights
from gate_cache.learn.bucket import Bucket
from gate_cache.learn.heads.conv import ConvHead
from gate_cache.learn.heads.nn import NearestNeighbour
from gate_cache.learn.task import Output
from gate_cache.specs import TrainSpec


class CorrespondenceModel(nn.Module):
    """Amalgamate a bucket, then apply the head.

    Parameters
    ----------
    mixer : `Amalgamator`, or `FixedWeights` for baselines
    head : one of `heads`
    chosen : which of a bucket's maps are amalgamated; all by default
    attention : whether the bucket's attention feature is used, where it has one
    """

    def __init__(self, mixer: nn.Module, head: nn.Module, chosen: Sequence[int] | None = None,
                 attention: bool = True) -> None:
        super().__init__()
        self.mixer = mixer
        self.head = head
        self._chosen = None if chosen is None else list(chosen)
        self._attention = attention

    def forward(self, bucket: Bucket) -> Output:
        """A batch of buckets to descriptors (B, D, h, w) of unit length over D."""
        conv = bucket.conv if self._chosen is None else bucket.conv[:, self._chosen]
        mixed = self.mixer(conv)
        attention = bucket.attention if self._attention else None
        return Output(self.head(mixed.maps, attention), mixed.weights)


def amalgamated(spec: TrainSpec, channels: int, chosen: Sequence[int] | None = None,
                attention: bool = True) -> CorrespondenceModel:
    """The full model: n weight assigners and the head."""
    mixer = Amalgamator(channels, spec.assigners, spec.hidden, spec.dropout)
    head = _head(spec, channels, spec.assigners)
    return CorrespondenceModel(mixer, head, chosen, attention)


def fixed(spec: TrainSpec, channels: int, weights: list[float],
          chosen: Sequence[int] | None = None, attention: bool = True) -> CorrespondenceModel:
    """A baseline with given weights: a single feature, or all uniformly."""
    return CorrespondenceModel(FixedWeights(weights), _head(spec, channels, 1), chosen, attention)


def _head(spec: TrainSpec, channels: int, assigners: int) -> nn.Module:
    if spec.head == "conv":
        return ConvHead(channels, assigners, spec.conv_channels)
    return NearestNeighbour()
