"""Amalgamator and head together: a bucket to one descriptor map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from gate_cache.learn.amalgamator import Amalgamator, FixedWeights
from gate_cache.learn.bucket import Bucket
from gate_cache.learn.heads.conv import ConvHead
from gate_cache.learn.heads.nn import NearestNeighbour
from gate_cache.specs import TrainSpec


class Described(NamedTuple):
    """Descriptors (B, D, h, w) of unit length over D, and weights (B, n, b)."""

    descriptors: torch.Tensor
    weights: torch.Tensor


class CorrespondenceModel(nn.Module):
    """Amalgamate a bucket, then apply the head.

    Parameters
    ----------
    mixer : `Amalgamator`, or `FixedWeights` for baselines
    head : one of `heads`
    """

    def __init__(self, mixer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.head = head

    def forward(self, bucket: Bucket) -> Described:
        """A batch of buckets to descriptors."""
        mixed = self.mixer(bucket.conv)
        return Described(self.head(mixed.maps, bucket.attention), mixed.weights)


def amalgamated(spec: TrainSpec, channels: int) -> CorrespondenceModel:
    """The full model: n weight assigners and the head."""
    mixer = Amalgamator(channels, spec.assigners, spec.hidden, spec.dropout)
    return CorrespondenceModel(mixer, _head(spec, channels, spec.assigners))


def fixed(spec: TrainSpec, channels: int, weights: list[float]) -> CorrespondenceModel:
    """A baseline with given weights: a single feature, or all uniformly."""
    return CorrespondenceModel(FixedWeights(weights), _head(spec, channels, 1))


def _head(spec: TrainSpec, channels: int, assigners: int) -> nn.Module:
    if spec.head == "conv":
        return ConvHead(channels, assigners, spec.conv_channels)
    return NearestNeighbour()
