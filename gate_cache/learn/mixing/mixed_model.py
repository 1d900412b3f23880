"""A mixer and a head: what the models of all tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

AttentionIn = Literal["head", "bucket"]


class MixedModel(nn.Module):
    """Mix some of a bucket's maps, then apply the head.

    Parameters
    ----------
    mixer : an amalgamator, or `FixedWeights` for baselines
    head : takes what is mixed, and attention features if any
    chosen : which of a bucket's maps are mixed; all by default
    attention : where the attention feature goes, where there is one: ``head``, concatenated behind
        what is mixed (paper, A.4); ``bucket``, concatenated to every map before, so that it is
        mixed, too (as in the released code); None: it is not used
    """

    _index: torch.Tensor

    def __init__(self, mixer: nn.Module, head: nn.Module, chosen: Sequence[int] | None = None,
                 attention: AttentionIn | None = "head") -> None:
        super().__init__()
        self.mixer = mixer
        self.head = head
        self._chosen = None if chosen is None else list(chosen)
        self.attention = attention
        index = torch.tensor(self._chosen or [], dtype=torch.int64)
        self.register_buffer("_index", index, persistent=False)

    def of_bucket(self, bucket: torch.Tensor) -> torch.Tensor:
        """The chosen ones of (B, b, …) maps; no copy where these are all."""
        every = self._chosen in (None, list(range(bucket.shape[1])))
        return bucket if every else bucket.index_select(1, self._index)

    def parts(self, bucket: torch.Tensor,
              attention: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is mixed, and what the head is given beside it.

        Parameters
        ----------
        bucket : (B, b, C, …) maps or vectors
        attention : (B, T, …) or None
        """
        chosen = self.of_bucket(bucket)
        if attention is None or self.attention is None:
            return chosen, None
        if self.attention == "head":
            return chosen, attention
        repeated = attention[:, None].expand(-1, chosen.shape[1], *attention.shape[1:])
        return torch.cat([chosen, repeated], 2), None
