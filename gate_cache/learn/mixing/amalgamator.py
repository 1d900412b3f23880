"""Amalgamation: n weighted sums of a bucket, and the two regularisers (Eq. 3–5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.core.size import Sides, Size
from gate_cache.learn.mixing.projection import PrincipalComponents, Projection
from gate_cache.learn.tasks.task import Output
from gate_cache.manifest.heads import Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Bucket, Stacks
    from gate_cache.manifest.train_spec import TrainSpec

EPS = 1e-12  # under the root of a norm, whose gradient at 0 would be NaN
Weights = Literal["map", "channel"]


class Amalgamated(NamedTuple):
    """n weighted sums and their weights.

    Attributes
    ----------
    maps : (B, n, C, h, w), Σ_i w_i^j r_i for each assigner j
    weights : (B, n, b), or (B, n, b, C) of channels; their sum over b is 1
    """

    maps: torch.Tensor
    weights: torch.Tensor


class Amalgamator(nn.Module):
    """n weight assigners over a bucket of b feature maps (Eq. 3 and 4).

    Parameters
    ----------
    channels : C of a feature map
    assigners : n
    hidden, dropout : of each assigner
    weights : of a whole ``map``, as the paper has it, or of each ``channel``, as the released code
    resolution : to which the maps are averaged before they are weighed, where they are finer: side
        or (height, width); by default as they are
    """

    def __init__(self, channels: int, assigners: int, hidden: int = 128, dropout: float = 0.1,
                 weights: Weights = "map", resolution: Sides | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        outputs = 1 if weights == "map" else channels
        self.assigners = nn.ModuleList(
            ConvAssigner(channels, hidden, dropout, outputs) for _ in range(assigners))

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, C, h, w) to n sums."""
        return mix(bucket, self.weigh(bucket))

    def weigh(self, *buckets: torch.Tensor) -> torch.Tensor:
        """(B, b, C, h, w) to (B, n, b[, C]) weights: softmax over the b maps (Eq. 3).

        Of several batches, which may differ in h and w, one after the other.
        """
        maps = [self._averaged(bucket.flatten(0, 1)) for bucket in buckets]
        logits = [f(*maps).unflatten(0, (-1, buckets[0].shape[1])) for f in self.assigners]
        return torch.stack(logits, 1).softmax(2)

    def _averaged(self, maps: torch.Tensor) -> torch.Tensor:
        if self.resolution:
            size = Size(*map(min, Size.of(self.resolution), maps.shape[-2:]))
            if tuple(size) != tuple(maps.shape[-2:]):
                maps = F.adaptive_avg_pool2d(maps, size)  # the mixed maps stay as fine as they are
        return maps


class FixedWeights(nn.Module):
    """One assigner that always says the same: uniform, or a single feature.

    Parameters
    ----------
    weights : b numbers that sum to 1
    """

    weights: torch.Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        fixed = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", fixed, persistent=False)

    def forward(self, bucket: torch.Tensor) -> Amalgamated:
        """(B, b, …) to one sum."""
        return mix(bucket, self.weigh(bucket))

    def weigh(self, *buckets: torch.Tensor) -> torch.Tensor:
        """(B, 1, b), whatever is in the buckets."""
        return self.weights.expand(sum(map(len, buckets)), 1, -1)


def mix(bucket: torch.Tensor, weights: torch.Tensor) -> Amalgamated:
    """Σ_i w_i^j r_i of (B, b, C, …), for weights (B, n, b) or (B, n, b, C) (Eq. 4)."""
    of_each = "bnk,bk...->bn..." if weights.dim() == 3 else "bnkc,bkc...->bnc..."
    return Amalgamated(torch.einsum(of_each, weights, bucket), weights)


def by_map(weights: torch.Tensor) -> torch.Tensor:
    """(…, n, b) weights as they are; of (N, n, b, C) ones their means over the channels."""
    return weights.mean(-1) if weights.dim() == 4 else weights


def sparsity(weights: torch.Tensor) -> torch.Tensor:
    """Σ_j ‖w^j‖₂ of (B, n, b[, C]) weights, mean over batch and channels (Eq. 5, first)."""
    return _norm(weights).sum(1).mean()


def diversity(weights: torch.Tensor) -> torch.Tensor:
    """½ Σ_j Σ_{k≠j} ‖w^j − w^k‖₂ of such weights, mean over batch and channels (Eq. 5, second).

    The gradient is finite where two assigners agree: there it is zero.
    """
    n = weights.shape[1]
    j, k = torch.triu_indices(n, n, 1, device=weights.device)
    return _norm(weights[:, j] - weights[:, k]).sum(1).mean()


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over the maps of (B, n, b[, C]), with a finite gradient at 0."""
    return (x.square().sum(2) + EPS).sqrt()


class ConvAssigner(nn.Module):
    """Convolution 3×3, ReLU, batch norm, dropout, global average, linear: a map to logits.

    Parameters
    ----------
    channels : C of a feature map
    hidden : width after the convolution, 128 by default
    dropout : probability
    outputs : logits of a map. Where there are several, the convolution has no bias: they are of the
        released code, which has none
    """

    def __init__(self, channels: int, hidden: int = 128, dropout: float = 0.1,
                 outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=outputs == 1), nn.ReLU(),
            nn.BatchNorm2d(hidden), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) to (N,) logits, or (N, outputs).

        Of several batches, which may differ in h and w, one after the other: they are normalised
        as one.
        """
        if len(maps) == 1:
            return torch.as_tensor(self.body(maps[0])).squeeze(1)
        # By number, since checkpoints name them so: convolution and ReLU, norm and dropout, linear.
        hidden = [self.body[:2](some) for some in maps]
        cells = [h.transpose(0, 1).flatten(1) for h in hidden]
        normal = self.body[2:4](torch.cat(cells, 1)[None, :, :, None])[0, :, :, 0]
        means = [part.unflatten(1, (len(h), -1)).mean(2).T for part, h in zip(
            normal.split([c.shape[1] for c in cells], 1), hidden, strict=True)]
        return torch.as_tensor(self.body[6](torch.cat(means))).squeeze(1)


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
    projection : of maps before they are mixed, if any
    """

    _index: torch.Tensor

    def __init__(self, mixer: nn.Module, head: nn.Module, chosen: Sequence[int] | None = None,
                 attention: AttentionIn | None = "head",
                 projection: Projection | None = None) -> None:
        super().__init__()
        self.mixer = mixer
        self.projection = projection
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
        if self.projection is not None:
            chosen = self.projection(chosen)
        if attention is None or self.attention is None:
            return chosen, None
        if self.attention == "head":
            return chosen, attention
        repeated = attention[:, None].expand(-1, chosen.shape[1], *attention.shape[1:])
        return torch.cat([chosen, repeated], 2), None


class CorrespondenceModel(MixedModel):
    """Amalgamate a bucket (`Amalgamator`), then apply the head."""

    mixer: Amalgamator | FixedWeights

    def forward(self, batch: Bucket | Stacks, weights: torch.Tensor | None = None) -> Output:
        """A batch of buckets to descriptors (B, D, h, w) of unit length over D.

        Where they differ in h and w the descriptors are a list.

        Parameters
        ----------
        batch, weights : maps, and their weights where they are known already
        """
        inputs = [self.parts(part.conv, part.attention) for part in batch.parts]
        if weights is None:
            weights = self.mixer.weigh(*(maps for maps, _ in inputs))
        each = torch.split(weights, [len(maps) for maps, _ in inputs])
        values = [self.head(mix(maps, own).maps, beside)
                  for (maps, beside), own in zip(inputs, each, strict=True)]
        if len(values) == 1:
            return Output(values[0], weights)
        every = [one for some in values for one in some]
        return Output([every[place] for place in batch.places], weights[batch.places])


def build_model(spec: TrainSpec, channels: int, weights: list[float] | None = None,
                chosen: Sequence[int] | None = None,
                tokens: int | None = 0) -> CorrespondenceModel:
    """GATE, n weight assigners and the head; or a baseline with given weights.

    Parameters
    ----------
    spec : settings of the training, its head's among them
    channels : C of a bucket's maps
    weights : of each chosen map, for a baseline; None or empty: assigners learn them
    chosen : which of the maps are mixed; all by default
    tokens : T of its attention feature, where there is one; None: it is not used
    """
    n, mixed = 1 if weights else spec.assigners, inside(spec, tokens)
    width, projection = projected(spec, channels)
    sizes = Sizes(n, width + mixed, tokens=(tokens or 0) - mixed)
    mixer = FixedWeights(weights) if weights else Amalgamator(
        sizes.channels, n, spec.hidden, spec.dropout, spec.weights, spec.assigner_resolution)
    return CorrespondenceModel(mixer, head_of(spec.head.name).build(spec.head, sizes), chosen,
                               None if tokens is None else spec.attention_in, projection)


def projected(spec: TrainSpec, channels: int) -> tuple[int, Projection | None]:
    """C of maps before they are mixed, and what brings them to it where models are projected."""
    if spec.mix and spec.mix.pca:
        return spec.mix.pca, PrincipalComponents(channels, spec.mix.pca)
    width = spec.mix.projection if spec.mix else None
    return (width, Projection(channels, width)) if width else (channels, None)


def inside(spec: TrainSpec, tokens: int | None) -> int:
    """How many of an attention feature's T channels are mixed."""
    return (tokens or 0) if spec.attention_in == "bucket" else 0
