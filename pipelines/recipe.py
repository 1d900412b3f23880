"""What all recipes share: what is compared, and the paper's table with ours beside it.

A recipe says which features are compared, with which head, and what the paper found. Without
arguments it runs on toyworld and the embedded tiny model; with ``--data`` on the paper's own data
and model. What it asked for is left as a manifest and a sweep file that ``gate-cache`` runs too.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import Extracted
from gate_cache.learn.metrics.roles import Role
from gate_cache.report.html.compare import Gain
from gate_cache.training.sweep_baselines import baseline_name
from gate_cache.training.sweep_tables import Mean, TrialRow, over_seeds

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
BASELINES = {"baseline": "the single feature", "uniform": "uniform weights"}
"""What sentences call them."""
ENOUGH = 1.0
"""Points: what differs by less, says the whole interval, is called equal."""
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
    alike : whether seeds give the same, as for solved probes on single features: one is enough
    """

    manifest: str
    trials: Trials
    train: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    conv: Mapping[str, Any] = field(default_factory=dict)
    attention: Mapping[str, Any] = field(default_factory=dict)
    folds: Sequence[int] = ()
    alike: bool = False


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes
    ----------
    columns : metric to heading
    toy : None where it would be the one of the part before
    real : None where only toyworld has it
    paper : the paper's figure of each heading, by a trial's name, or a baseline's role and head
    full : names of trials that are GATE in full, which stand out, and which the table's sentence
        is about
    over : what they are compared with: roles of baselines, names of trials
    """

    title: str
    columns: Mapping[str, str]
    toy: Source | None
    real: Source | None
    paper: Figures = field(default_factory=dict)
    full: Sequence[str] = ("GATE",)
    over: Sequence[str] = tuple(BASELINES)


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
    seconds : of processor time
    select : the metric that leads in the report
    gains : by that metric, of each mean; none over several folds
    """

    part: Part
    setting: str
    extracted: Extracted
    folders: list[Path]
    rows: list[TrialRow]
    seconds: float
    paper: bool
    select: str = ""
    gains: Sequence[Mapping[str, Gain]] = ()

    @property
    def means(self) -> list[Mean]:
        """Over seeds and folds."""
        return over_seeds(self.rows)


def reused(made: Extracted) -> str:
    """What was in the store before."""
    new = [name for name, rows in made.rows.items() if rows and name != "latents"]
    old = [name for name, rows in made.rows.items() if not rows and name != "latents"]
    return (f"{made.store}: extracted {', '.join(new) or 'nothing'}"
            + (f"; {', '.join(old)} {'was' if len(old) == 1 else 'were'} there" if old else ""))


def markdown(outcome: Outcome) -> str:
    """What a table says, and the table: mean ± standard deviation over seeds and folds, the
    paper's figures beside ours.
    """
    heads = list(outcome.part.columns.values())
    paper = outcome.part.paper if outcome.paper else {}
    shown = [*heads, *gain_heads(outcome), *(f"{h} (paper)" for h in heads if paper)]
    said = sentence(outcome)
    lines = [*([f"**{said}**", ""] if said else []),
             f"| {outcome.part.title} ({outcome.setting}) | {' | '.join(shown)} |",
             "|---|" + "---:|" * len(shown)]
    lines += [f"| {name}{times(mean)} | {' | '.join(cells(outcome, i))} |"
              for i, (name, mean) in enumerate(named(outcome))]
    return "\n".join(lines)


def gain_heads(outcome: Outcome) -> list[str]:
    """Headings of the paired differences that there are."""
    return [f"over {_short(name)} (95 %)" for name in _compared(outcome)]


def _compared(outcome: Outcome) -> list[str]:
    return [name for name in outcome.part.over if any(name in g for g in outcome.gains)]


def _short(name: str) -> str:
    return {"baseline": "single"}.get(name, _spaced(name))


def sentence(outcome: Outcome) -> str:
    """What the rows in full show, from their paired gains alone; empty without any."""
    said = [f"{_short(mean.name)} is " + ", ".join(
                verdict(BASELINES.get(name, _short(name)), gains[name])
                for name in _compared(outcome) if name in gains)
            for mean, gains in zip(outcome.means, outcome.gains, strict=False)
            if mean.name in outcome.part.full and gains]
    return f"{outcome.part.columns.get(outcome.select, outcome.select)}: {'; '.join(said)}." \
        if said else ""


def verdict(over: str, gain: Gain) -> str:
    """Decided, equal within a point, or how many test pictures would decide it."""
    points, (low, high) = gain.points, gain.interval
    figures = f"({points:+.1f}, {low:.1f} to {high:.1f})"
    if gain.clear:
        return f"{'above' if points > 0 else 'below'} {over} {figures}"
    if max(-low, high) < ENOUGH:
        return f"equal to {over} within a point {figures}"
    # An interval is as wide as one over the square root of the images: it is to leave out 0, or
    # to stay within a point, whichever comes first.
    need = gain.images * ((high - low) / 2 / max(abs(points), ENOUGH - abs(points))) ** 2
    return f"not distinguished from {over} {figures}, which about" \
        f" {math.ceil(need / 100) * 100:,} test pictures would decide"


def cells(outcome: Outcome, row: int) -> list[str]:
    """A row's figures, its gains, and the paper's figures."""
    mean, columns = outcome.means[row], outcome.part.columns
    paper = outcome.part.paper if outcome.paper else {}
    gains = [told(outcome.gains[row].get(name)) for name in _compared(outcome)]
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
    return _spaced(name)


def _spaced(name: str) -> str:
    """A name whose parts a line may break between."""
    return ", ".join(part.strip() for part in name.split(","))


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
