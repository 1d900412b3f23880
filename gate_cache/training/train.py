"""Stage 2: train on a store, judge on ``test`` beside baselines, leave a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import UserError
from gate_cache.learn.features.pairs import PairPoints, copy_position
from gate_cache.learn.fit.trial import Fitted, Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.metrics.pck import pck
from gate_cache.learn.metrics.results import ResultRow, ScoreRow, ScoreTable, Table
from gate_cache.learn.metrics.roles import WEIGHTS, Method
from gate_cache.learn.mixing.model import CorrespondenceModel
from gate_cache.learn.tasks.matching import Matched, intervals, weights
from gate_cache.store.places.disk import disk_errors
from gate_cache.training.inputs_dense import DenseInputs
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
from gate_cache.training.tasks import measured, open_any, settled
from gate_cache.workspace.device import out_of_memory

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.training.inputs import TrainingInputs
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
    tables: list[Table] | list[ScoreTable]
    splits: dict[str, dict[str, int]]
    seconds: float

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """Every method's metrics on ``test``, in percent, by its title."""
        return {row.method.title: row.pck.to_json() if isinstance(row, ResultRow)
                else dict(row.scores.values) for row in self.tables[0].rows}


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
    refused = disk_errors(folder.path, "--runs", "and train again")
    with refused, out_of_memory("a smaller train.batch"), torch.random.fork_rng():
        folder.begin({**settled(work, study), "commands": train_commands(work)})
        try:
            keep_members(folder.path, study.members)
            tables, fits = _results(study, work.progress, folder)
            for name, fitted in fits.items():
                folder.weights(f"{name}-best", fitted.best)
                folder.weights(f"{name}-last", fitted.last)
            result = TrainedRun(folder.path, head, tables, study.splits(), time.monotonic() - began)
            folder.finish(_metrics(result, fits))
        finally:
            folder.close()
    return result


def _results(study: TrainingInputs | DenseInputs, show: Progress, folder: RunDirectory,
             ) -> tuple[list[Table] | list[ScoreTable], dict[str, Fitted]]:
    """Train all that the head trains and judge it."""
    if isinstance(study, DenseInputs):
        return _dense(study, show, folder)
    methods, fits = _train(study, show, folder)
    return _judge(study, methods, folder), fits


def _metrics(result: TrainedRun, fits: dict[str, Fitted]) -> dict[str, Any]:
    return {
        "head": result.head, "splits": result.splits, "seconds": round(result.seconds, 2),
        "tables": [t.to_json() for t in result.tables],
        "fits": {n: {"best_at": f.best_at, "history": f.history} for n, f in fits.items()},
    }


def _train(study: TrainingInputs, show: Progress,
           folder: RunDirectory) -> tuple[list[Candidate], dict[str, Fitted]]:
    """Train what the head trains over one stream; list every method to judge."""
    spec = study.spec
    compared = baselines(study, spec)
    makes: dict[Method, Make] = {**compared, gate(study, spec): study.gate}
    trials = _fit(study, show, folder, makes)
    trained = [_trained(method, trial) for method, trial in zip(makes, trials, strict=True)]
    methods = [trained[0], single_nn(study), *trained[1:]] if compared \
        else [*untrained(study), *trained]
    return methods, {WEIGHTS[m.role]: t.fitted for m, t in zip(makes, trials, strict=True)}


def _fit(study: TrainingInputs | DenseInputs, show: Progress, folder: RunDirectory,
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
    kept = Checkpoint(folder.checkpoint("all"), trials)
    fit_trials(trials, study.task, study.has_val, FitSession(
        show, f"training {spec.head.name}", folder.log.info, kept.keep, kept.start))
    for method, trial in zip(makes, trials, strict=True):
        if trial.failed:
            raise UserError(f"{method.title}: {trial.failed}" if len(makes) > 1 else trial.failed)
    return trials


def _dense(study: DenseInputs, show: Progress,
           folder: RunDirectory) -> tuple[list[ScoreTable], dict[str, Fitted]]:
    """Train all methods of a head for images or pixels, judge them on ``test``."""
    makes: dict[Method, Make] = {**baselines(study, study.spec), gate(study, study.spec):
                                 study.gate}
    trials = _fit(study, show, folder, makes)
    results = study.task.judge([t.model for t in trials], "test")
    labels = [t.label for t in trials]
    keep_items(folder.path, study.task, {t.label: t.model for t in trials},
               dict(zip(labels, results, strict=True)), labels[-1:])
    table = ScoreTable("test split", measured(study))
    for role, scores in study.task.floors().items():
        floor = Method(role)
        table.rows.append(ScoreRow(floor, scores, trained=False))
        if scores.items:
            scores.items.save(items_file(folder.path, floor.key))
    for method, scores in zip(makes, results, strict=True):
        note = weights_note(method.combos, scores.details["weights"]["mean"]) \
            if method.role == "gate" else ""
        table.rows.append(ScoreRow(method, scores, note))
    folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return [table], {WEIGHTS[m.role]: t.fitted for m, t in zip(makes, trials, strict=True)}


def _trained(method: Method, trial: Trial) -> Candidate:
    assert isinstance(trial.model, CorrespondenceModel)
    return Candidate(method, trial.model, True, True, method.role == "gate")


def _judge(study: TrainingInputs, methods: list[Candidate], folder: RunDirectory) -> list[Table]:
    """Every method on ``test``; over all published pairs only those that have not seen any."""
    protocol = measured(study)
    tables = [_table(study, Table("test split", protocol), study.pairs["test"], methods,
                     folder.path)]
    if study.published:
        unseen = [m for m in methods if not m.seen]
        every = Table("all published pairs (only methods that have not seen any)", protocol)
        tables.append(_table(study, every, study.published, unseen))
    for table in tables:
        folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return tables


def _table(study: TrainingInputs, table: Table, pairs: Sequence[PairPoints],
           methods: list[Candidate], folder: Path | None = None) -> Table:
    """Results of every method; in a folder, pair by pair too."""
    pairs = list(pairs)
    copies = Matched({pair: copy_position(pair) for pair in pairs}, {})
    floor = Method("floor")
    table.add(floor, pck(copies.predictions), details=intervals(copies))
    if folder:
        copies.items().save(items_file(folder, floor.key))
    models = [m.model.to(study.features.device) for m in methods]
    for candidate, matched in zip(methods, study.task.match(models, pairs), strict=True):
        if folder:
            matched.items().save(items_file(folder, candidate.method.key))
        details = intervals(matched) | (weights(matched) if candidate.note else {})
        note = weights_note(candidate.method.combos, details["weights"]["mean"]) \
            if candidate.note else ""
        table.add(candidate.method, pck(matched.predictions), candidate.trained, note, details)
    return table
