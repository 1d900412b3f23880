"""Semantic segmentation with UPerNet as a task (paper, section 5, Table 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.datasets.common.base import IGNORED, SegmentationDataset, Split
from gate_cache.learn.features.feed import batched
from gate_cache.learn.features.pixel_grid import centres, read_at, tiles
from gate_cache.learn.metrics.image_scores import ImageScores
from gate_cache.learn.mixing.amalgamator import Amalgamator, FixedWeights, MixedModel, mix
from gate_cache.learn.tasks.floors import at_pixels, mask_floors
from gate_cache.learn.tasks.task import ImagesTask, Output, Painted, Scores
from gate_cache.manifest.heads import Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement
    from gate_cache.core.size import Size
    from gate_cache.learn.features.native import Native, NativeMaps
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.learn.modules.upernet import Decoded
    from gate_cache.manifest.train_spec import TrainSpec

LEVELS = 3
"""The three coarsest maps: up0, up1 and up2, as in the paper."""
AUXILIARY = 0.4
"""Weight of the auxiliary head's loss, transformers' default."""
STRIP_BYTES = 2**26
"""Logits in original pixels held at once."""


class Levels(NamedTuple):
    """Features of a batch of images.

    Attributes
    ----------
    joined : (B, b, C, h, w), all levels resized to the finest and concatenated: for the assigners
    levels : (B, b, C_l, h_l, w_l) each, coarse to fine
    attention : (B, T_l, h_l, w_l) or None for each level
    """

    joined: torch.Tensor
    levels: tuple[torch.Tensor, ...]
    attention: tuple[torch.Tensor | None, ...]


class LevelsModel(MixedModel):
    """Weigh a bucket by its concatenated maps, mix every level by these weights, decode.

    Its head is made for the attention maps that it takes.
    """

    mixer: Amalgamator | FixedWeights

    def forward(self, batch: Levels) -> Output:
        """`Decoded` logits, and weights (B, n, b[, C])."""
        weights = self.mixer.weigh(self.of_bucket(batch.joined))
        widths = [level.shape[2] for level in batch.levels]
        per_level = torch.split(weights, widths, 3) if weights.dim() == 4 \
            else [weights] * len(widths)
        sums = [mix(self.of_bucket(level), own).maps.flatten(1, 2)
                for level, own in zip(batch.levels, per_level, strict=True)]
        return Output(self.head(sums, batch.attention), weights)


class SegmentationTask(ImagesTask):
    """Images with masks, learnt whole."""

    unit = "images"

    def __init__(self, maps: NativeMaps, data: SegmentationDataset,
                 ids: dict[Split, list[str]]) -> None:
        super().__init__(maps, data, ids)
        self._attention = _nearest(maps)

    def feed(self, batches: Iterable[Sequence[str]]) -> Iterator[Levels]:
        """Maps of all levels, and the joined ones."""
        return map(self._levels, batched(self.maps.stream, batches))

    def _levels(self, samples: Sequence[Native]) -> Levels:
        levels = tuple(self._stack(parts, size) for parts, size in zip(
            zip(*(m.levels for m in samples), strict=True), self.maps.level_sizes, strict=True))
        return Levels(self._join(levels), levels, self._attend(samples))

    def _stack(self, maps: Sequence[torch.Tensor], size: Size) -> torch.Tensor:
        """Maps of several images; where their inputs have several shapes, as those of the square.

        Parameters
        ----------
        maps : (…, C, h, w) each
        size : of the square's
        """
        if not self.maps.frame.shapes:
            return torch.stack(list(maps))
        return torch.stack([F.interpolate(
            m.reshape(-1, *m.shape[-3:]), size, mode="bilinear", align_corners=False
        ).view(*m.shape[:-2], *size) for m in maps])

    def loss(self, values: Decoded, items: Sequence[str]) -> torch.Tensor:
        """Cross-entropy, mean over the input's pixels that count; plus the auxiliary head's."""
        labels = torch.stack([self.labels(i) for i in items])
        loss = mask_loss(values.logits, labels)
        if values.auxiliary is not None:
            loss = loss + AUXILIARY * mask_loss(values.auxiliary, labels)
        return loss

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> LevelsModel:
        """GATE, or a baseline; see `Task.model`."""
        n = 1 if weights else spec.assigners
        mixer = FixedWeights(weights) if weights else \
            Amalgamator(self.maps.channels, n, spec.hidden, spec.dropout, spec.weights,
                        spec.assigner_resolution)
        tokens = self._tokens() if attention else []
        sizes = Sizes(n, self.maps.channels, self.maps.level_channels, sum(tokens), tuple(tokens),
                      classes=len(self.data.classes))
        return LevelsModel(mixer, head_of(spec.head.name).build(spec.head, sizes), chosen)

    def floors(self) -> dict[Role, Scores]:
        """What masks alone say of ``test``."""
        return mask_floors(self.data, self._ids)

    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """Scores of every model in original pixels; an image is read once for all of them."""
        tallies = [ImageScores(self.data.classes) for _ in models]
        for sample_id in self.evaluated(split, self.maps.read_ahead(self._ids[split])):
            true = self.data.mask(sample_id)
            predictions = self.predict(models, sample_id)
            for tally, (predicted, weights) in zip(tallies, predictions, strict=True):
                tally.image(true, predicted)
                tally.weigh(weights)
        return [t.segmentation(split == "test", self._ids[split]) for t in tallies]

    @torch.inference_mode()
    def predict(self, models: Sequence[nn.Module],
                sample_id: str) -> list[tuple[npt.NDArray[np.uint8], torch.Tensor]]:
        """Each model's (H, W) classes of an image's own pixels, and its weights (1, n, b)."""
        batch, predictions = self._levels([self.maps(sample_id)]), []
        for model in models:
            output = model.eval()(batch)
            predictions.append((to_pixels(output.values.logits, self.maps.place(sample_id),
                                          self.data.size(sample_id)), output.weights))
        return predictions

    @torch.inference_mode()
    def paint(self, model: nn.Module, sample_id: str) -> Painted:
        """One model's classes of an image's own pixels, and the entropy of their softmax."""
        logits = model.eval()(self._levels([self.maps(sample_id)])).values.logits
        about = self.maps.place(sample_id), self.data.size(sample_id)
        entropy = _each_pixel(logits, *about, lambda values: torch.special.entr(
            values.softmax(-1)).sum(-1).float())
        return Painted(to_pixels(logits, *about), entropy, "entropy", math.log(logits.shape[1]))

    def labels(self, sample_id: str) -> torch.Tensor:
        """(H, W) classes in the model's input, or in the square; the padding is ignored."""
        framed = self.maps.place(sample_id).labels_to_frame(self.data.mask(sample_id), IGNORED)
        if self.maps.frame.shapes:
            framed = at_pixels(framed, self.maps.frame.size)
        return torch.from_numpy(framed.astype(np.int64)).to(self.maps.device, non_blocking=True)

    def _join(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        size = self.maps.resolution
        parts = [F.interpolate(m.flatten(0, 1), size, mode="bilinear", align_corners=False)
                 for m in levels]
        joined = torch.cat(parts, 1)
        return joined.view(*levels[0].shape[:2], *joined.shape[1:])

    def _attend(self, samples: Sequence[Native]) -> tuple[torch.Tensor | None, ...]:
        """Attention maps at their levels, resized where a level has another resolution."""
        parts: list[list[torch.Tensor]] = [[] for _ in self.maps.level_sizes]
        for number, level in enumerate(self._attention):
            size = self.maps.level_sizes[level]
            maps = self._stack([m.attention[number] for m in samples],
                               self.maps.attention_sizes[number])
            parts[level].append(F.interpolate(maps, size, mode="bilinear", align_corners=False))
        return tuple(torch.cat(p, 1) if p else None for p in parts)

    def _tokens(self) -> list[int]:
        counts = [0] * len(self.maps.level_sizes)
        for level, tokens in zip(self._attention, self.maps.attention_tokens, strict=True):
            counts[level] += tokens
        return counts


def to_pixels(logits: torch.Tensor, place: Placement,
              size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The likeliest class of each of an image's own pixels.

    Logits of the cells that show the image are read at every pixel's centre (bilinear).

    Parameters
    ----------
    logits : (1, K, h, w) over the input
    place : of the image in the input
    size : (H, W) of the image

    Returns
    -------
    (H, W)
    """
    classes = _each_pixel(logits, place, size, lambda values: values.argmax(-1).byte())
    return np.asarray(classes, dtype=np.uint8)


def _each_pixel(logits: torch.Tensor, place: Placement, size: tuple[int, int],
                of: Callable[[torch.Tensor], torch.Tensor]) -> npt.NDArray[Any]:
    """(H, W) of what `of` makes of (P, K) logits, a strip at a time."""
    height, width = size
    at_once = max(width, STRIP_BYTES // (4 * logits.shape[1]))
    strips = [of(read_at(logits, place, centres(size, part))[:, 0]).cpu()
              for part in tiles(height * width, at_once)]
    return np.asarray(torch.cat(strips).numpy().reshape(height, width))


def _nearest(maps: NativeMaps) -> list[int]:
    """The level whose resolution is nearest to each attention map's (as a ratio)."""
    return [min(range(len(maps.level_sizes)),
                key=lambda i: abs(np.log(maps.level_sizes[i].area / size.area)))
            for size in maps.attention_sizes]


def mask_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of (B, K, h, w) logits, resized (bilinear) to (B, H, W) labels; 0 where nothing counts."""
    resized: Any = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(resized, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)  # torch's own mean of none is NaN
