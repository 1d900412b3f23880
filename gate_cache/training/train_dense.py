"""Training of images or pixels: single feature, uniform weights and GATE over one stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import UserError
from gate_cache.learn.fit.trials import Fitted, Trial, fit_trials
from gate_cache.learn.metrics.roles import WEIGHTS, Method
from gate_cache.training.items import keep_items
from gate_cache.training.methods import baselines, gate, weights_note
from gate_cache.training.run_folder import Checkpoint, RunDirectory
from gate_cache.training.tasks import measured

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.learn.tasks.task import Scores
    from gate_cache.training.inputs_dense import DenseStudy


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table."""

    method: Method
    scores: Scores
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A row of ``metrics.json``."""
        return {**self.method.to_json(), "key": self.method.key, "trained": True,
                "note": self.note, **self.scores.values, "details": dict(self.scores.details)}


@dataclass
class ScoreTable:
    """Results over one split, with its protocol."""

    title: str
    protocol: str
    rows: list[ScoreRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A table of ``metrics.json``."""
        return {"title": self.title, "protocol": self.protocol,
                "rows": [row.to_json() for row in self.rows]}


def train_dense(study: DenseStudy, show: Progress,
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
    for method, scores in zip(makes, found, strict=True):
        note = weights_note(method.combos, scores.details["weights"]["mean"]) \
            if method.role == "gate" else ""
        table.rows.append(ScoreRow(method, scores, note))
    folder.log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return [table], {
        WEIGHTS[m.role]: t.fitted for m, t in zip(makes, trials, strict=True)}
