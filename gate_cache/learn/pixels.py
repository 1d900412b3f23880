"""Label-scarce segmentation by an ensemble of MLPs on single pixels, as a task (paper, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.datasets.base import SegmentationDataset, Split
from gate_cache.learn.amalgamator import FixedWeights
from gate_cache.learn.heads.pixel_mlp import PixelMLPs, disagreement, entropy, vote
from gate_cache.learn.native import NativeMaps
from gate_cache.learn.painted import Painted
from gate_cache.learn.pixel_grid import tiles
from gate_cache.learn.reservoir import Reservoir, Sampling, fill
from gate_cache.learn.tally import Tally
from gate_cache.learn.task import Output, Scores
from gate_cache.learn.vectors import VectorAmalgamator, VectorModel, Vectors
from gate_cache.learn.whole_image import WholeImage
from gate_cache.specs import TrainSpec

WEIGHED = 16
"""Pixels of a tile whose weights are kept for statistics."""
STRIP = 2**17
"""Pixels whose weights are held at once."""


class PixelTask:
    """Labelled pixels, trained from a reservoir and judged on whole images in tiles.

    Parameters
    ----------
    maps : of all combos that any trial uses
    data : for masks
    ids : samples of each split
    bound : bytes of the reservoir at most
    sampling : of its pixels
    """

    unit = "pixels"
    select = "mIoU"

    def __init__(self, maps: NativeMaps, data: SegmentationDataset, ids: dict[Split, list[str]],
                 bound: int, sampling: Sampling = "uniform") -> None:
        self.maps = maps
        self.data = data
        self._ids = ids
        self._bound = bound
        self._sampling: Sampling = sampling

    @cached_property
    def reservoir(self) -> Reservoir:
        """The training pixels, sampled on first use."""
        return fill(self.maps, self.data, self._ids["train"], self._bound, self._sampling)

    def items(self) -> Sequence[int]:
        """Numbers of the reservoir's pixels."""
        return range(len(self.reservoir))

    def inputs(self, items: Sequence[int]) -> Vectors:
        """Features of some pixels."""
        return self.reservoir(items)

    def criterion(self) -> nn.Module:
        """Cross-entropy, mean over members."""
        return _PixelLoss(self)

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> VectorModel:
        """GATE, or a baseline with given weights."""
        n, maps = 1 if weights else spec.assigners, self.maps
        mixer: nn.Module = FixedWeights(weights) if weights else VectorAmalgamator(
            maps.channels, n, spec.hidden, spec.dropout, spec.members)
        head = PixelMLPs(n * maps.channels + maps.extra_channels, maps.tokens if attention else 0,
                         len(self.data.classes), spec.members)
        return VectorModel(mixer, head, chosen, attention)

    @torch.inference_mode()
    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """Scores of every model in original pixels; features are read once for all of them."""
        tallies = [Tally(self.data.classes) for _ in models]
        for sample_id in self._ids[split]:
            self._judge(models, sample_id, tallies)
        return [t.segmentation(split == "test") for t in tallies]

    def _judge(self, models: Sequence[nn.Module], sample_id: str,
               tallies: Sequence[Tally]) -> None:
        true = self.data.mask(sample_id)
        image = WholeImage(self.maps, sample_id, (true.shape[0], true.shape[1]))
        for model, tally in zip(models, tallies, strict=True):
            parts, doubts = [], []
            for output in self._outputs(image, model, true.size):
                parts.append(vote(output.values).byte().cpu())
                doubts.append(torch.stack([disagreement(output.values),
                                           entropy(output.values)]).cpu())
                weights = output.weights
                tally.weigh(weights[:, ::max(1, weights.shape[1] // WEIGHED)].flatten(0, 1))
            tally.image(true, np.asarray(torch.cat(parts).numpy()).reshape(true.shape))
            means = torch.cat(doubts, 1).mean(1).tolist()
            tally.add("members that disagree", 100 * means[0])
            tally.add("entropy of the mean", means[1])

    @torch.inference_mode()
    def paint(self, model: nn.Module, sample_id: str) -> Painted:
        """One ensemble's votes on an image's own pixels, and the share of members against them."""
        size = self.data.size(sample_id)
        image = WholeImage(self.maps, sample_id, size)
        votes, against = [], []
        for output in self._outputs(image, model, size[0] * size[1]):
            votes.append(vote(output.values).byte().cpu())
            against.append(disagreement(output.values).cpu())
        return Painted(torch.cat(votes).numpy().reshape(size),
                       torch.cat(against).numpy().reshape(size), "members that disagree", 1.0)

    def _outputs(self, image: WholeImage, model: nn.Module, pixels: int) -> Iterator[Output]:
        """A model's outputs for all of an image's pixels, along the rows."""
        for strip in tiles(pixels, STRIP):
            yield from image.outputs(cast(VectorModel, model.eval()), strip)


class _PixelLoss(nn.Module):
    """Cross-entropy of (M, B, K) logits: each member's is that of a training alone, over M."""

    def __init__(self, task: PixelTask) -> None:
        super().__init__()
        self._task = task

    def forward(self, values: torch.Tensor, items: Sequence[int]) -> torch.Tensor:
        labels = self._task.reservoir.labels[list(items)].to(values.device)
        return F.cross_entropy(values.flatten(0, 1), labels.repeat(len(values)))
