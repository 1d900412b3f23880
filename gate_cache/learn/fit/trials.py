"""Several trials over one stream of the store: each batch is read once and fed to all of them.

A trial's result does not depend on which others run beside it: it has its own random numbers, and
the order of the data is that of its own ``seed`` (or ``shuffle``), which all of one stream share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import UserError
from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.fit.order import batches, due, step_of
from gate_cache.learn.fit.pace import Pace
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.modules.probes import Probe, joined

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.learn.tasks.task import Scores, Task
    from gate_cache.manifest.train_spec import TrainSpec

SOLVED = 10_000
"""Training items at most of which a probe is solved, evenly drawn."""
AT_ONCE = 256
"""Items of these that a model sees at once."""


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
        raise UserError(f"no {task.unit} to train on: the split 'train' has none that can be used;"
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
            if due(seen, len(items), spec):
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
    def order() -> Iterator[tuple[int, list[Any]]]:  # twice: `tee` is not safe between threads
        return ((seen, items) for seen, items in batches(task.items(), spec) if seen > start)

    feed = task.feed(items for _, items in order())
    with ThreadPoolExecutor(1, "inputs") as pool:  # a thread: a process would copy each batch
        following = pool.submit(next, feed, None)
        for seen, items in order():
            ready = following.result()
            following = pool.submit(next, feed, None)
            yield seen, items, ready
