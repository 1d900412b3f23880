"""``sweep``: many trials over one store, those that can over one stream of it.

The folder of a sweep holds ``sweep.json`` (what was asked), a checkpoint of every stream, a file a
finished trial, and the tables. The same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from gate_cache.core.errors import UserError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.replacing import replacing
from gate_cache.learn.fit.order import in_steps, together
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.manifest.train_spec import OF_A_RUN, TrainSpec, in_todays_words
from gate_cache.store.places.disk import disk_errors
from gate_cache.training.inputs import alike, open_any, settled
from gate_cache.training.items import keep_items
from gate_cache.training.members import keep_members
from gate_cache.training.methods import gate
from gate_cache.training.reproduce import sweep_commands
from gate_cache.training.run_files import SWEEP, read_json, trial_file, unreadable, write_json
from gate_cache.training.run_folder import Checkpoint, logged
from gate_cache.training.sweep_baselines import (
    BaselinePoint,
    baseline_points,
    judge_untrained,
    model_of,
)
from gate_cache.training.sweep_tables import TrialRow, write_tables
from gate_cache.workspace.device import out_of_memory

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.learn.tasks.task import Scores
    from gate_cache.manifest.sweep_file import Point
    from gate_cache.training.inputs import Study
    from gate_cache.workspace.workspace import Workspace

AGAIN = "delete it to train this trial again"


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    rows : baselines and trials, in the file's order
    select : name of the metric that chose checkpoints on ``val``
    """

    folder: Path
    rows: list[TrialRow]
    select: str
    seconds: float

    @property
    def failed(self) -> list[TrialRow]:
        """Trials that failed."""
        return [r for r in self.rows if r.failed]

    def to_json(self) -> dict[str, Any]:
        """What ``sweep --json`` prints."""
        return {"folder": str(self.folder), "rows": [r.to_json() for r in self.rows],
                "select": self.select, "seconds": self.seconds}


def sweep(work: Workspace, points: Sequence[Point], folder: Path, *, file: Path | None = None,
          retry: bool = True) -> Swept:
    """Train and judge every trial; go on with what is left of an interrupted sweep.

    Parameters
    ----------
    work, points, folder : manifest, trials, and the sweep's folder, made where it is not there
    file : that lists the trials, to tell how the sweep is made again
    retry : whether trials that failed are tried again

    Raises
    ------
    UserError
        The store lacks something, or the folder belongs to another sweep.
    """
    began = time.monotonic()
    state = train_share(work, points, folder, Share(retry=retry), file)
    with disk_errors(folder, "--out", "and run the same command again to resume"):
        ordered = [*state.baselines.values(), *(state.rows[p.name] for p in points)]
        seconds = time.monotonic() - began
        write_tables(folder, ordered, select=state.select, seconds=round(seconds, 2))
        for path in folder.glob("checkpoint-*.pt"):  # of shares of an earlier try
            path.unlink()
    return Swept(folder, ordered, state.select, seconds)


@dataclass(frozen=True)
class Share:
    """Which part of a sweep a process trains: whole streams where there are enough, else trials.

    Attributes
    ----------
    index, count : this process, and how many there are
    retry : whether it tries again what has failed
    """

    index: int = 0
    count: int = 1
    retry: bool = True

    def of(self, points: Sequence[Point], stream: int, streams: int) -> list[Point]:
        """This process's trials of a stream."""
        if streams >= self.count:
            return list(points) if stream % self.count == self.index else []
        return list(points[self.index::self.count])


@dataclass
class SweepState:
    """Results of a share; baselines that learn nothing are judged by a process that has all."""

    rows: dict[str, TrialRow] = field(default_factory=dict)
    baselines: dict[str, TrialRow] = field(default_factory=dict)
    select: str = ""


def train_share(work: Workspace, points: Sequence[Point], folder: Path, share: Share,
                file: Path | None = None) -> SweepState:
    """Train and judge the trials of a share, else as `sweep`; finished ones are read.

    Raises
    ------
    UserError
        As `sweep`.
    """
    show, result = work.progress, SweepState()
    provenance = {"commands": sweep_commands(work, file),
                  "trials_file": file.read_text(encoding="utf-8") if file else None}
    groups = [(group, _agreeing(group, together)) for group in _agreeing(points, alike)]
    total, number = sum(len(streams) for _, streams in groups), 0
    log = logging.getLogger(f"gate_cache.sweep.{id(folder)}")
    with disk_errors(folder, "--out", "and run the same command again to resume"), \
            out_of_memory("fewer trials at a time, or a smaller train.batch"), \
            torch.random.fork_rng(), logged(log, folder):
        for i, (group, streams) in enumerate(groups):
            study = open_any(work, [p.spec for p in group])
            result.select = result.select or study.select
            _same_sweep(folder, i, points, {**settled(work, study), **provenance})
            keep_members(folder, study.members)
            if share.count == 1:
                result.baselines |= judge_untrained(folder, study, i)
            for stream in streams:
                more = baseline_points(study, stream, i)
                mine = share.of([*more, *stream], number, total)
                number += 1
                rows = _stream(folder, study, mine, show, log, share.retry)
                result.baselines |= {p.name: rows[p.name] for p in more if p.name in rows}
                result.rows |= rows
    return result


def _agreeing(points: Sequence[Point], agree: Callable[[TrainSpec], Any]) -> list[list[Point]]:
    """Trials in groups whose settings agree in this."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(agree(point.spec), []).append(point)
    return list(groups.values())


def _stream(folder: Path, study: Study, points: list[Point], show: Progress,
            log: logging.Logger, retry: bool) -> dict[str, TrialRow]:
    """Train these together and judge them, but for those that are done."""
    done = {p.name: row for p in points if (row := _read(folder, p.key))
            and not (row.failed and retry)}
    left = [p for p in points if p.name not in done]
    if not left:
        return done
    trials = [Trial(p.key, p.spec, partial(model_of, study, p), study.task, study.device)
              for p in left]
    digest = fingerprint({"names": [p.key for p in points]})[:8]  # another share has its own
    name = f"checkpoint-{digest}.pt"
    checkpoint = Checkpoint(folder / name, trials)
    label = left[0].name if len(left) == 1 else f"training {len(left)} trials"
    fit_trials(trials, study.task, study.has_val,
               FitSession(show, label, log.info, checkpoint.keep, checkpoint.start))
    sound = [t for t in trials if not t.failed]
    scores = dict(zip([t.label for t in sound],
                      study.task.judge([t.model for t in sound], "test"), strict=True))
    keep_items(folder, study.task, {t.label: t.model for t in sound}, scores,
               {p.key for p in left if not isinstance(p, BaselinePoint)})
    for point, trial in zip(left, trials, strict=True):
        done[point.name] = _finished(folder, study, point, trial, scores.get(point.key))
    checkpoint.remove()
    return done


def _finished(folder: Path, study: Study, point: Point, trial: Trial,
              test: Scores | None) -> TrialRow:
    best = {h["step"]: h.get("val") for h in trial.fitted.history}.get(trial.fitted.best_at)
    method = point.method if isinstance(point, BaselinePoint) else gate(study, point.spec)
    row = TrialRow(point.name, point.settings, method, True, trial.failed,
                   dict(test.values) if test else {}, dict(best or {}), trial.fitted.best_at,
                   list(test.each) if test else [], point.key, point.configuration)
    if not trial.failed:  # before the trial's file, which says that it is done
        with replacing(folder / "weights" / f"{trial_file(point.key)}.safetensors") as draft:
            save_file(trial.fitted.best, draft)
    _write(folder, row, {"history": trial.fitted.history,
                         "details": dict(test.details) if test else {},
                         "combos": list(point.spec.combos or study.mixed),
                         "spec": point.spec.model_dump(mode="json")})
    return row


def _same_sweep(folder: Path, number: int, points: Sequence[Point],
                settings: dict[str, Any]) -> None:
    """Be sure that what is in the folder was made from the same features and settings.

    Raises
    ------
    UserError
        It was not.
    """
    now = {**settings,
           "trials": {p.name: p.spec.model_dump(mode="json") for p in points}}
    path = folder / (f"study-{number}.json" if number else SWEEP)
    now = json.loads(json.dumps(now))  # with lists for tuples, as in the file
    old = read_json(path, "give --out another name, or remove the folder to start over")
    if old is not None:
        old["trials"] = {k: in_todays_words(v) for k, v in old.get("trials", {}).items()}
        same = ("fingerprints", "trials", "resolution", "splits")
        if any(old.get(k) != now[k] for k in same):
            raise UserError(f"{folder}: holds another sweep, or one over other features; give --out"
                            " another name, or remove it")
        return
    write_json(path, now)


def _write(folder: Path, row: TrialRow, more: dict[str, Any]) -> None:
    data = {**row.to_json(), **more}
    finite = json.loads(json.dumps(data), parse_constant=lambda _: None)  # JSON has no NaN
    write_json(folder / "trials" / f"{trial_file(row.key)}.json", finite)


def _read(folder: Path, key: str) -> TrialRow | None:
    """A finished trial; None where it has none yet.

    Raises
    ------
    UserError
        Its file cannot be read: it may have taken hours, so it is not written over.
    """
    path = folder / "trials" / f"{trial_file(key)}.json"
    content = read_json(path, AGAIN)
    try:
        if content is None:
            return None
        best, _ = in_steps(content, TrainSpec.model_validate(content["spec"], context=OF_A_RUN))
        return TrialRow.from_json({**content, "best_at": best})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, error, AGAIN) from None
