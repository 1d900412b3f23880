"""Amalgamation of single vectors, of pixels or of pooled images, for one model or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn

from gate_cache.learn.mixing.amalgamator import Amalgamated, MixedModel, Weights
from gate_cache.learn.tasks.task import Output

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Bucket


class Vectors(NamedTuple):
    """Features of a batch of pixels or of images.

    Attributes
    ----------
    conv : (B, b, C), one vector a combo, its levels concatenated
    attention : (B, T) or None
    extra : (B, E) of combos that are never amalgamated, or None
    """

    conv: torch.Tensor
    attention: torch.Tensor | None
    extra: torch.Tensor | None


class RowNorm(nn.BatchNorm1d):
    """Batch norm that takes a training batch of one row as `eval` does: it has no variance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) to (B, C)."""
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight,
                                        self.bias, False, 0.0, self.eps)


class VectorAmalgamator(nn.Module):
    """n MLP weight assigners for each of M ensemble members (Eq. 3 and 4).

    An assigner is linear (C→hidden), ReLU, batch norm, dropout, linear (hidden→1): the widths of
    the convolutional one.

    Parameters
    ----------
    channels : C of a vector
    assigners : n
    hidden, dropout : of each assigner
    members : M, each with assigners of its own
    weights : as of `Amalgamator`
    """

    def __init__(self, channels: int, assigners: int, hidden: int = 128, dropout: float = 0.1,
                 members: int = 1, weights: Weights = "map") -> None:
        super().__init__()
        self.by_channel = weights == "channel"
        outputs = (channels,) if self.by_channel else ()
        self._shape = (members, assigners, *outputs)
        count = members * assigners
        self.first = nn.Linear(channels, count * hidden)
        self.norm = RowNorm(count * hidden)
        self.dropout = nn.Dropout(dropout)
        bound = hidden**-0.5  # as nn.Linear draws them
        self.last = nn.Parameter(torch.empty(count, hidden, *outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, *outputs).uniform_(-bound, bound))

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, C) to n sums (M, B, n, C) with weights (M, B, n, b[, C])."""
        logits = self.logits(self.first(bucket.flatten(0, 1)))
        weights = self.shares(logits.view(*bucket.shape[:2], *logits.shape[1:]))
        of_each = "mbnkc,bkc->mbnc" if self.by_channel else "mbnk,bkc->mbnc"
        return Amalgamated(torch.einsum(of_each, weights, bucket), weights)

    def logits(self, first: torch.Tensor) -> torch.Tensor:
        """What the first layer gives, (B, M·n·hidden), to (B, M·n[, C])."""
        units = self.dropout(self.norm(first.relu())).view(len(first), *self.last.shape[:2])
        if self.by_channel:
            return torch.einsum("bjh,jhc->bjc", units, self.last) + self.bias
        return torch.as_tensor((units * self.last).sum(-1) + self.bias)

    def shares(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, b, M·n[, C]) to weights (M, B, n, b[, C]): softmax over combos."""
        of_assigners = logits.view(*logits.shape[:2], *self._shape)
        return of_assigners.movedim(2, 0).movedim(2, 3).softmax(3)


class VectorModel(MixedModel):
    """Amalgamate vectors (`VectorAmalgamator`), then apply the head.

    The head takes (M, B, n, C), (B, T) or None, (B, E) or None.
    """

    def forward(self, batch: Vectors) -> Output:
        """The head's values, and weights (M·B, n, b[, C])."""
        inputs, weights = self.mixed(batch)
        return Output(self.head(*inputs), weights.flatten(0, 1))

    def mixed(self, batch: Vectors) -> tuple[Vectors, torch.Tensor]:
        """What the head takes, its maps (M or 1, B, n, C); and weights (M or 1, B, n, b[, C])."""
        vectors, beside = self.parts(batch.conv, batch.attention)
        mixed = cast(Amalgamated, self.mixer(vectors))
        maps, weights = mixed if mixed.maps.dim() == 4 else (m[None] for m in mixed)
        return Vectors(maps, beside, batch.extra), weights


def stack_vectors(parts: Sequence[Vectors]) -> Vectors:
    """One batch of several."""
    attention = [p.attention for p in parts if p.attention is not None]
    extra = [p.extra for p in parts if p.extra is not None]
    return Vectors(torch.cat([p.conv for p in parts]), torch.cat(attention) if attention else None,
                   torch.cat(extra) if extra else None)


class Reading(nn.Module):
    """Average some combos, take some of the channels, then apply the head.

    Parameters
    ----------
    head : of vectors, or of maps
    combos : which of a bucket's; with none, the attention feature is read
    channels : of the concatenated levels
    """

    def __init__(self, head: nn.Module, combos: Sequence[int], channels: slice) -> None:
        super().__init__()
        self.head = head
        self._combos = list(combos)
        self._channels = channels

    def forward(self, batch: Vectors | Bucket, _weights: torch.Tensor | None = None) -> Output:
        """The head's values, and weights (B, 1, 1); there is no assigner to spare by given ones."""
        if isinstance(batch, Vectors):
            inputs, weights = self.mixed(batch)
            return Output(self.head(*inputs), weights)
        maps = self._read(batch.conv, batch.attention)
        return Output(self.head(maps, None), maps.new_ones(len(maps), 1, 1))

    def mixed(self, batch: Vectors) -> tuple[Vectors, torch.Tensor]:
        """What a head of vectors takes, its maps (1, B, 1, D); and weights (B, 1, 1)."""
        maps = self._read(batch.conv, batch.attention)
        return Vectors(maps[None], None, None), maps.new_ones(len(maps), 1, 1)

    def _read(self, conv: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, b, C, …) and (B, T, …) to (B, 1, D, …)."""
        if not self._combos and attention is not None:
            return attention[:, None, self._channels]
        return conv[:, self._combos].mean(1, keepdim=True)[:, :, self._channels]
