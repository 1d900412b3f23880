"""Stage 2: train on a store, judge on ``test`` beside baselines, leave a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import UserError
from gate_cache.learn.fit.trial import Fitted, Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.metrics.results import ScoreRow, ScoreTable
from gate_cache.learn.metrics.roles import WEIGHTS, Method
from gate_cache.store.places.disk import disk_errors
from gate_cache.training.inputs import TrainingInputs, measured, open_any, settled
from gate_cache.training.items import keep_items
from gate_cache.training.members import keep_members
from gate_cache.training.methods import (
    Candidate,
    Make,
    baselines,
    gate,
    single_nn,
    untrained,
    weights_note,
)
from gate_cache.training.reproduce import train_commands
from gate_cache.training.run_files import items_file
from gate_cache.training.run_folder import Checkpoint, RunDirectory, new_run
from gate_cache.workspace.device import out_of_memory

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.training.inputs import Study
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class TrainedRun:
    """What a training left.

    Attributes
    ----------
    run : the run directory
    tables : results on ``test``, and over all published pairs where that is another set
    splits : images, and of correspondence pairs, of each split
    """

    run: Path
    head: str
    tables: list[ScoreTable] = field(repr=False)
    splits: dict[str, dict[str, int]]
    seconds: float

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Every method's metrics on ``test``, in percent, by its title."""
        return {row.method.title: dict(row.scores.values) for row in self.tables[0].rows}


def train(work: Workspace, run: Path | None = None) -> TrainedRun:
    """Train one configuration.

    Parameters
    ----------
    work : the manifest on this machine, with the settings of ``train``
    run : the run directory to make; by default ``<runs>/<manifest>-<head>-<time>``

    Raises
    ------
    UserError
        The store or the data set lacks what the head needs, or the run exists already.
    """
    began = time.monotonic()
    head = work.manifest.train.head.name
    study = open_any(work)
    folder = RunDirectory(run) if run else \
        new_run(work.roots.runs, f"{work.loaded.path.stem}-{head}")
    config = {**settled(work, study), "commands": train_commands(work)}
    refused = disk_errors(folder.path, "--runs", "and train again")
    with refused, out_of_memory("a smaller train.batch"), torch.random.fork_rng(), \
            folder.begin(config):
        keep_members(folder.path, study.members)
        tables, fits = _results(study, work.progress, folder)
        for name, fitted in fits.items():
            folder.weights(f"{name}-best", fitted.best)
            folder.weights(f"{name}-last", fitted.last)
        result = TrainedRun(folder.path, head, tables, study.splits(), time.monotonic() - began)
        folder.finish(_metrics(result, fits))
    return result


def _results(study: Study, show: Progress, folder: RunDirectory,
             ) -> tuple[list[ScoreTable], dict[str, Fitted]]:
    """Train all that the head trains over one stream; judge it, and what learns nothing."""
    spec = study.spec
    makes: dict[Method, Make] = {**baselines(study, spec), gate(study, spec): study.gate}
    trials = _fit(study, show, folder, makes)
    judged = [Candidate(method, trial.model, True, True)
              for method, trial in zip(makes, trials, strict=True)]
    if isinstance(study, TrainingInputs):
        judged = [judged[0], single_nn(study), *judged[1:]] if len(makes) > 1 \
            else [*untrained(study), *judged]  # of head nn, which trains GATE alone
    tables = [_table(study, "test split", judged, folder.path)]
    if isinstance(study, TrainingInputs) and study.published:
        every = replace(study, task=study.task.of({"test": study.published}))
        tables.append(_table(every, "all published pairs (only methods that have not seen any)",
                             [c for c in judged if not c.seen]))
    for table in tables:
        folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return tables, {WEIGHTS[m.role]: t.fitted for m, t in zip(makes, trials, strict=True)}


def _metrics(result: TrainedRun, fits: dict[str, Fitted]) -> dict[str, Any]:
    return {
        "head": result.head, "splits": result.splits, "seconds": round(result.seconds, 2),
        "tables": [t.to_json() for t in result.tables],
        "fits": {n: {"best_at": f.best_at, "history": f.history} for n, f in fits.items()},
    }


def _fit(study: Study, show: Progress, folder: RunDirectory,
         makes: dict[Method, Make]) -> list[Trial]:
    """Train all methods over one stream.

    Raises
    ------
    UserError
        One of them failed.
    """
    spec = study.spec
    trials = [Trial(method.key, spec, partial(make, spec), study.task, study.device)
              for method, make in makes.items()]
    checkpoint = Checkpoint(folder.path / "checkpoint-all.pt", trials)
    fit_trials(trials, study.task, study.has_val, FitSession(
        show, f"training {spec.head.name}", folder.log.info, checkpoint.keep, checkpoint.start))
    for method, trial in zip(makes, trials, strict=True):
        if trial.failed:
            raise UserError(f"{method.title}: {trial.failed}" if len(makes) > 1 else trial.failed)
    return trials


def _table(study: Study, title: str, judged: Sequence[Candidate],
           folder: Path | None = None) -> ScoreTable:
    """Results of floors and every method on ``test``; in a folder, item by item too."""
    table = ScoreTable(title, measured(study))
    for role, floor in study.task.floors().items():
        table.rows.append(ScoreRow(Method(role), floor, trained=False))
        if folder and floor.items:
            floor.items.save(items_file(folder, Method(role).key))
    models = {c.method.key: c.model.to(study.device).eval() for c in judged}
    results = dict(zip(models, study.task.judge(list(models.values()), "test"), strict=True))
    if folder:
        keep_items(folder, study.task, models, results, list(models)[-1:])  # GATE is the last
    for candidate in judged:
        method, scores = candidate.method, results[candidate.method.key]
        note = weights_note(method.combos, scores.details["weights"]["mean"]) \
            if method.role == "gate" else ""
        table.rows.append(ScoreRow(method, scores, note, candidate.trained))
    return table
