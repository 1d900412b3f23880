"""Label-scarce segmentation by an ensemble of MLPs on single pixels, as a task (paper, Table 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.features.reservoir import Draw, Reservoir, Sampling, fill
from gate_cache.learn.metrics.image_scores import ImageScores
from gate_cache.learn.mixing.amalgamator import FixedWeights, by_map, inside, projected
from gate_cache.learn.mixing.vectors import VectorAmalgamator, VectorModel, Vectors
from gate_cache.learn.modules.pixel_mlp import disagreement, entropy, vote
from gate_cache.learn.tasks.floors import mask_floors
from gate_cache.learn.tasks.task import ImagesTask, Painted
from gate_cache.learn.tasks.whole_image import WholeImage
from gate_cache.manifest.heads import PixelSpec, Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import SegmentationDataset, Split
    from gate_cache.learn.features.native import NativeMaps
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.learn.tasks.task import Output, Scores
    from gate_cache.manifest.train_spec import TrainSpec

WEIGHED = 16
"""Pixels of a tile whose weights are kept for statistics."""
STRIP = 2**17
"""Pixels whose weights are held at once."""


class PixelTask(ImagesTask):
    """Labelled pixels, trained from a reservoir and judged on whole images in tiles.

    Parameters
    ----------
    maps, data, ids : as of `ImagesTask`
    bound : bytes of the reservoir at most
    sampling : of its pixels
    min_pixels : as of `fill`
    """

    unit = "pixels"

    def __init__(self, maps: NativeMaps, data: SegmentationDataset, ids: dict[Split, list[str]],
                 bound: int, sampling: Sampling = "uniform", min_pixels: int = 0) -> None:
        super().__init__(maps, data, ids)
        self._bound = bound
        self._sampling: Sampling = sampling
        self._min_pixels = min_pixels

    @cached_property
    def reservoir(self) -> Reservoir:
        """The training pixels, sampled on first use."""
        draw = Draw(self._bound, self._sampling, self._min_pixels)
        ids = self._ids["train"]
        with self.show.task("reading", len(ids), "images") as bar:
            return fill(self.maps, self.data, ids, draw, bar.advance)

    def items(self) -> Sequence[int]:
        """Numbers of the reservoir's pixels."""
        return range(len(self.reservoir))

    def feed(self, batches: Iterable[Sequence[int]]) -> Iterator[Vectors]:
        """Features of some pixels."""
        return map(self.reservoir, batches)

    def labels(self, items: Sequence[int]) -> torch.Tensor:
        """(B,) classes."""
        return self.reservoir.labels[list(items)].to(self.maps.device, non_blocking=True)

    def loss(self, values: torch.Tensor, items: Sequence[int]) -> torch.Tensor:
        """Cross-entropy of (M, B, K) logits: each member's is that of a training alone, over M."""
        return F.cross_entropy(values.flatten(0, 1), self.labels(items).repeat(len(values)))

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> VectorModel:
        """GATE, or a baseline; see `Task.model`."""
        n, maps, own = 1 if weights else spec.assigners, self.maps, cast(PixelSpec, spec.head)
        tokens = maps.tokens if attention else 0
        width, projection = projected(spec, maps.channels)
        channels = width + (mixed := inside(spec, tokens))
        mixer: nn.Module = FixedWeights(weights) if weights else VectorAmalgamator(
            channels, n, spec.hidden, spec.dropout, own.members, spec.weights)
        sizes = Sizes(n, channels, tokens=tokens - mixed, extra=maps.extra_channels,
                      classes=len(self.data.classes))
        return VectorModel(mixer, head_of(own.name).build(own, sizes), chosen,
                           spec.attention_in if attention else None, projection)

    def floors(self) -> dict[Role, Scores]:
        """What masks alone say of ``test``."""
        return mask_floors(self.data, self._ids, scarce=True)

    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """Scores of every model in original pixels; features are read once for all of them."""
        tallies = [ImageScores(self.data.classes, scarce=True) for _ in models]
        for sample_id in self.evaluated(split, self.maps.read_ahead(self._ids[split])):
            true = self.data.mask(sample_id)
            for tally, result in zip(tallies, self._results(models, sample_id), strict=True):
                tally.image(true, result.classes())
                for weights in result.weights:
                    tally.weigh(weights)
                means = torch.cat(result.doubts, 1).mean(1).tolist()
                tally.add("members that disagree", 100 * means[0])
                tally.add("entropy of the mean", means[1])
        return [t.segmentation(split == "test", self._ids[split]) for t in tallies]

    def predict(self, models: Sequence[nn.Module],
                sample_id: str) -> list[tuple[npt.NDArray[np.uint8], torch.Tensor]]:
        """Each model's (H, W) classes of an image's own pixels, and weights of some of them."""
        return [(result.classes(), torch.cat(result.weights))
                for result in self._results(models, sample_id)]

    @torch.inference_mode()
    def _results(self, models: Sequence[nn.Module], sample_id: str) -> list[_ImageResult]:
        """What every model makes of an image."""
        height, width = self.data.size(sample_id)
        results = [_ImageResult((height, width)) for _ in models]
        image = WholeImage(self.maps, sample_id, (height, width))
        for model, of_model in zip(models, results, strict=True):
            for strip in tiles(height * width, STRIP):
                for output in image.outputs(cast(VectorModel, model.eval()), strip):
                    of_model.add(output)
        return results

    def paint(self, model: nn.Module, sample_id: str) -> Painted:
        """One ensemble's votes on an image's own pixels, and the share of members against them."""
        (result,) = self._results([model], sample_id)
        against = torch.cat(result.doubts, 1)[0].numpy().reshape(result.size)
        return Painted(result.classes(), against, "members that disagree", 1.0)


@dataclass
class _ImageResult:
    """One model's votes, doubts (disagreement, entropy) and some weights, tile by tile."""

    size: tuple[int, int]
    votes: list[torch.Tensor] = field(default_factory=list)
    doubts: list[torch.Tensor] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    def add(self, output: Output) -> None:
        self.votes.append(vote(output.values).byte().cpu())  # a byte a pixel: logits are M·K floats
        doubts = [disagreement(output.values), entropy(output.values)]
        self.doubts.append(torch.stack(doubts).cpu())
        step = max(1, output.weights.shape[1] // WEIGHED)
        self.weights.append(by_map(output.weights[:, ::step].flatten(0, 1)))

    def classes(self) -> npt.NDArray[np.uint8]:
        return np.asarray(torch.cat(self.votes).numpy().reshape(self.size), np.uint8)
