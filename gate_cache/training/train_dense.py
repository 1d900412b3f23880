"""Training of images or pixels: single feature, uniform weights and GATE over one stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gate_cache.core.errors import UserError
from gate_cache.learn.fit.trials import Fitted, Trial, fit_trials
from gate_cache.learn.metrics.results import ScoreRow, ScoreTable
from gate_cache.learn.metrics.roles import WEIGHTS, Method
from gate_cache.training.items import keep_items
from gate_cache.training.methods import baselines, gate, weights_note
from gate_cache.training.run_files import items_file
from gate_cache.training.run_folder import Checkpoint, RunDirectory
from gate_cache.training.tasks import measured

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.training.inputs_dense import DenseInputs


def train_dense(study: DenseInputs, show: Progress,
                folder: RunDirectory) -> tuple[list[ScoreTable], dict[str, Fitted]]:
    """Train all methods over one stream, judge them on ``test``.

    Raises
    ------
    UserError
        One of them failed.
    """
    spec = study.spec
    makes = {**baselines(study, spec), gate(study, spec): study.gate}
    trials = [Trial(method.key, spec, lambda make=make: make(spec),  # type: ignore[misc]
                    study.task, study.device) for method, make in makes.items()]
    kept = Checkpoint(folder.checkpoint("all"), trials)
    fit_trials(trials, study.task, study.has_val, show, "training", folder.log.info, kept.keep,
               kept.start)
    for method, trial in zip(makes, trials, strict=True):
        if trial.failed:
            raise UserError(f"{method.title}: {trial.failed}")
    found = study.task.judge([t.model for t in trials], "test")
    labels = [t.label for t in trials]
    keep_items(folder.path, study.task, {t.label: t.model for t in trials},
               dict(zip(labels, found, strict=True)), labels[-1:])
    table = ScoreTable("test split", measured(study))
    for role, scores in study.task.floors().items():
        floor = Method(role)
        table.rows.append(ScoreRow(floor, scores, trained=False))
        if scores.items:
            scores.items.save(items_file(folder.path, floor.key))
    for method, scores in zip(makes, found, strict=True):
        note = weights_note(method.combos, scores.details["weights"]["mean"]) \
            if method.role == "gate" else ""
        table.rows.append(ScoreRow(method, scores, note))
    folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return [table], {
        WEIGHTS[m.role]: t.fitted for m, t in zip(makes, trials, strict=True)}
