"""What all recipes share: manifest → extract → sweep → the paper's table, ours beside it.

A recipe says which features are compared, with which head, and what the paper found. Without
arguments it runs on toyworld and the embedded tiny model; with ``--data`` on the paper's own data
and model. What it asked for is left as a manifest and a sweep file that ``gate-cache`` runs too.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import Extracted, extract
from gate_cache.learn.metrics.roles import Role
from gate_cache.manifest.load import Loaded, load, overridden
from gate_cache.manifest.specs import TrainSpec
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.report.html.compare import Gain, gains_of
from gate_cache.report.html.record import read_record
from gate_cache.report.html.write import try_report
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.features import extra_of
from gate_cache.training.run_files import trial_file
from gate_cache.training.sweep import sweep
from gate_cache.training.sweep_baselines import baseline_name
from gate_cache.training.sweep_tables import Mean, TrialRow, over_seeds
from gate_cache.workspace.workspace import Workspace

MANIFESTS = Path(__file__).parents[1] / "manifests"
TOY = "toyworld-techniques.yaml"
SIX = ["prompt-0", "prompt-1", "lora-0", "lora-1", "control-0", "control-1"]
"""What GATE mixes on SPair-71k, and on toyworld."""
SEEDS = 3
Trials = Sequence[Mapping[str, Any]]
Figures = Mapping[str | tuple[Role, str], Mapping[str, str]]
GATE: Mapping[str, Any] = {"name": "GATE", "combos": SIX}
PCK = {"pck@0.10/radius=image/average=point": "PCK@0.1 img",
       "pck@0.10/radius=box/average=point": "PCK@0.1 bbox"}
IOU = {"mIoU": "mIoU"}
OVER: Mapping[Role, str] = {"baseline": "over single (95 %)", "uniform": "over uniform (95 %)"}
"""Headings of paired differences, of the metric that leads in the report."""
WEIGHTS = {"weights/top1": "largest", "weights/top2": "second", "weights/none": "no overlap",
           "weights/overlap top1": "overlap @ top-1", "weights/overlap top2": "overlap @ top-2"}
"""Of a trial's assigners, percent (paper, Figure 12)."""


@dataclass(frozen=True)
class Source:
    """Data, model and trainings of a part of a recipe.

    Attributes
    ----------
    manifest : a file of ``manifests/``
    trials : as in a sweep file; each with a name
    train : settings of all trials
    grid : settings that are all tried, as in a sweep file
    dataset : fields of the data set that differ from the manifest's
    conv, attention : combos that the manifest lacks
    folds : splits of the data set, each a repetition
    """

    manifest: str
    trials: Trials
    train: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    conv: Mapping[str, Any] = field(default_factory=dict)
    attention: Mapping[str, Any] = field(default_factory=dict)
    folds: Sequence[int] = ()


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes
    ----------
    columns : metric to heading
    toy : None where it would be the one of the part before
    real : None where only toyworld has it
    paper : the paper's figure of each heading, by a trial's name, or a baseline's role and head
    full : names of trials that are GATE in full, which stand out
    """

    title: str
    columns: Mapping[str, str]
    toy: Source | None
    real: Source | None
    paper: Figures = field(default_factory=dict)
    full: Sequence[str] = ("GATE",)


@dataclass(frozen=True)
class Recipe:
    """One result of the paper.

    Attributes
    ----------
    about : what is asked, and how what is run differs from the paper's
    """

    name: str
    title: str
    about: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes
    ----------
    real : the paper's data and model, not toyworld and tiny
    manifest, model, dtype : instead of the recipe's own
    part : title of the only part that is run; all by default
    """

    roots: Roots
    real: bool = False
    manifest: Path | None = None
    model: str | None = None
    dtype: str | None = None
    seeds: int = SEEDS
    device: str | None = None
    part: str | None = None

    @property
    def words(self) -> list[str]:
        """What differs from a run without options, for names of folders."""
        given = [self.manifest and self.manifest.stem, self.model and Path(self.model).stem,
                 self.dtype, self.seeds != SEEDS and f"{self.seeds}-seeds"]
        return ["real"] * self.real + [str(word) for word in given if word]


@dataclass(frozen=True)
class Outcome:
    """What a part gave.

    Attributes
    ----------
    folders : of the sweeps, one a fold
    rows : of all of them
    gains : of each mean over its baselines, of the metric that leads; none over several folds
    """

    part: Part
    setting: str
    extracted: Extracted
    folders: list[Path]
    rows: list[TrialRow]
    seconds: float
    paper: bool
    gains: Sequence[Mapping[Role, Gain]] = ()

    @property
    def means(self) -> list[Mean]:
        """Over seeds and folds."""
        return over_seeds(self.rows)


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
    began, show = time.monotonic(), console_progress()
    folder.mkdir(parents=True, exist_ok=True)
    folders, rows, made = [], [], None
    for fold in source.folds or (None,):
        home = folder if fold is None else folder / f"fold-{fold}"
        home.mkdir(exist_ok=True)
        loaded = write_manifest(source, home / "manifest.yaml", options, fold)
        work = Workspace(loaded, options.roots, options.device, show)
        seeds = 1 if source.folds else options.seeds
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
    model = loaded.manifest.model.source
    return Outcome(part, f"{loaded.manifest.dataset.name}, {model}", made, folders, rows,
                   time.monotonic() - began, options.real,
                   [] if len(folders) > 1 else gains_of(read_record(folders[0])))


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


def reused(made: Extracted) -> str:
    """What was in the store before."""
    new = [name for name, rows in made.rows.items() if rows and name != "latents"]
    old = [name for name, rows in made.rows.items() if not rows and name != "latents"]
    return (f"{made.store}: extracted {', '.join(new) or 'nothing'}"
            + (f"; {', '.join(old)} {'was' if len(old) == 1 else 'were'} there" if old else ""))


def markdown(outcome: Outcome) -> str:
    """A table: mean ± standard deviation over seeds and folds, the paper's figures beside ours."""
    heads = list(outcome.part.columns.values())
    paper = outcome.part.paper if outcome.paper else {}
    shown = [*heads, *gain_heads(outcome), *(f"{h} (paper)" for h in heads if paper)]
    lines = [f"| {outcome.part.title} ({outcome.setting}) | {' | '.join(shown)} |",
             "|---|" + "---:|" * len(shown)]
    lines += [f"| {name}{times(mean)} | {' | '.join(cells(outcome, i))} |"
              for i, (name, mean) in enumerate(named(outcome))]
    return "\n".join(lines)


def gain_heads(outcome: Outcome) -> list[str]:
    """Headings of the paired differences that there are."""
    return [head for role, head in OVER.items() if any(role in g for g in outcome.gains)]


def cells(outcome: Outcome, row: int) -> list[str]:
    """A row's figures, its gains, and the paper's figures."""
    mean, columns = outcome.means[row], outcome.part.columns
    paper = outcome.part.paper if outcome.paper else {}
    gains = [told(outcome.gains[row].get(role)) for role, head in OVER.items()
             if head in gain_heads(outcome)]
    return [*(spread(mean, metric) for metric in columns), *gains,
            *(figures_of(paper, mean).get(head, "") for head in columns.values() if paper)]


def told(gain: Gain | None) -> str:
    """``+1.4 (0.9 to 1.9)``; in bold where the interval leaves out 0."""
    if gain is None:
        return ""
    text = f"{gain.points:+.1f} ({gain.interval.low:.1f} to {gain.interval.high:.1f})"
    return f"**{text}**" if gain.clear else text


def named(outcome: Outcome) -> list[tuple[str, Mean]]:
    """Rows by names that leave out how long a baseline was trained, where that makes no two equal.
    """
    for left_out in (("steps", "validate_steps"), ("validate_steps",), ()):
        brief = [_brief(mean, left_out) for mean in outcome.means]
        if len(set(brief)) == len(brief):
            break
    return list(zip(brief, outcome.means, strict=True))


def _brief(mean: Mean, left_out: Sequence[str]) -> str:
    name = mean.name
    if mean.trained and mean.method.role != "gate" and left_out:
        name = baseline_name(mean.method, {k: v for k, v in mean.settings.items()
                                           if k not in left_out})
    return ", ".join(part.strip() for part in name.split(","))  # so that lines may break


def times(mean: Mean) -> str:
    """How often it was trained."""
    return f" (n = {mean.seeds})" if mean.trained else ""


def figures_of(paper: Figures, mean: Mean) -> Mapping[str, str]:
    """The paper's figures of a row."""
    role = mean.method.role
    return paper.get(mean.name if role == "gate" else (role, mean.method.head), {})


def spread(mean: Mean, metric: str) -> str:
    """``21.0 ± 0.4``."""
    value, deviation = mean.test.get(metric, (math.nan, math.nan))
    if math.isnan(value):
        return ""
    return f"{value:.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")


def command(outcome: Outcome) -> list[str]:
    """What runs a part again by hand."""
    return [f"gate-cache {verb} {shlex.join(map(str, files))}" for home in outcome.folders
            for verb, files in (("extract", [home / "manifest.yaml"]),
                                ("sweep", [home / "manifest.yaml", home / "sweep.yaml"]))]
