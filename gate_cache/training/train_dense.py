"""Training of images or pixels: single feature, uniform weights and GATE over one stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gate_cache.core.errors import UserError
from gate_cache.core.progress import Progress
from gate_cache.learn.fit.trials import Fitted, Trial, fit_trials
from gate_cache.learn.tasks.task import Scores
from gate_cache.training.inputs_dense import DenseStudy
from gate_cache.training.items import keep_items
from gate_cache.training.methods import baselines, weights_note
from gate_cache.training.run_folder import Checkpoint, RunDirectory
from gate_cache.training.tasks import measured

KEYS = ("single", "uniform", "gate")
"""What a run's files call the models."""


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table."""

    method: str
    scores: Scores
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"method": self.method, "trained": True, "note": self.note,
                **self.scores.values, "details": dict(self.scores.details)}


@dataclass
class ScoreTable:
    """Results over one split, with its protocol."""

    title: str
    protocol: str
    rows: list[ScoreRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"title": self.title, "protocol": self.protocol,
                "rows": [row.to_json() for row in self.rows]}


def train_dense(study: DenseStudy, gate_name: str, show: Progress,
                folder: RunDirectory) -> tuple[list[ScoreTable], dict[str, Fitted]]:
    """Train all methods over one stream, judge them on ``test``.

    Raises
    ------
    UserError
        One of them failed.
    """
    spec = study.spec
    makes = {**baselines(study, spec), gate_name: study.gate}
    trials = [Trial(name, spec, lambda make=make: make(spec),  # type: ignore[misc]
                    study.task, study.device) for name, make in makes.items()]
    kept = Checkpoint(folder.checkpoint("all"), trials)
    fit_trials(trials, study.task, study.has_val, show, "training", folder.log.info, kept.keep,
               kept.start)
    for trial in trials:
        if trial.failed:
            raise UserError(f"{trial.label}: {trial.failed}")
    found = study.task.judge([t.model for t in trials], "test")
    labels = [t.label for t in trials]
    keep_items(folder.path, study.task, {t.label: t.model for t in trials},
               dict(zip(labels, found, strict=True)), labels[-1:])
    table = ScoreTable("test split", measured(study))
    for trial, scores in zip(trials, found, strict=True):
        note = weights_note(spec.combos or study.mixed, scores.details["weights"]["mean"]) \
            if trial is trials[-1] else ""
        table.rows.append(ScoreRow(trial.label, scores, note))
    folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return [table], {k: t.fitted for k, t in zip(KEYS, trials, strict=True)}
