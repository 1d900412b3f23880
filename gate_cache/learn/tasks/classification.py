"""Classification of whole images from pooled features, as a task (paper, Table 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from gate_cache.learn.features.feed import batched
from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.metrics.image_scores import ImageScores
from gate_cache.learn.mixing.amalgamator import FixedWeights, inside, projected
from gate_cache.learn.mixing.vectors import VectorAmalgamator, VectorModel, Vectors, stack_vectors
from gate_cache.learn.tasks.floors import label_floor
from gate_cache.learn.tasks.task import ImagesTask
from gate_cache.manifest.heads import Sizes, head_of

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import ClassifiedDataset, Split
    from gate_cache.learn.features.native import NativeMaps
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.learn.tasks.task import Scores
    from gate_cache.manifest.train_spec import TrainSpec

BATCH = 256
"""Images judged at once."""


class ClassificationTask(ImagesTask):
    """Images with one class each."""

    unit = "images"
    select = "accuracy"

    def __init__(self, maps: NativeMaps, data: ClassifiedDataset,
                 ids: dict[Split, list[str]]) -> None:
        super().__init__(maps, data, ids)
        self._labels = {i: data.label(i) for of_split in ids.values() for i in of_split}
        names = list(data.classes)
        self.classes = names[:1 + max(self._labels.values(), default=0)]

    def feed(self, batches: Iterable[Sequence[str]]) -> Iterator[Vectors]:
        """Pooled features of some images."""
        return map(stack_vectors, batched(self.maps.pooled, batches))

    def examples(self, ids: Sequence[str], places: int) -> Iterator[torch.Tensor]:
        """Their means; see `Task.examples`."""
        return (batch.conv for batch in self.maps.pooled(ids))

    def labels(self, items: Sequence[str]) -> torch.Tensor:
        """(B,) classes."""
        return torch.tensor([self._labels[i] for i in items]).to(self.maps.device,
                                                                non_blocking=True)

    def loss(self, values: torch.Tensor, items: Sequence[str]) -> torch.Tensor:
        """Cross-entropy of (B, K) logits."""
        return F.cross_entropy(values, self.labels(items))

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> VectorModel:
        """GATE, or a baseline; see `Task.model`."""
        n, parts = 1 if weights else spec.assigners, self.maps.spec.pool**2
        tokens = self.maps.tokens * parts if attention else 0
        width, projection = projected(spec, self.maps.channels * parts)
        channels = width + (mixed := inside(spec, tokens))
        mixer: nn.Module = FixedWeights(weights) if weights else \
            VectorAmalgamator(channels, n, spec.hidden, spec.dropout, weights=spec.weights)
        sizes = Sizes(n, channels, tokens=tokens - mixed, classes=len(self.classes))
        head = head_of(spec.head.name).build(spec.head, sizes)
        return VectorModel(mixer, head, chosen, spec.attention_in if attention else None,
                           projection)

    def floors(self) -> dict[Role, Scores]:
        """What the labels alone say of ``test``."""
        return label_floor(self._labels, self.classes, self._ids)

    @torch.inference_mode()
    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """Top-1 accuracy of every model; features are read once for all of them."""
        tallies, ids = [ImageScores(self.classes) for _ in models], self._ids[split]
        parts = [ids[part] for part in tiles(len(ids), BATCH)]
        for part, batch in zip(self.evaluated(split, parts, len), self.feed(parts), strict=True):
            true = [self._labels[i] for i in part]
            for model, tally in zip(models, tallies, strict=True):
                output = model.eval()(batch)
                sure, classes = output.values.softmax(-1).max(-1)
                for label, guess, share in zip(true, classes.tolist(), sure.tolist(), strict=True):
                    tally.image(np.array([label]), np.array([guess]))
                    tally.note(true=label, predicted=guess, confidence=share)
                tally.weigh(output.weights)
        return [t.classification(split == "test", ids) for t in tallies]
