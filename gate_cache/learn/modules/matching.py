"""Modules of the heads that match points: a descriptor for every position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

ATTENTION_SCALE = 0.5  # at first


class Join(nn.Module):
    """Concatenate amalgamated and attention features, each of unit length at every position.

    Without that, cosine similarity would hardly see the attention feature, whose values are
    hundreds of times smaller. Its share is one learnt number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_scale = nn.Parameter(torch.tensor(ATTENTION_SCALE))

    def forward(self, features: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, D, h, w) and (B, T, h, w) or None to (B, D + T, h, w) of unit length over D + T."""
        joined = F.normalize(features, dim=1)
        if attention is None:
            return joined
        scaled = F.normalize(attention, dim=1) * self.attention_scale
        return F.normalize(torch.cat([joined, scaled], 1), dim=1)


class NearestNeighbour(nn.Module):
    """Concatenate the n sums (Eq. 4), then the attention feature. Nothing else is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.join = Join()

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, n, C, h, w) and (B, T, h, w) or None to unit descriptors (B, n·C + T, h, w)."""
        return torch.as_tensor(self.join(maps.flatten(1, 2), attention))


class ConvHead(nn.Module):
    """A convolution of its own for each of the n sums, concatenated, then attention.

    Parameters
    ----------
    channels : C of a feature map
    assigners : n
    out_channels : of each convolution
    """

    def __init__(self, channels: int, assigners: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, padding=1) for _ in range(assigners))
        self.join = Join()

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, n, C, h, w) and (B, T, h, w) or None to unit descriptors (B, D, h, w)."""
        parts = [conv(maps[:, j]) for j, conv in enumerate(self.convs)]
        return torch.as_tensor(self.join(torch.cat(parts, 1), attention))


class ReleasedConvHead(nn.Module):
    """As GATE's released code: the attention feature goes through the convolutions, as it is.

    A convolution has as many channels out as in, and no bias.

    Parameters
    ----------
    channels : C of a feature map
    assigners : n
    tokens : T of the attention feature, 0 without
    """

    def __init__(self, channels: int, assigners: int, tokens: int) -> None:
        super().__init__()
        width = channels + tokens
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(assigners))

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """(B, n, C, h, w) and (B, T, h, w) or None to unit descriptors (B, n·(C + T), h, w)."""
        more = [] if attention is None else [attention]
        parts = [conv(torch.cat([maps[:, j], *more], 1)) for j, conv in enumerate(self.convs)]
        return F.normalize(torch.cat(parts, 1), dim=1)
