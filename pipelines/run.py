"""Running a recipe: manifest → extract → sweep → table, part by part."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gate_cache.core.errors import UserError
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded, load, overridden
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.report.html.compare import gains_of
from gate_cache.report.html.record import read_record
from gate_cache.report.html.write import try_report
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.features import extra_of
from gate_cache.training.run_files import trial_file
from gate_cache.training.sweep import sweep
from gate_cache.training.sweep_tables import TrialRow
from gate_cache.workspace.workspace import Workspace
from pipelines.recipe import MANIFESTS, Options, Outcome, Part, Recipe, Source, markdown, reused


def run(recipe: Recipe, options: Options) -> list[Outcome]:
    """Every part: extract what is new, train, print the table."""
    print(f"\n{recipe.title}\n{recipe.about}", flush=True)
    if options.part and options.part not in (titles := [p.title for p in recipe.parts]):
        raise UserError(f"{recipe.name}: has no part '{options.part}', but {', '.join(titles)}")
    found = []
    for number, part in enumerate(recipe.parts):
        source = part.real if options.real else part.toy
        if source is None or options.part not in (None, part.title):
            continue
        folder = options.roots.runs / "paper" / "-".join([recipe.name, str(number), *options.words])
        found.append(_part(part, source, folder, options))
        print(f"\n{markdown(found[-1])}\n", flush=True)
    return found


def _part(part: Part, source: Source, folder: Path, options: Options) -> Outcome:
    began, show = time.process_time(), console_progress()
    folder.mkdir(parents=True, exist_ok=True)
    folders, rows, made = [], [], None
    for fold in source.folds or (None,):
        home = folder if fold is None else folder / f"fold-{fold}"
        home.mkdir(exist_ok=True)
        loaded = write_manifest(source, home / "manifest.yaml", options, fold)
        work = Workspace(loaded, options.roots, options.device, show)
        seeds = 1 if source.folds or source.alike else options.seeds
        points = load_sweep(write_sweep(source, home / "sweep.yaml", seeds), loaded)
        if made is None:
            made = extract(work)
            show.say(reused(made))
        swept = sweep(work, points, home, file=home / "sweep.yaml")
        try_report(home, options.roots, show)
        if swept.failed:
            raise UserError(f"{home}: {swept.failed[0].name}: {swept.failed[0].failed}")
        folders.append(home)
        rows += [with_weights(row, home) for row in swept.rows]
    assert made is not None
    model, record = loaded.manifest.model.source, read_record(folders[0])
    return Outcome(part, f"{loaded.manifest.dataset.name}, {model}", made, folders, rows,
                   time.process_time() - began, options.real, record.select,
                   [] if len(folders) > 1 else gains_of(record, part.over))


def with_weights(row: TrialRow, folder: Path) -> TrialRow:
    """A row with its assigners' statistics among the metrics, means over assigners."""
    path = folder / "trials" / f"{trial_file(row.key)}.json"
    told = json.loads(path.read_text(encoding="utf-8"))["details"].get("weights") \
        if path.is_file() else None
    if not told:
        return row
    found = {f"weights/{k}": 100 * statistics.fmean(told[k]) for k in ("top1", "top2")}
    overlap = {("weights/none" if k == "none" else f"weights/overlap {k}"): 100 * v
               for k, v in told["overlap"].items()}
    return replace(row, test={**row.test, **found, **overlap})


def write_manifest(source: Source, to: Path, options: Options, fold: int | None) -> Loaded:
    """The manifest with only the combos that are compared, so that no other is extracted."""
    path = options.manifest or MANIFESTS / source.manifest
    loaded = load(path)
    data: dict[str, Any] = loaded.manifest.model_dump(mode="json", by_alias=True,
                                                      exclude_unset=True)
    data["dataset"] |= {**source.dataset, **({} if fold is None else {"fold": fold})}
    data["model"] |= {k: v for k, v in (("source", options.model), ("dtype", options.dtype)) if v}
    store = data.setdefault("store", {})
    store.setdefault("path", f"{path.stem}.zarr")
    if style := source.dataset.get("style"):  # other pictures of the same names
        store["path"] = f"{Path(store['path']).stem}-{style}.zarr"
    train = overridden(data.get("train", {}), dict(source.train))
    conv = {**data.get("conv", {}), **source.conv}
    wanted = {name for trial in source.trials for name in trial.get("combos", ())}
    wanted |= {*extra_of(TrainSpec.model_validate(train)), train.get("baseline", next(iter(conv)))}
    data["conv"] = {name: combo for name, combo in conv.items() if name in wanted}
    off = train.get("attention") is False and all("attention" not in t for t in source.trials)
    data["attention"] = {} if off else {**data.get("attention", {}), **source.attention}
    data["train"] = {k: v for k, v in train.items() if k != "combos"}
    _write(to, data)
    return load(to)


def write_sweep(source: Source, to: Path, seeds: int) -> Path:
    """The trials with every seed."""
    grid = {**source.grid, "seed": list(range(seeds))}
    _write(to, {"trials": [dict(t) for t in source.trials], "grid": grid})
    return to


def _write(to: Path, data: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, width=100)
    to.write_text(text, encoding="utf-8")
