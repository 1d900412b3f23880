"""Stage 2: train on a store, judge on ``test`` beside baselines, leave a run directory."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gate_cache
from gate_cache.datasets.base import SPLITS, CorrespondenceDataset, Split
from gate_cache.datasets.registry import open_dataset
from gate_cache.errors import DataError, ManifestError, UserError
from gate_cache.learn.bucket import Buckets, BucketSpec
from gate_cache.learn.fit import SELECT, Fitted, Predictor, fit, judge
from gate_cache.learn.model import CorrespondenceModel, amalgamated, fixed
from gate_cache.learn.pairs import PairPoints, copy_position, evaluate, load_pairs
from gate_cache.learn.results import Table
from gate_cache.manifest import Loaded, TrainSpec
from gate_cache.progress import Progress, Silent
from gate_cache.roots import Roots
from gate_cache.stages.lookup import find_combo, need_all
from gate_cache.stages.plan import store_of
from gate_cache.stages.rundir import RunDirectory, new_run
from gate_cache.store.disk import disk_errors
from gate_cache.store.reader import FeatureStore


@dataclass
class Trained:
    """What a training left.

    Attributes
    ----------
    run : the run directory
    tables : results on ``test``, and over all published pairs where that is another set
    """

    run: Path
    head: str
    tables: list[Table]
    splits: dict[str, dict[str, int]]
    seconds: float


@dataclass
class _Setting:
    """A store, a data set and what they yield for one training."""

    spec: TrainSpec
    store: FeatureStore
    buckets: Buckets
    single: Buckets
    plain: Buckets
    combos: list[str]
    baseline: int
    pairs: dict[Split, list[PairPoints]]
    every: list[PairPoints]
    show: Progress

    @property
    def samples(self) -> Any:
        """The store's table of samples."""
        return self.store.samples


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
        The store lacks something, or the data set has no key points.
    """
    began = time.monotonic()
    head = loaded.manifest.train.head
    setting = _setting(loaded, roots, device, progress or Silent())
    folder = RunDirectory(run) if run else new_run(roots.runs, f"{loaded.path.stem}-{head}")
    with disk_errors(folder.path):
        folder.begin(_config(setting, loaded))
        try:
            tables, fits = _tables(setting, folder.log)
            seconds = time.monotonic() - began
            result = Trained(folder.path, head, tables, _splits(setting), seconds)
            for name, fitted in fits.items():
                folder.weights(f"{name}-best", fitted.best)
                folder.weights(f"{name}-last", fitted.last)
            folder.finish(_metrics(result, fits))
        finally:
            folder.close()
    return result


def _splits(setting: _Setting) -> dict[str, dict[str, int]]:
    return {s: {"images": len({i for p in pairs for i in (p.pair.source, p.pair.target)}),
                "pairs": len(pairs)} for s, pairs in setting.pairs.items()}


def _config(setting: _Setting, loaded: Loaded) -> dict[str, Any]:
    """Everything that was settled before the training began."""
    spec = setting.buckets.spec
    used = [*spec.combos, *([spec.attention] if spec.attention else [])]
    return {
        "gate_cache": gate_cache.__version__, "torch": str(torch.__version__),
        "manifest_file": loaded.path.name, "store": str(setting.store.path),
        "fingerprints": {n: setting.store[n].fingerprint for n in used},
        "resolution": setting.buckets.resolution, "device": str(setting.buckets.device),
        "splits": _splits(setting),
        "manifest": loaded.manifest.model_dump(mode="json", by_alias=True),
    }


def _metrics(result: Trained, fits: dict[str, Fitted]) -> dict[str, Any]:
    return {
        "head": result.head, "splits": result.splits, "seconds": round(result.seconds, 2),
        "tables": [t.to_json() for t in result.tables],
        "fits": {n: {"best_at": f.best_at, "history": f.history} for n, f in fits.items()},
    }


def _setting(loaded: Loaded, roots: Roots, device: str | None, show: Progress) -> _Setting:
    manifest, spec = loaded.manifest, loaded.manifest.train
    dataset = open_dataset(manifest.dataset, roots)
    if not isinstance(dataset, CorrespondenceDataset):
        raise DataError(f"{loaded.path.name}: data set '{dataset.name}' has no key points, and"
                        f" head '{spec.head}' needs them")
    names = spec.combos or list(manifest.conv)
    if not names:
        raise ManifestError([f"{loaded.path.name}: train: needs at least one combo of 'conv'"])
    store = FeatureStore.open(store_of(loaded, roots))
    views = {name: find_combo(store, manifest, name) for name in names}
    attention = _attention(loaded)
    found = {**views, **({attention: find_combo(store, manifest, attention)} if attention else {})}
    rows = [store.samples.row(s.id) for s in dataset.samples()]
    for view in found.values():
        need_all(view, rows)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    groups = tuple(v.name for v in views.values())
    baseline = names.index(spec.baseline) if spec.baseline in names else 0
    maps = tuple(spec.attention_maps) if spec.attention_maps else None

    def buckets(combos: tuple[str, ...], attention_group: str | None) -> Buckets:
        return Buckets(store, BucketSpec(combos, attention_group, maps, spec.resolution), place)

    full = buckets(groups, found[attention].name if attention else None)
    _ = full.channels
    pairs = {split: load_pairs(dataset, split) for split in SPLITS}
    _need_pairs(loaded, pairs)
    every = load_pairs(dataset, None)
    every = every if len(every) != sum(map(len, pairs.values())) else []
    return _Setting(spec, store, full, buckets((groups[baseline],), None), buckets(groups, None),
                    names, baseline, pairs, every, show)


def _attention(loaded: Loaded) -> str | None:
    """The attention combo to concatenate: as the manifest says, else its only or first one."""
    wanted = loaded.manifest.train.attention
    if wanted is False:
        return None
    return wanted or next(iter(loaded.manifest.attention), None)


def _need_pairs(loaded: Loaded, pairs: dict[Split, list[PairPoints]]) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if not pairs[split]:
            raise UserError(f"{loaded.path.name}: dataset: split '{split}' has no pairs of images"
                            " of one category; enlarge it")


def _tables(setting: _Setting,
            log: logging.Logger) -> tuple[list[Table], dict[str, Fitted]]:
    """Train what the head trains, then judge every method on ``test``."""
    fits: dict[str, Fitted] = {}
    spec, one = setting.spec, setting.combos[setting.baseline]
    single = fixed(spec, setting.single.channels, [1.0])
    if spec.head == "conv":
        fits["single"] = _fit(setting, single, setting.single, f"training single: {one}", log)
    gate = _seeded(spec, lambda: amalgamated(spec, setting.buckets.channels))
    fits["gate"] = _fit(setting, gate, setting.buckets, "training GATE", log)
    methods: list[tuple[str, CorrespondenceModel, Buckets, bool]] = [
        (f"single feature: {one}", single, setting.single, spec.head == "conv")]
    if spec.head == "nn":
        share = [1 / len(setting.combos)] * len(setting.combos)
        methods += _singles(setting)
        uniform = fixed(spec, setting.plain.channels, share)
        methods.append(("all features, uniform weights", uniform, setting.plain, False))
        if setting.buckets.spec.attention:
            methods.append(("the same + attention", fixed(spec, setting.plain.channels, share),
                            setting.buckets, False))
    methods.append((_gate_name(setting), gate, setting.buckets, True))
    return _judge_all(setting, methods, log), fits


def _gate_name(setting: _Setting) -> str:
    n = setting.spec.assigners
    attention = " + attention" if setting.buckets.spec.attention else ""
    return f"GATE: {n} assigner{'s' if n > 1 else ''}{attention}"


def _singles(setting: _Setting) -> list[tuple[str, CorrespondenceModel, Buckets, bool]]:
    """The single feature that is best on ``val``, where it is another than the baseline."""
    if not setting.pairs["val"] or len(setting.combos) == 1:
        return []
    scores = []
    for i in range(len(setting.combos)):
        weights = [float(k == i) for k in range(len(setting.combos))]
        model = fixed(setting.spec, setting.plain.channels, weights)
        found = judge(model, setting.plain, setting.samples, setting.pairs["val"])
        scores.append((found.values[SELECT], -i, model))
    _, minus, model = max(scores, key=lambda s: s[:2])
    if -minus == setting.baseline:
        return []
    return [(f"best single on val: {setting.combos[-minus]}", model, setting.plain, False)]


def _seeded(spec: TrainSpec, make: Any) -> CorrespondenceModel:
    torch.manual_seed(spec.seed)
    model: CorrespondenceModel = make()
    return model


def _fit(setting: _Setting, model: CorrespondenceModel, buckets: Buckets, label: str,
         log: logging.Logger) -> Fitted:
    torch.manual_seed(setting.spec.seed)
    found = fit(model, setting.spec, buckets, setting.samples, setting.pairs["train"],
                setting.pairs["val"], setting.show, label)
    for entry in found.history:
        log.info("%s %s", label, json.dumps(entry))
    return found


def _judge_all(setting: _Setting,
               methods: Sequence[tuple[str, CorrespondenceModel, Buckets, bool]],
               log: logging.Logger) -> list[Table]:
    dataset_protocol = "PCK in original-image pixels; radius = α × longer side of image or box"
    test = Table("test split", dataset_protocol)
    tables = [(test, setting.pairs["test"], False)]
    if setting.every:
        every = Table("all published pairs (only what is not trained)", dataset_protocol)
        tables.append((every, setting.every, True))
    for table, pairs, untrained_only in tables:
        table.add("copy the position", evaluate(pairs, copy_position))
        for name, model, buckets, trained in methods:
            if trained and untrained_only:
                continue
            predictor = Predictor(model.to(buckets.device), buckets, setting.samples)
            table.add(name, evaluate(pairs, predictor), trained, _weights_note(setting, predictor))
            log.info("%s: %s: %s", table.title, name,
                             json.dumps(table.rows[-1].pck.to_json()))
    return [t for t, _, _ in tables]


def _weights_note(setting: _Setting, predictor: Predictor) -> str:
    """Mean weights of each assigner over the judged images, largest first."""
    mean = torch.stack(list(predictor.weights.values())).mean(0)
    if mean.shape[1] != len(setting.combos) or (mean.max() == 1):
        return ""
    parts = []
    for weights in mean.tolist():
        order = sorted(zip(weights, setting.combos, strict=True), reverse=True)
        parts.append(", ".join(f"{name} {w:.2f}" for w, name in order))
    return " | ".join(parts)
