"""Several trials over one stream of the store: each batch is read once and fed to all of them.

A trial's result does not depend on which others run beside it: it has its own random numbers, and
the order of the data is that of its own ``seed`` (or ``shuffle``), which all of one stream share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from gate_cache.core.errors import UserError
from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.fit.pace import Pace
from gate_cache.learn.mixing.amalgamator import diversity, sparsity
from gate_cache.learn.modules.probes import Probe, joined

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.learn.tasks.task import Scores, Task
    from gate_cache.manifest.specs import TrainSpec

State = dict[str, torch.Tensor]
LOOK = 64
"""Steps after which a trial's loss is looked at."""
LONGEST = 2**24
"""Items of an epoch whose order is drawn at once."""
SOLVED = 10_000
"""Training items at most of which a probe is solved, evenly drawn."""
AT_ONCE = 256
"""Items of these that a model sees at once."""


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
        with torch.random.fork_rng(_cuda(device)):
            torch.manual_seed(spec.seed)
            self.model: Any = make().to(device)
            self._criterion = task.criterion().to(device)
            self._rng = _rng(device)
        parameters = [*self.model.parameters(), *self._criterion.parameters()]
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
        self._sound &= torch.isfinite(total.detach())
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
        """The trial's random numbers, whatever others have drawn."""
        with torch.random.fork_rng(_cuda(self._device)):
            torch.set_rng_state(self._rng["cpu"])
            if "cuda" in self._rng:
                torch.cuda.set_rng_state(self._rng["cuda"], self._device)
            yield
            self._rng = _rng(self._device)


@dataclass(frozen=True)
class FitSession:
    """Who follows a training, and where it goes on.

    Attributes
    ----------
    show, label : progress, and what it calls this training
    log : called with a line at every validation
    keep : called with the items seen, after every validation
    start : items that were seen already
    """

    show: Progress
    label: str = ""
    log: Callable[[str], None] = lambda _: None
    keep: Callable[[int], None] = lambda _: None
    start: int = 0


def fit_trials(trials: Sequence[Trial], task: Task, has_val: bool, session: FitSession) -> None:
    """Train several trials over one stream; each model is left with its best weights.

    A trial that fails says so in `failed` and leaves the stream; the others go on.

    Parameters
    ----------
    trials : that agree in `together`
    task : what is learnt, the same for all of them
    has_val : whether there is a ``val`` split to choose checkpoints on
    session : progress, log and where to go on

    Raises
    ------
    UserError
        There is nothing to train on.
    """
    spec = trials[0].spec
    if not task.items():
        raise UserError(f"no {task.unit} to train on: the split 'train' holds none that count;"
                        " 'gate-cache data' shows what it holds")
    seen = session.start
    pace = Pace(session.show.say, session.label, step_of(spec.items - seen, spec),
                step_of(spec.validate_items, spec))
    with session.show.task(session.label, spec.items - seen, task.unit) as bar:
        for seen, items, inputs in _ahead(task, spec, session.start):
            for trial in [t for t in trials if t.active]:
                _guarded(trial, trial.step, inputs, items)
            bar.advance(len(items))
            pace.step()
            if _due(seen, len(items), spec):
                _validate(trials, task, has_val, seen, session.log)
                session.keep(seen)
                pace.validated()
            if not any(t.active for t in trials):
                break
    for trial in trials:
        if not trial.failed:
            trial.finish(seen, has_val)


def _validate(trials: Sequence[Trial], task: Task, has_val: bool, seen: int,
              log: Callable[[str], None]) -> None:
    for trial in trials:
        if trial.active:
            _guarded(trial, trial.look)
    active = [t for t in trials if t.active]
    for trial in active:
        solve(trial.model.eval(), task)
    scores: Sequence[Scores | None] = [None] * len(active)
    if has_val and active:
        scores = task.judge([t.model for t in active], "val")
    for trial, score in zip(active, scores, strict=True):
        log(f"{trial.label}: {json.dumps(trial.note(seen, score))}")


def _floats(losses: Sequence[torch.Tensor]) -> list[float]:
    return [float(v) for v in torch.stack(list(losses)).tolist()] if losses else []


def solve(model: Any, task: Any) -> None:
    """Solve a head that is a probe from training items as the model sees them; leave others.

    Parameters
    ----------
    model : a `VectorModel` or `Reading` where its head is a probe
    task : a `PixelTask` or `ClassificationTask` then
    """
    if not isinstance(head := getattr(model, "head", None), Probe):
        return
    every = task.items()
    items = every[::max(1, -(-len(every) // SOLVED))]
    parts = [items[part] for part in tiles(len(items), AT_ONCE)]
    with torch.no_grad():
        seen = [joined(*model.mixed(batch)[0]) for batch in task.feed(parts)]
    head.solve(torch.cat(seen), task.labels(items))


def _guarded(trial: Trial, work: Callable[..., None], *args: Any) -> None:
    """Do work of a trial; what is wrong with it ends that trial alone."""
    try:
        work(*args)
    except UserError as error:
        trial.failed = str(error)


def _ahead(task: Task, spec: TrainSpec, start: int) -> Iterator[tuple[int, list[Any], Any]]:
    """Batches with their features; the next one's are made while this one is used."""
    def order() -> Iterator[tuple[int, list[Any]]]:
        return ((seen, items) for seen, items in batches(task.items(), spec) if seen > start)

    feed = task.feed(items for _, items in order())
    with ThreadPoolExecutor(1, "inputs") as pool:
        following = pool.submit(next, feed, None)
        for seen, items in order():
            ready = following.result()
            following = pool.submit(next, feed, None)
            yield seen, items, ready


def _due(seen: int, size: int, spec: TrainSpec) -> bool:
    before = (seen - size) // spec.validate_items
    return seen // spec.validate_items > before or seen >= spec.items


def batches(items: Sequence[Any], spec: TrainSpec) -> Iterator[tuple[int, list[Any]]]:
    """Batches, one a step, until `spec.items` were seen; every epoch in an order of its own."""
    generator = torch.Generator().manual_seed(order_seed(spec))
    queue: list[int] = []
    seen = 0
    while seen < spec.items:
        size = min(spec.batch, spec.items - seen)
        while len(queue) < size:
            queue += _drawn(len(items), size, generator)
        batch, queue = queue[:size], queue[size:]
        seen += size
        yield seen, [items[i] for i in batch]


def _drawn(count: int, size: int, generator: torch.Generator) -> list[int]:
    """An epoch in random order; where it is too long to be held, some items at random."""
    if count > LONGEST:
        return torch.randint(count, (size,), generator=generator).tolist()
    return torch.randperm(count, generator=generator).tolist()


def share_of_lr(spec: TrainSpec, step: int) -> float:
    """What a step (from 0 on) takes of ``lr``: even warm-up, then as ``schedule`` says."""
    steps = step_of(spec.items, spec)
    if step < (rising := int(spec.warmup * steps)):
        return (step + 1) / (rising + 1)
    if spec.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / (steps - rising)))) / 2


def step_of(seen: int, spec: TrainSpec) -> int:
    """The number of steps that have seen so many items."""
    return -(-seen // spec.batch)


def in_steps(state: Mapping[str, Any], spec: TrainSpec) -> tuple[int, list[dict[str, Any]]]:
    """The best step and the history of a state; the first release counted items, not steps."""
    best, history = int(state["best_at"]), list(state["history"])
    if all("step" in entry for entry in history):
        return best, history
    return step_of(best, spec), [{"step": step_of(h["seen"], spec), **h} for h in history]


def order_seed(spec: TrainSpec) -> int:
    """What decides the order of the data."""
    return spec.seed if spec.shuffle is None else spec.shuffle


def together(spec: TrainSpec) -> tuple[Any, ...]:
    """What trials of one stream agree in."""
    return spec.items, spec.batch, spec.validate_items, order_seed(spec)


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
