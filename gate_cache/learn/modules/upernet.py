"""``upernet``: UPerNet's decoder with an auxiliary FCN head, the parts that transformers has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class Decoded(NamedTuple):
    """Logits of a batch, each at its own resolution.

    Attributes
    ----------
    logits : (B, K, h, w) of the decoder, at the finest level
    auxiliary : (B, K, h', w') of the auxiliary head, in training
    """

    logits: torch.Tensor
    auxiliary: torch.Tensor | None


class UPerNet(nn.Module):
    """Pyramid pooling on the coarsest level, a feature pyramid over all, and an auxiliary FCN.

    The auxiliary head sees the second coarsest level, as with the four levels of other loading.

    Parameters
    ----------
    channels : of each level, coarse to fine
    classes : K
    width : channels of the decoder; the auxiliary head has half as many
    tokens : of the attention feature at each level, standardised by a batch norm without parameters
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int = 512,
                 tokens: Sequence[int] = ()) -> None:
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

        super().__init__()
        self._tokens = list(tokens) or [0] * len(channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(t, affine=False) if t else nn.Identity()
                                   for t in self._tokens)
        widths = [c + t for c, t in zip(channels, self._tokens, strict=True)][::-1]
        config = UperNetConfig(num_labels=classes, hidden_size=width, auxiliary_channels=width // 2)
        self.decoder: nn.Module = UperNetHead(config, widths)
        self.auxiliary: nn.Module = UperNetFCNHead(config, widths, max(0, len(widths) - 2))

    def forward(self, levels: Sequence[torch.Tensor],
                attention: Sequence[torch.Tensor | None]) -> Decoded:
        """(B, C_l, h_l, w_l) of each level, coarse to fine, with (B, T_l, h_l, w_l) or None."""
        joined = [self._join(i, level, more)
                  for i, (level, more) in enumerate(zip(levels, attention, strict=True))]
        size = len(joined[0])
        if self.training and size == 1:  # one 1×1 map has no variance: show it twice
            joined = [torch.cat([level, level]) for level in joined]
        finest_first = joined[::-1]
        auxiliary = self.auxiliary(finest_first)[:size] if self.training else None
        return Decoded(self.decoder(finest_first)[:size], auxiliary)

    def _join(self, number: int, level: torch.Tensor, more: torch.Tensor | None) -> torch.Tensor:
        if not self._tokens[number] or more is None:
            return level
        return torch.cat([level, self.norms[number](more)], 1)
