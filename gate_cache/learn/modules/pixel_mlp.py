"""``pixel-mlp``: an ensemble of MLPs on single pixels, as in DatasetGAN and ddpm-segmentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from gate_cache.learn.mixing.vectors import RowNorm

NARROW, WIDE = (128, 32), (256, 128)
FEW = 30
"""Below this number of classes the MLPs are narrow."""
_INIT = 0.02


class PixelMLPs(nn.Module):
    """M MLPs: twice linear, ReLU, batch norm, then linear; all are trained on the same batches.

    The attention feature, whose values are hundreds of times smaller than the others', is
    standardised by a batch norm without parameters.

    Parameters
    ----------
    features : of a pixel without attention: n·C + E
    tokens : T of the attention feature, 0 without
    classes : 128 and 32 hidden units below 30, else 256 and 128
    members : M
    """

    def __init__(self, features: int, tokens: int, classes: int, members: int) -> None:
        super().__init__()
        self.attention_norm = RowNorm(tokens, affine=False) if tokens else None
        first, second = widths(classes)
        self.layers = nn.ModuleList([
            ParallelLinear(members, features + tokens, first), MemberNorm(members, first),
            ParallelLinear(members, first, second), MemberNorm(members, second),
            ParallelLinear(members, second, classes)])

    def forward(self, maps: torch.Tensor, attention: torch.Tensor | None,
                extra: torch.Tensor | None) -> torch.Tensor:
        """(M or 1, B, n, C), (B, T) or None, (B, E) or None to logits (M, B, classes)."""
        parts = [maps.flatten(2)]
        if self.attention_norm is not None and attention is not None:
            parts.append(self.attention_norm(attention).expand(len(maps), -1, -1))
        if extra is not None:
            parts.append(extra.expand(len(maps), -1, -1))
        return self.after_first(self.layers[0](torch.cat(parts, -1)))

    def after_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the first layer gives, (M, B, units), to logits (M, B, classes)."""
        _, norm, second, other, last = self.layers
        return torch.as_tensor(last(other(second(norm(hidden.relu())).relu())))

    def first_layer(self, maps: int) -> FirstLayer:
        """The first layer by what it reads, with the standardisation of attention (in `eval`).

        Parameters
        ----------
        maps : n·C
        """
        first, tokens = self.layers[0], 0
        assert isinstance(first, ParallelLinear)
        bias: torch.Tensor = first.bias
        attention = None
        if (norm := self.attention_norm) is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            tokens = norm.num_features
            scale = (norm.running_var + norm.eps).rsqrt()  # the norm is affine: fold it in
            weight = first.weight[:, maps:maps + tokens] * scale[:, None]
            bias = bias - torch.einsum("t,mth->mh", norm.running_mean, weight)[:, None]
            attention = _flat(weight)
        rest = first.weight[:, maps + tokens:]
        return FirstLayer(first.weight[:, :maps], attention,
                          _flat(rest) if rest.shape[1] else None, bias)


class FirstLayer(NamedTuple):
    """A first layer, of M members with H units.

    Attributes
    ----------
    of_maps : (M, n·C, H)
    attention : (T, M·H) or None
    extra : (E, M·H) or None
    bias : (M, 1, H)
    """

    of_maps: torch.Tensor
    attention: torch.Tensor | None
    extra: torch.Tensor | None
    bias: torch.Tensor

    @property
    def units(self) -> int:
        """H."""
        return self.bias.shape[-1]

    def maps(self, assigners: int) -> torch.Tensor:
        """(C, M·n·H) of n assigners."""
        members, width, units = self.of_maps.shape
        split = self.of_maps.view(members, assigners, width // assigners, units)
        return split.permute(2, 0, 1, 3).flatten(1)


def _flat(weight: torch.Tensor) -> torch.Tensor:
    """(M, F, H) to (F, M·H)."""
    return weight.transpose(0, 1).flatten(1)


class ParallelLinear(nn.Module):
    """A linear layer for each member; weights N(0, 0.02²) and no bias at first, as the peers do."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, inputs, outputs) * _INIT)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M or 1, B, inputs) to (M, B, outputs)."""
        return torch.matmul(x, self.weight) + self.bias


class MemberNorm(nn.Module):
    """Batch norm of each member's own units."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.norm = RowNorm(members * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, B, width) to the same."""
        flat = self.norm(x.transpose(0, 1).flatten(1))
        return torch.as_tensor(flat.unflatten(1, (len(x), -1)).transpose(0, 1))


def widths(classes: int) -> tuple[int, int]:
    """Units of both hidden layers."""
    return NARROW if classes < FEW else WIDE


def vote(logits: torch.Tensor) -> torch.Tensor:
    """(M, B, K) logits to (B,) classes by majority; of a tie the smallest number."""
    votes = nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return torch.as_tensor(votes.argmax(-1))


def disagreement(logits: torch.Tensor) -> torch.Tensor:
    """(B,) share of members that did not vote for the winner."""
    return (logits.argmax(-1) != vote(logits)).float().mean(0)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """(B,) entropy, in nats, of the members' mean distribution."""
    mean = logits.softmax(-1).mean(0)
    return torch.as_tensor(torch.special.entr(mean).sum(-1))
