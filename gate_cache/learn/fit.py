"""The fit loop: one model, pairs in seeded order, the best checkpoint chosen on ``val``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from gate_cache.errors import UserError
from gate_cache.geometry import Window
from gate_cache.learn.amalgamator import diversity, sparsity
from gate_cache.learn.bucket import Buckets, stack
from gate_cache.learn.correspondence import CorrespondenceLoss, match
from gate_cache.learn.data import Recent
from gate_cache.learn.metrics import PCK, Points
from gate_cache.learn.model import CorrespondenceModel
from gate_cache.learn.pairs import PairPoints, evaluate
from gate_cache.progress import Progress
from gate_cache.specs import TrainSpec

SELECT = (0.1, "box", "point")
"""The PCK that chooses the best checkpoint on ``val``."""

_DESCRIPTOR_BYTES = 2**30
State = dict[str, torch.Tensor]


@dataclass
class Fitted:
    """A trained model.

    Attributes
    ----------
    best, last : weights of the best checkpoint on ``val``, and of the last step
    history : one entry a validation: pairs seen, mean loss, PCK on ``val``
    """

    best: State
    last: State
    best_at: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Predictor:
    """Matches pairs with a model, computing each image's descriptors once while they fit."""

    def __init__(self, model: CorrespondenceModel, buckets: Buckets) -> None:
        self._model = model.eval()
        self._buckets = buckets
        self._described = Recent(self._describe, lambda d: d.nbytes, _DESCRIPTOR_BYTES)
        self.weights: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def _describe(self, sample_id: str) -> torch.Tensor:
        batch = stack([self._buckets.named(sample_id)])
        found = self._model(batch)
        self.weights[sample_id] = found.weights[0].cpu()
        return torch.as_tensor(found.descriptors[0])

    @torch.inference_mode()
    def __call__(self, pair: PairPoints) -> Points:
        """(K, 2) predicted points as shares of the target's sides."""
        here, there = windows(self._buckets, pair)
        source = here.cut(self._described(pair.pair.source))
        points = torch.from_numpy(here.enter(pair.source_shares)).to(source)
        target = there.cut(self._described(pair.pair.target))
        return there.leave(np.asarray(match(source, target, points).cpu().double()))


def windows(buckets: Buckets, pair: PairPoints) -> tuple[Window, Window]:
    """The cells of maps that show the source and the target: points are matched nowhere else."""
    return buckets.window(pair.source.size), buckets.window(pair.target.size)


def judge(model: CorrespondenceModel, buckets: Buckets, pairs: Sequence[PairPoints]) -> PCK:
    """PCK of a model over pairs."""
    return evaluate(pairs, Predictor(model, buckets))


def fit(model: CorrespondenceModel, spec: TrainSpec, buckets: Buckets,
        train: Sequence[PairPoints], val: Sequence[PairPoints], show: Progress, label: str,
        log: Callable[[str], None] = lambda _: None) -> Fitted:
    """Train with AdamW on the correspondence loss and both regularisers (Eq. 5).

    The model is left with its best weights on ``val`` (its last ones without a ``val`` split).

    Parameters
    ----------
    label : what progress and log call this training
    log : called with a line at every validation

    Raises
    ------
    UserError
        The loss is not finite any more.
    """
    if not train:
        raise ValueError("no pairs to train on")
    loss = CorrespondenceLoss().to(buckets.device)
    model.to(buckets.device)
    parameters = [*model.parameters(), *loss.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    fitted = Fitted({}, {})
    best = -math.inf
    losses: list[float] = []
    with show.task(label, spec.pairs, "pairs") as task:
        for seen, batch in _batches(train, spec):
            losses.append(_step(model, loss, optimiser, spec, buckets, batch))
            task.advance(len(batch))
            if _due(seen, len(batch), spec):
                score = _validate(model, buckets, val, seen, losses, fitted)
                log(f"{label}: {json.dumps(fitted.history[-1])}")
                losses = []
                if score > best or not fitted.best:
                    best, fitted.best, fitted.best_at = score, _state(model), seen
    fitted.last = _state(model)
    if val:
        model.load_state_dict(fitted.best)
    else:
        fitted.best, fitted.best_at = fitted.last, spec.pairs
    return fitted


def _due(seen: int, size: int, spec: TrainSpec) -> bool:
    before = (seen - size) // spec.validate_every
    return seen // spec.validate_every > before or seen >= spec.pairs


def _batches(pairs: Sequence[PairPoints],
             spec: TrainSpec) -> Iterator[tuple[int, list[PairPoints]]]:
    """Batches until `spec.pairs` were seen; every epoch in a new order of the same seed."""
    generator = torch.Generator().manual_seed(spec.seed)
    queue: list[int] = []
    seen = 0
    while seen < spec.pairs:
        size = min(spec.batch, spec.pairs - seen)
        while len(queue) < size:
            queue += torch.randperm(len(pairs), generator=generator).tolist()
        batch, queue = queue[:size], queue[size:]
        seen += size
        yield seen, [pairs[i] for i in batch]


def _step(model: CorrespondenceModel, loss: CorrespondenceLoss, optimiser: torch.optim.Optimizer,
          spec: TrainSpec, buckets: Buckets, batch: list[PairPoints]) -> float:
    model.train()
    ids = [p.pair.source for p in batch] + [p.pair.target for p in batch]
    found = model(stack([buckets.named(i) for i in ids]))
    halves = found.descriptors.split(len(batch))
    task = torch.stack([_pair_loss(loss, buckets, pair, a, b)
                        for pair, a, b in zip(batch, *halves, strict=True)]).mean()
    total = task - spec.gamma1 * sparsity(found.weights) - spec.gamma2 * diversity(found.weights)
    if not torch.isfinite(total):
        raise UserError("the loss is not finite any more: training diverged; lower train.lr"
                        f" (now {spec.lr:g})")
    optimiser.zero_grad()
    torch.autograd.backward(total)
    optimiser.step()
    return float(task.detach())


def _pair_loss(loss: CorrespondenceLoss, buckets: Buckets, pair: PairPoints,
               source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of whole descriptor maps (D, h, w), of which only the images' own cells count."""
    here, there = windows(buckets, pair)
    a = torch.from_numpy(here.enter(pair.source_shares)).to(source)
    b = torch.from_numpy(there.enter(pair.target_shares)).to(target)
    return torch.as_tensor(loss(here.cut(source), there.cut(target), a, b))


def _validate(model: CorrespondenceModel, buckets: Buckets, val: Sequence[PairPoints], seen: int,
              losses: list[float], fitted: Fitted) -> float:
    """Note loss and PCK on ``val``; return what chooses the best checkpoint."""
    entry: dict[str, Any] = {"pairs": seen, "loss": float(np.mean(losses))}
    score = -math.inf
    if val:
        found = judge(model, buckets, val)
        score = found.values[SELECT]
        entry["val"] = found.to_json()
    fitted.history.append(entry)
    return score


def _state(model: nn.Module) -> State:
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
