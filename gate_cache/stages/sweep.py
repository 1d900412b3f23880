"""``sweep``: many trials over one store, those that can over one stream of it.

The folder of a sweep holds ``sweep.json`` (what was asked), a checkpoint of every stream, a file a
finished trial, and the tables. The same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gate_cache.errors import UserError
from gate_cache.fingerprint import fingerprint
from gate_cache.learn.matching import scores
from gate_cache.learn.pairs import copy_position
from gate_cache.learn.task import Scores
from gate_cache.learn.trials import Trial, fit_trials, together
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.device import out_of_memory
from gate_cache.stages.methods import gate_name, untrained
from gate_cache.stages.rundir import Checkpoint, close_log, start_log, write_json
from gate_cache.stages.studies import alike, open_any, settled
from gate_cache.stages.study import Study
from gate_cache.stages.study_dense import DenseStudy
from gate_cache.stages.sweep_baselines import BaselinePoint, baseline_points, model_of
from gate_cache.stages.sweep_tables import Row, trial_file, write_tables
from gate_cache.store.disk import disk_errors
from gate_cache.sweep_file import Point

CONFIG = "sweep.json"


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    rows : baselines and trials, in the file's order
    select : name of the metric that chose checkpoints on ``val``
    """

    folder: Path
    rows: list[Row]
    select: str
    seconds: float

    @property
    def failed(self) -> list[Row]:
        """Trials that failed."""
        return [r for r in self.rows if r.failed]


def sweep(loaded: Loaded, points: Sequence[Point], roots: Roots, *, folder: Path,
          device: str | None = None, progress: Progress | None = None) -> Swept:
    """Train and judge every trial; go on with what is left of an interrupted sweep.

    Parameters
    ----------
    folder : of this sweep, made where it is not there

    Raises
    ------
    UserError
        The store lacks something, or the folder belongs to another sweep.
    """
    began, show = time.monotonic(), progress or Silent()
    rows: dict[str, Row] = {}
    baselines: dict[str, Row] = {}
    select = ""
    with disk_errors(folder, "--out", "and run the same command again to go on"), \
            out_of_memory("fewer trials at a time, or a smaller train.batch"), \
            torch.random.fork_rng():
        folder.mkdir(parents=True, exist_ok=True)
        log = logging.getLogger(f"gate_cache.sweep.{id(rows)}")
        start_log(log, folder)
        try:
            for i, group in enumerate(_studies(points)):
                study = open_any(loaded, roots, device, show, [p.spec for p in group])
                select = select or study.select
                _same_sweep(folder, i, study, loaded, points)
                if isinstance(study, Study):
                    baselines |= _baselines(study, i, show)
                for stream in _streams(group):
                    more = baseline_points(study, stream, i)
                    found = _stream(folder, study, [*more, *stream], show, log)
                    baselines |= {p.name: found[p.name] for p in more}
                    rows |= found
        finally:
            close_log(log)
        ordered = [*baselines.values(), *(rows[p.name] for p in points)]
        write_tables(folder, ordered)
    return Swept(folder, ordered, select, time.monotonic() - began)


def _studies(points: Sequence[Point]) -> list[list[Point]]:
    """Trials whose features are read and resized in the same way."""
    found: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        found.setdefault(alike(point.spec), []).append(point)
    return list(found.values())


def _streams(points: Sequence[Point]) -> list[list[Point]]:
    """Trials that see the same batches in the same order."""
    found: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        found.setdefault(together(point.spec), []).append(point)
    return list(found.values())


def _stream(folder: Path, study: Study | DenseStudy, points: list[Point], show: Progress,
            log: logging.Logger) -> dict[str, Row]:
    """Train these together and judge them, but for those that are done."""
    done = {p.name: row for p in points if (row := _read(folder, p.name))}
    left = [p for p in points if p.name not in done]
    if not left:
        return done
    trials = [Trial(p.name, p.spec, partial(model_of, study, p), study.task, study.device)
              for p in left]
    name = f"checkpoint-{_digest([p.name for p in points])}.pt"
    checkpoint = Checkpoint(folder / name, trials)
    label = left[0].name if len(left) == 1 else f"training {len(left)} trials"
    fit_trials(trials, study.task, study.has_val, show, label, log.info,
               checkpoint.keep, checkpoint.start)
    sound = [t for t in trials if not t.failed]
    found = dict(zip([t.label for t in sound],
                     study.task.judge([t.model for t in sound], "test"), strict=True))
    for point, trial in zip(left, trials, strict=True):
        done[point.name] = _finished(folder, study, point, trial, found.get(point.name))
    checkpoint.remove()
    return done


def _finished(folder: Path, study: Study | DenseStudy, point: Point, trial: Trial,
              test: Scores | None) -> Row:
    best = {h["seen"]: h.get("val") for h in trial.fitted.history}.get(trial.fitted.best_at)
    method = point.method if isinstance(point, BaselinePoint) else gate_name(study, point.spec)
    row = Row(point.name, point.settings, method, True, trial.failed,
              dict(test.values) if test else {}, dict(best or {}), trial.fitted.best_at,
              list(test.each) if test else [])
    _write(folder, row, {"history": trial.fitted.history,
                         "details": dict(test.details) if test else {},
                         "spec": point.spec.model_dump(mode="json")})
    if not trial.failed:
        (folder / "weights").mkdir(exist_ok=True)
        save_file(trial.fitted.best, folder / "weights" / f"{trial_file(point.name)}.safetensors")
    return row


def _baselines(study: Study, number: int, show: Progress) -> dict[str, Row]:
    """What learns nothing, judged once for all trials of a study."""
    names = {}
    with show.task("judging baselines", 1, "tables") as bar:
        pairs = study.pairs["test"]
        copied = scores([pair.judge(copy_position(pair)) for pair in pairs])
        methods = untrained(study)
        models = [m.model.to(study.full.device).eval() for m in methods]
        found = [copied, *study.task.judge(models, "test")]
        bar.advance()
    for name, each in zip(["copy the position", *(m.name for m in methods)], found, strict=True):
        key = name if not number else f"{name} ({number + 1})"
        names[key] = Row(key, {}, name, False, "", dict(each.values), {}, 0, list(each.each))
    return names


def _same_sweep(folder: Path, number: int, study: Study | DenseStudy, loaded: Loaded,
                points: Sequence[Point]) -> None:
    """Be sure that what is in the folder was made from the same features and settings.

    Raises
    ------
    UserError
        It was not.
    """
    now = {**settled(study, loaded),
           "trials": {p.name: p.spec.model_dump(mode="json") for p in points}}
    path = folder / (f"study-{number}.json" if number else CONFIG)
    now = json.loads(json.dumps(now))
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        same = ("fingerprints", "trials", "resolution", "splits")
        if any(old.get(k) != now[k] for k in same):
            raise UserError(f"{folder}: holds another sweep, or one over other features; give --out"
                            " another name, or remove it")
        return
    write_json(path, now)


def _write(folder: Path, row: Row, more: dict[str, Any]) -> None:
    (folder / "trials").mkdir(exist_ok=True)
    data = {**row.to_json(), **more}
    write_json(folder / "trials" / f"{trial_file(row.name)}.json", _without_nan(data))


def _read(folder: Path, name: str) -> Row | None:
    try:
        text = (folder / "trials" / f"{trial_file(name)}.json").read_text(encoding="utf-8")
        return Row.from_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(names: list[str]) -> str:
    return fingerprint({"names": names})[:8]
