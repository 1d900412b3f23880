"""One map of one combo, or of the mean of several, under a head: what probes compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from gate_cache.learn.mixing.vectors import Vectors
from gate_cache.learn.tasks.task import Output

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Bucket


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

    def forward(self, batch: Vectors | Bucket) -> Output:
        """The head's values, and weights (B, 1, 1)."""
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
