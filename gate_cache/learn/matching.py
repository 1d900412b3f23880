"""Semantic correspondence as a task: pairs, their loss, PCK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gate_cache.datasets.base import Split
from gate_cache.geometry import Window
from gate_cache.learn.bucket import Bucket, Buckets, stack
from gate_cache.learn.correspondence import CorrespondenceLoss, match
from gate_cache.learn.data import Recent
from gate_cache.learn.metrics import PCK, Points, Prediction, correct, pck
from gate_cache.learn.model import CorrespondenceModel
from gate_cache.learn.pairs import PairPoints
from gate_cache.learn.task import Scores

SELECT = (0.1, "box", "point")
"""The PCK that chooses the best checkpoint on ``val``."""

_DESCRIPTOR_BYTES = 2**30


class CorrespondenceTask:
    """Pairs of images with points in common (METHOD.md section 5; paper, C.1).

    Parameters
    ----------
    buckets : of all features that any trial uses
    pairs : of each split
    """

    unit = "pairs"

    def __init__(self, buckets: Buckets, pairs: dict[Split, list[PairPoints]]) -> None:
        self.buckets = buckets
        self._pairs = pairs

    def items(self) -> Sequence[PairPoints]:
        """The training pairs."""
        return self._pairs["train"]

    def inputs(self, items: Sequence[PairPoints]) -> Bucket:
        """Buckets of all sources, then of all targets."""
        ids = [p.pair.source for p in items] + [p.pair.target for p in items]
        return stack([self.buckets.named(i) for i in ids])

    def criterion(self) -> nn.Module:
        """Cross-entropy in both directions."""
        return _PairsLoss(self.buckets)

    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """PCK of every model; an image's features are read once for all of them."""
        return [scores(found) for found in self.predict(models, self._pairs[split])]

    def predict(self, models: Sequence[nn.Module],
                pairs: Sequence[PairPoints]) -> list[list[Prediction]]:
        """Every model's predictions for all pairs."""
        share = _DESCRIPTOR_BYTES // max(len(models), 1)
        predictors = [Predictor(model, self.buckets, share) for model in models]
        found: list[list[Prediction]] = [[] for _ in models]
        for pair in pairs:
            for each, predictor in zip(found, predictors, strict=True):
                each.append(pair.judge(predictor(pair)))
        return found


def scores(predictions: Sequence[Prediction]) -> Scores:
    """PCK in all variants; each pair's share of right points is what an interval draws from."""
    found = pck(predictions)
    each = [100 * float(correct(p, SELECT[0], SELECT[1]).mean()) for p in predictions
            if len(p.true)]
    return Scores({k: v for k, v in found.to_json().items() if v is not None},
                  found.values[SELECT], each, {"pairs": found.pairs, "points": found.points})


class _PairsLoss(nn.Module):
    """The loss of a batch of pairs: descriptors (2B, D, h, w), sources first."""

    def __init__(self, buckets: Buckets) -> None:
        super().__init__()
        self.loss = CorrespondenceLoss()
        self._buckets = buckets

    def forward(self, descriptors: torch.Tensor, pairs: Sequence[PairPoints]) -> torch.Tensor:
        halves = torch.split(descriptors, len(pairs))
        return torch.stack([pair_loss(self.loss, self._buckets, pair, a, b)
                            for pair, a, b in zip(pairs, *halves, strict=True)]).mean()


def pair_loss(loss: CorrespondenceLoss, buckets: Buckets, pair: PairPoints,
              source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of whole descriptor maps (D, h, w), of which only the images' own cells count."""
    here, there = windows(buckets, pair)
    a = torch.from_numpy(here.enter(pair.source_shares)).to(source)
    b = torch.from_numpy(there.enter(pair.target_shares)).to(target)
    return torch.as_tensor(loss(here.cut(source), there.cut(target), a, b))


def windows(buckets: Buckets, pair: PairPoints) -> tuple[Window, Window]:
    """The cells of maps that show the source and the target: points are matched nowhere else."""
    return buckets.window(pair.source.size), buckets.window(pair.target.size)


class Predictor:
    """Matches pairs with a model, computing each image's descriptors once while they fit.

    Parameters
    ----------
    bound : bytes of descriptors held at most
    """

    def __init__(self, model: nn.Module, buckets: Buckets,
                 bound: int = _DESCRIPTOR_BYTES) -> None:
        self._model = model.eval()
        self._buckets = buckets
        self._described: Recent[torch.Tensor] = Recent(self._describe, lambda d: d.nbytes, bound)
        self.weights: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def _describe(self, sample_id: str) -> torch.Tensor:
        batch = stack([self._buckets.named(sample_id)])
        found = self._model(batch)
        self.weights[sample_id] = found.weights[0].cpu()
        return torch.as_tensor(found.values[0])

    @torch.inference_mode()
    def __call__(self, pair: PairPoints) -> Points:
        """(K, 2) predicted points as shares of the target's sides."""
        here, there = windows(self._buckets, pair)
        source = here.cut(self._described(pair.pair.source))
        points = torch.from_numpy(here.enter(pair.source_shares)).to(source)
        target = there.cut(self._described(pair.pair.target))
        return there.leave(np.asarray(match(source, target, points).cpu().double()))


def judge(model: CorrespondenceModel, buckets: Buckets, pairs: Sequence[PairPoints]) -> PCK:
    """PCK of a model over pairs."""
    return pck([pair.judge(p) for pair, p in _each(model, buckets, pairs)])


def _each(model: nn.Module, buckets: Buckets, pairs: Sequence[PairPoints]) -> Any:
    predictor = Predictor(model, buckets)
    return ((pair, predictor(pair)) for pair in pairs)
