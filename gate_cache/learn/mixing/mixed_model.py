"""A mixer and a head: what the models of all tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MixedModel(nn.Module):
    """Mix some of a bucket's maps, then apply the head.

    Parameters
    ----------
    mixer : an amalgamator, or `FixedWeights` for baselines
    head : takes what is mixed, and attention features if any
    chosen : which of a bucket's maps are mixed; all by default
    attention : whether the attention feature is used, where there is one
    """

    _index: torch.Tensor

    def __init__(self, mixer: nn.Module, head: nn.Module, chosen: Sequence[int] | None = None,
                 attention: bool = True) -> None:
        super().__init__()
        self.mixer = mixer
        self.head = head
        self._chosen = None if chosen is None else list(chosen)
        self._attention = attention
        index = torch.tensor(self._chosen or [], dtype=torch.int64)
        self.register_buffer("_index", index, persistent=False)

    def of_bucket(self, bucket: torch.Tensor) -> torch.Tensor:
        """The chosen ones of (B, b, …) maps; no copy where these are all."""
        every = self._chosen in (None, list(range(bucket.shape[1])))
        return bucket if every else bucket.index_select(1, self._index)

    def attended(self, attention: torch.Tensor | None) -> torch.Tensor | None:
        """The attention feature, where it is used."""
        return attention if self._attention else None
