"""``evaluate``: trained weights on another manifest's data, or on the same once more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from gate_cache.datasets.base import Split
from gate_cache.errors import ModelError, UserError, did_you_mean, listed
from gate_cache.learn.intervals import Interval, bootstrap
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.specs import TrainSpec
from gate_cache.stages.runfiles import CONFIG, trial_file
from gate_cache.stages.studies import open_any

NO_RUN = "holds no finished training; name the folder that 'gate-cache train' or 'sweep' made"


@dataclass(frozen=True)
class Evaluated:
    """A trained model's results.

    Attributes
    ----------
    values : metrics by name
    select : the one that chose its checkpoint, with its 95 % interval over pairs or images
    """

    run: str
    manifest: str
    head: str
    split: str
    protocol: str
    values: dict[str, float]
    select: str
    interval: Interval


@dataclass(frozen=True)
class _Trained:
    spec: TrainSpec
    weights: Path


def evaluate(run: Path, loaded: Loaded, roots: Roots, *, trial: str | None = None,
             last: bool = False, split: Split = "test", device: str | None = None,
             progress: Progress | None = None) -> Evaluated:
    """Judge trained weights on a split of a manifest's data set.

    Parameters
    ----------
    run : folder of a training, or of a sweep
    trial : which one of a sweep
    last : the weights of the last step, not the best ones on ``val``

    Raises
    ------
    UserError
        There is no such run or trial, or it does not fit the manifest's features.
    """
    trained = _of_sweep(run, trial) if (run / "trials").is_dir() else _of_train(run, last)
    spec = trained.spec
    lacking = [n for n in spec.combos or () if n not in loaded.manifest.conv]
    if lacking:
        raise UserError(f"{loaded.path.name}: has no combo '{lacking[0]}' in 'conv', which {run}"
                        " was trained on")
    if isinstance(spec.attention, str) and spec.attention not in loaded.manifest.attention:
        raise UserError(f"{loaded.path.name}: has no combo '{spec.attention}' in 'attention', which"
                        f" {run} was trained on")
    other = loaded.model_copy(update={
        "manifest": loaded.manifest.model_copy(update={"train": spec})})
    study = open_any(other, roots, device, progress or Silent())
    model = study.gate(spec)
    try:
        model.load_state_dict(load_file(trained.weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(f"{trained.weights}: does not fit the features of {loaded.path.name}:"
                         f" {' '.join(str(error).split())[:160]}") from None
    with torch.random.fork_rng():
        (found,) = study.task.judge([model.to(study.device).eval()], split)
    if not found.values:
        raise UserError(f"{loaded.path.name}: split '{split}' has nothing to judge on")
    known = found.details.get("interval")
    known = known.get(study.select) if isinstance(known, dict) else None
    interval = Interval(*known) if known else bootstrap(list(found.each))
    return Evaluated(str(run), str(loaded.path), spec.head, split, study.protocol,
                     dict(found.values), study.select, interval)


def _of_train(run: Path, last: bool) -> _Trained:
    config = _json(run / CONFIG, run)
    weights = run / f"gate-{'last' if last else 'best'}.safetensors"
    if not weights.is_file():
        raise UserError(f"{run}: {NO_RUN}")
    return _Trained(_spec(config.get("manifest", {}).get("train"), run), weights)


def _of_sweep(run: Path, trial: str | None) -> _Trained:
    every = [_json(path, run) for path in sorted((run / "trials").glob("*.json"))]
    found = {str(t["name"]): t for t in every if "name" in t}
    if trial is None:
        raise UserError(f"{run}: is a sweep; say which of its trials with --trial:"
                        f" {listed(found, 6)}")
    if trial not in found:
        raise UserError(f"{run}: has no finished trial '{trial}'{did_you_mean(trial, found)}")
    weights = run / "weights" / f"{trial_file(trial)}.safetensors"
    return _Trained(_spec(found[trial].get("spec"), run), weights)


def _json(path: Path, run: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{run}: {NO_RUN}") from None
    return found if isinstance(found, dict) else {}


def _spec(data: Any, run: Path) -> TrainSpec:
    try:
        return TrainSpec.model_validate(data)
    except ValidationError:
        raise UserError(f"{run}: its settings cannot be read; it was made by another version"
                        ) from None
