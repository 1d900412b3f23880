"""Stage 2: train on a store, judge on ``test`` beside baselines, leave a run directory."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gate_cache
from gate_cache.learn.bucket import Buckets
from gate_cache.learn.fit import SELECT, Fitted, Predictor, fit, judge
from gate_cache.learn.model import CorrespondenceModel, amalgamated, fixed
from gate_cache.learn.pairs import PairPoints, copy_position, evaluate
from gate_cache.learn.results import Table
from gate_cache.manifest import Loaded
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.device import out_of_memory
from gate_cache.stages.rundir import RunDirectory, new_run
from gate_cache.stages.study import Study, open_study
from gate_cache.store.disk import disk_errors

PROTOCOL = "PCK in original-image pixels; radius = α × longer side of image or box"


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes
    ----------
    run : the run directory
    tables : results on ``test``, and over all published pairs where that is another set
    splits : images and pairs of each split
    """

    run: Path
    head: str
    tables: list[Table]
    splits: dict[str, dict[str, int]]
    seconds: float


@dataclass(frozen=True)
class _Method:
    """One row of a table.

    Attributes
    ----------
    seen : whether it was trained, or chosen on ``val``
    note : whether to tell its mean weights
    """

    name: str
    model: CorrespondenceModel
    buckets: Buckets
    trained: bool = False
    seen: bool = False
    note: bool = False


def train(loaded: Loaded, roots: Roots, *, device: str | None = None, run: Path | None = None,
          progress: Progress | None = None) -> Trained:
    """Train one configuration.

    Parameters
    ----------
    device : by default a GPU where there is one
    run : the run directory to make; by default ``<runs>/<manifest>-<head>-<time>``

    Raises
    ------
    UserError
        The store lacks something, the data set has no key points, or the run exists already.
    """
    began = time.monotonic()
    head = loaded.manifest.train.head
    show = progress or Silent()
    study = open_study(loaded, roots, device, show)
    folder = RunDirectory(run) if run else new_run(roots.runs, f"{loaded.path.stem}-{head}")
    refused = disk_errors(folder.path, "--runs", "and train again")
    with refused, out_of_memory("a smaller train.batch"), torch.random.fork_rng():
        folder.begin(_config(study, loaded))
        try:
            methods, fits = _train(study, show, folder.log)
            tables = _judge(study, methods, folder.log)
            for name, fitted in fits.items():
                folder.weights(f"{name}-best", fitted.best)
                folder.weights(f"{name}-last", fitted.last)
            result = Trained(folder.path, head, tables, study.splits(), time.monotonic() - began)
            folder.finish(_metrics(result, fits))
        finally:
            folder.close()
    return result


def _config(study: Study, loaded: Loaded) -> dict[str, Any]:
    """Everything that was settled before the training began."""
    return {
        "gate_cache": gate_cache.__version__, "torch": str(torch.__version__),
        "manifest_file": loaded.path.name, **study.config(),
        "manifest": loaded.manifest.model_dump(mode="json", by_alias=True),
    }


def _metrics(result: Trained, fits: dict[str, Fitted]) -> dict[str, Any]:
    return {
        "head": result.head, "splits": result.splits, "seconds": round(result.seconds, 2),
        "tables": [t.to_json() for t in result.tables],
        "fits": {n: {"best_at": f.best_at, "history": f.history} for n, f in fits.items()},
    }


def _train(study: Study, show: Progress,
           log: logging.Logger) -> tuple[list[_Method], dict[str, Fitted]]:
    """Train what the head trains; list every method to judge."""
    spec, conv = study.spec, study.spec.head == "conv"
    fits: dict[str, Fitted] = {}

    def fitted(name: str, label: str, buckets: Buckets,
               make: Callable[[], CorrespondenceModel]) -> CorrespondenceModel:
        torch.manual_seed(spec.seed)
        model = make()
        fits[name] = fit(model, spec, buckets, study.pairs["train"], study.pairs["val"], show,
                         label, log.info)
        return model

    def alone() -> CorrespondenceModel:
        return fixed(spec, study.single.channels, [1.0])

    label = f"training single: {study.baseline}"
    single = fitted("single", label, study.single, alone) if conv else alone()
    methods = [_Method(f"single feature: {study.baseline}", single, study.single, conv, conv)]
    methods += [_single_nn(study)] if conv else _untrained(study)
    gate = fitted("gate", "training GATE", study.full,
                  lambda: amalgamated(spec, study.full.channels))
    return [*methods, _Method(_gate_name(study), gate, study.full, True, True, True)], fits


def _gate_name(study: Study) -> str:
    n = study.spec.assigners
    attention = " + attention" if study.full.spec.attention else ""
    return f"GATE: {n} assigner{'s' if n > 1 else ''}{attention}"


def _single_nn(study: Study) -> _Method:
    """The single feature as it is, for tables in which the trained one has no place."""
    plain = study.spec.model_copy(update={"head": "nn"})
    model = fixed(plain, study.single.channels, [1.0])
    return _Method(f"the same, head nn, untrained: {study.baseline}", model, study.single)


def _untrained(study: Study) -> list[_Method]:
    """Baselines of the head that learns nothing beyond weights: best single, uniform."""
    channels, count = study.plain.channels, len(study.combos)
    uniform = fixed(study.spec, channels, [1 / count] * count)
    found = [*_best_single(study),
             _Method("all features, uniform weights", uniform, study.plain)]
    if study.full.spec.attention:
        found.append(_Method("the same + attention", uniform, study.full))
    return found


def _best_single(study: Study) -> list[_Method]:
    """The single feature that is best on ``val``, where it is another than the baseline."""
    if not study.pairs["val"]:
        return []
    scores = {}
    for name in study.combos:
        weights = [float(name == other) for other in study.combos]
        model = fixed(study.spec, study.plain.channels, weights).to(study.plain.device)
        scores[name] = judge(model, study.plain, study.pairs["val"]).values[SELECT], model
    best = max(scores, key=lambda name: scores[name][0])
    if best == study.baseline:
        return []
    return [_Method(f"best single on val: {best}", scores[best][1], study.plain, seen=True)]


def _judge(study: Study, methods: list[_Method], log: logging.Logger) -> list[Table]:
    """Every method on ``test``; over all published pairs only those that have not seen any."""
    protocol = f"{study.protocol}; {PROTOCOL}"
    tables = [_table(study, Table("test split", protocol), study.pairs["test"], methods)]
    if study.published:
        unseen = [m for m in methods if not m.seen]
        every = Table("all published pairs (only methods that have not seen any)", protocol)
        tables.append(_table(study, every, study.published, unseen))
    for table in tables:
        log.info(json.dumps(table.to_json(), ensure_ascii=False))
    return tables


def _table(study: Study, table: Table, pairs: list[PairPoints], methods: list[_Method]) -> Table:
    table.add("copy the position", evaluate(pairs, copy_position))
    for method in methods:
        predictor = Predictor(method.model.to(method.buckets.device), method.buckets)
        found = evaluate(pairs, predictor)
        note = _weights_note(study, predictor) if method.note else ""
        table.add(method.name, found, method.trained, note)
    return table


def _weights_note(study: Study, predictor: Predictor) -> str:
    """Mean weights of each assigner over the judged images, largest first."""
    mean = torch.stack(list(predictor.weights.values())).mean(0)
    parts = []
    for weights in mean.tolist():
        order = sorted(zip(weights, study.combos, strict=True), reverse=True)
        parts.append(", ".join(f"{name} {w:.2f}" for w, name in order))
    return " | ".join(parts)
