"""One configuration being trained: its model, optimiser, random numbers, and how it fares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gate_cache.core.errors import UserError
from gate_cache.learn.fit.order import in_steps, share_of_lr, step_of
from gate_cache.learn.mixing.amalgamator import diversity, sparsity
from gate_cache.learn.modules.probes import Probe

if TYPE_CHECKING:
    from gate_cache.learn.tasks.task import Scores, Task
    from gate_cache.manifest.train_spec import TrainSpec

State = dict[str, torch.Tensor]
LOOK = 64
"""Steps after which a trial's loss is looked at."""


@dataclass
class Fitted:
    """A trained model.

    Attributes
    ----------
    best, last : weights of the best checkpoint on ``val``, and of the last step
    best_at : the step of the best checkpoint
    history : one entry a validation: step, items seen, mean loss, scores on ``val``
    """

    best: State = field(default_factory=dict)
    last: State = field(default_factory=dict)
    best_at: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Trial:
    """One configuration being trained.

    Parameters
    ----------
    label : what progress, log and tables call it
    spec : its settings
    make : its model, called with the trial's own random numbers
    task : what is learnt; it gives the loss
    device : where the model is trained
    """

    def __init__(self, label: str, spec: TrainSpec, make: Callable[[], nn.Module], task: Task,
                 device: torch.device) -> None:
        self.label = label
        self.spec = spec
        self.fitted = Fitted()
        self.failed = ""
        self._device = device
        self._best = -math.inf
        self._stale = 0
        self._losses: list[torch.Tensor] = []
        self._sound = torch.ones((), dtype=torch.bool, device=device)
        with torch.random.fork_rng(_cuda(device)):  # other trials do not change its first weights
            torch.manual_seed(spec.seed)
            self.model: Any = make().to(device)
            self._criterion = task.criterion().to(device)
            self._rng = _rng(device)
        parameters = [*self.model.parameters(), *self._criterion.parameters()]  # the temperature
        self._optimiser = torch.optim.AdamW(parameters, lr=spec.lr,
                                            weight_decay=spec.weight_decay)
        self._schedule = LambdaLR(self._optimiser, partial(share_of_lr, spec))

    @property
    def active(self) -> bool:
        """Whether it is still trained."""
        return not self.failed and not self.stopped

    @property
    def stopped(self) -> bool:
        """Whether ``patience`` validations in a row were no better, or nothing is left to learn.

        A probe of a fixed mixture is solved for good at the first validation.
        """
        fixed = isinstance(self.model.head, Probe) and not list(self.model.mixer.parameters())
        if fixed and self.fitted.history:
            return True
        return self.spec.patience is not None and self._stale >= self.spec.patience

    def step(self, inputs: Any, items: Sequence[Any]) -> None:
        """One step of AdamW on the task's loss and both regularisers (Eq. 5).

        Nothing waits for the device but the look at the loss, at every `LOOK`-th step.

        Raises
        ------
        UserError
            The loss was not finite at some step since the last look.
        """
        with self._own_numbers(), self._precision():
            self.model.train()
            output = self.model(inputs)
            task = self._criterion(output.values, items)
            total = task - self.spec.gamma1 * sparsity(output.weights) \
                - self.spec.gamma2 * diversity(output.weights)
        self._optimiser.zero_grad()
        torch.autograd.backward(total)
        self._optimiser.step()
        self._schedule.step()
        self._losses.append(task.detach())
        self._sound &= torch.isfinite(total.detach())  # stays on the device until `look`
        if len(self._losses) % LOOK == 0:
            self.look()

    def look(self) -> None:
        """Raise `UserError` where the loss was not finite."""
        if not self._sound:
            raise UserError("the loss is not finite any more: training diverged; lower train.lr"
                            f" (now {self.spec.lr:g})")

    def note(self, seen: int, scores: Scores | None) -> dict[str, Any]:
        """Note mean loss and scores on ``val``; keep the weights if they are the best so far."""
        step = step_of(seen, self.spec)
        entry: dict[str, Any] = {"step": step, "seen": seen,
                                 "loss": float(np.mean(_floats(self._losses)))}
        self._losses = []
        score = math.nan
        if scores:
            entry["val"] = dict(scores.values)
            score = scores.select
        self.fitted.history.append(entry)
        self._stale += not math.isnan(score)  # what cannot be judged stops no training
        if score > self._best:
            self._best, self._stale = score, 0
            self.fitted.best, self.fitted.best_at = state_of(self.model), step
        return entry

    def finish(self, seen: int, validated: bool) -> None:
        """Leave the model with its best weights on ``val``.

        With its last ones where there is no ``val``, or nothing there by which to choose.
        """
        self.fitted.last = state_of(self.model)
        if validated and self.fitted.best:
            self.model.load_state_dict(self.fitted.best)
        else:
            self.fitted.best, self.fitted.best_at = self.fitted.last, step_of(seen, self.spec)
        self.model.eval()

    def state(self) -> dict[str, Any]:
        """All that going on needs, as tensors and plain data."""
        return {"model": self.model.state_dict(), "criterion": self._criterion.state_dict(),
                "optimiser": self._optimiser.state_dict(), "rng": self._rng,
                "taken": self._schedule.last_epoch,
                "best": self.fitted.best, "best_at": self.fitted.best_at,
                "history": self.fitted.history, "score": self._best, "stale": self._stale,
                "losses": _floats(self._losses), "failed": self.failed}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self._criterion.load_state_dict(state["criterion"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.last_epoch = state.get("taken", 0)  # where there is none, it is constant
        self._rng = state["rng"]
        self.fitted = Fitted(state["best"], {}, *in_steps(state, self.spec))
        self._best, self._stale = state["score"], state["stale"]
        self._losses = [torch.tensor(loss, device=self._device) for loss in state["losses"]]
        self.failed = state["failed"]

    def _precision(self) -> Any:
        enabled = self.spec.amp and self._device.type == "cuda"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """The trial's random numbers (dropout), whatever others have drawn."""
        with torch.random.fork_rng(_cuda(self._device)):
            torch.set_rng_state(self._rng["cpu"])
            if "cuda" in self._rng:
                torch.cuda.set_rng_state(self._rng["cuda"], self._device)
            yield
            self._rng = _rng(self._device)


def _floats(losses: Sequence[torch.Tensor]) -> list[float]:
    return [float(v) for v in torch.stack(list(losses)).tolist()] if losses else []


def state_of(model: nn.Module) -> State:
    """A copy of a model's weights on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _rng(device: torch.device) -> State:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
