"""Is GATE worth it? Content-shift Score of each technique, and PCK of features and mixtures.

    python -m pipelines.gate_question [MANIFEST] [--data …] [--models …]

Reads the manifest's combos by name: ``<technique>-<seed>``, with ``plain`` for none and
``reference`` at t = 0. Extracts what is missing, then prints tables (mean ± standard deviation:
of single features and Scores over the seeds of the noise, of assigners over the seeds of the
training) and leaves them as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gate_cache.core.errors import GateCacheError, ManifestError, UserError
from gate_cache.core.places import parse_place
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.bucket import Buckets
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.metrics.pck import PCK, pck
from gate_cache.learn.metrics.shift import score, shift
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, build_model
from gate_cache.learn.tasks.matching import CorrespondenceTask, judge
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.store.reader import ComboView
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.workspace.workspace import Workspace

KEYS = ((0.1, "image", "point"), (0.1, "box", "point"))
REFERENCE, PLAIN = "reference", "plain"
MAPS = ("up1", "up2", "up3")
SHOW = console_progress()


def technique(combo: str) -> str:
    """A combo's name without its seed."""
    return combo.rpartition("-")[0] or combo


def asked(loaded: Loaded, model: str | None = None, style: str | None = None,
          only: list[str] | None = None) -> Loaded:
    """The manifest with what the command line says.

    Parameters
    ----------
    model : instead of its own
    style : of toyworld's pictures; they have a store of their own
    only : these techniques alone, and plain features for the mixture
    """
    data, path = loaded.manifest.model_dump(by_alias=True), loaded.path
    if model:
        data["model"]["source"] = model
    if style:
        if data["dataset"]["name"] != "toyworld":
            raise ManifestError([f"{path.name}: dataset: --style is for toyworld's pictures"])
        data["dataset"]["style"] = style
        path = path.with_stem(f"{path.stem}-{style}")
    if only:
        data["conv"] = {n: c for n, c in data["conv"].items() if technique(n) in (PLAIN, *only)}
        plain = [n for n in data["conv"] if technique(n) == PLAIN]
        data["train"] |= {"combos": plain, "baseline": plain[0], "attention": False}
        data["attention"] = {}
    return Loaded(path=path, manifest=Manifest.model_validate(data))


class Question:
    """A store with every technique, and the pairs that features are judged on.

    Parameters
    ----------
    loaded : the manifest; what it trains on is GATE's mixture
    seeds : of single features, and of trainings
    """

    def __init__(self, loaded: Loaded, roots: Roots, seeds: int) -> None:
        spec = loaded.manifest.train
        every = spec.model_copy(update={"combos": list(loaded.manifest.conv)})
        work = Workspace(loaded, roots, progress=SHOW).with_manifest(train=every)
        study = open_any(work)
        assert isinstance(study, TrainingInputs)
        self._study = study
        self._spec, self._seeds = spec, seeds
        full = self._study.features.spec
        self._groups = dict(zip(self._study.combos, full.combos, strict=True))
        self._attention = full.attention
        self._techniques: dict[str, list[str]] = defaultdict(list)
        for name in self._groups:
            self._techniques[technique(name)].append(name)
        self._referred = bool(self._techniques.pop(REFERENCE, None))

    def scores(self) -> dict[str, list[float]]:
        """Score (Eq. 2) of each technique, one value a seed: mean over images and maps.

        The anchor is the plain feature of the same seed, so 0 is "as plain" and 1 an exact match.
        """
        if not self._referred:
            return {}
        anchors = [self._shifts(name) for name in self._techniques[PLAIN]]
        return {name: [statistics.fmean(float(score(anchor[m], found).mean())
                                        for m, found in self._shifts(combo).items())
                       for anchor, combo in zip(anchors, combos, strict=False)]
                for name, combos in self._techniques.items() if name != PLAIN}

    def _shifts(self, combo: str) -> dict[str, torch.Tensor]:
        def read(view: ComboView, name: str) -> torch.Tensor:
            return torch.from_numpy(view[name][:])

        reference, found = (self._study.store[self._groups[n]] for n in (REFERENCE, combo))
        return {m: shift(read(reference, m), read(found, m)) for m in MAPS}

    def pck(self) -> dict[str, list[list[float]]]:
        """Row to one [PCK@0.1 image, PCK@0.1 box] a seed, on ``test``."""
        copies = [p.judge(p.source_shares) for p in self._study.pairs["test"]]
        rows = {"copy the position": [_values(pck(copies))]}
        for name, combos in self._techniques.items():
            rows[f"{name}, alone"] = [self._fixed(self._of([c])) for c in combos[: self._seeds]]
        for name, buckets in self._mixtures().items():
            rows[f"{name}, uniform"] = [self._fixed(buckets)]
            rows[f"{name}, assigners"] = [self._trained(buckets, name, s)
                                          for s in range(self._seeds)]
        return rows

    def _mixtures(self) -> dict[str, Buckets]:
        """Sets of features that are mixed: plain ones, GATE's, GATE's + attention."""
        plain, mixed = self._techniques[PLAIN], self._spec.combos or list(self._groups)
        found = {f"{len(plain)} × plain": self._of(plain)}
        if mixed != plain:
            found[f"GATE's {len(mixed)}"] = self._of(mixed)
        if self._attention:
            found[f"GATE's {len(mixed)} + attention"] = self._of(mixed, self._attention)
        return found

    def _of(self, combos: list[str], attention: str | None = None) -> Buckets:
        return self._study.features.of(tuple(self._groups[c] for c in combos), attention)

    def _fixed(self, buckets: Buckets) -> list[float]:
        count = len(buckets.spec.combos)
        model = build_model(self._spec, buckets.channels, [1 / count] * count)
        return self._judged(model, buckets)

    def _trained(self, buckets: Buckets, name: str, seed: int) -> list[float]:
        spec = self._spec.model_copy(update={"seed": seed})
        torch.manual_seed(seed)
        model = build_model(spec, buckets.channels)
        label, pairs = f"{name}, seed {seed}", self._study.pairs
        task = CorrespondenceTask(buckets, pairs)
        trial = Trial(label, spec, lambda: model, task, buckets.device)
        fit_trials([trial], task, bool(pairs["val"]), FitSession(SHOW, label))
        if trial.failed:
            raise UserError(trial.failed)
        return self._judged(model, buckets)

    def _judged(self, model: CorrespondenceModel, buckets: Buckets) -> list[float]:
        return _values(judge(model.to(buckets.device), buckets, self._study.pairs["test"]))


def _values(found: PCK) -> list[float]:
    return [found.values[key] for key in KEYS]


def report(found: dict[str, Any]) -> str:
    """What was found, as Markdown: Scores, if any, and PCK; mean ± standard deviation."""
    lines = []
    if found["score"]:
        lines += ["| Score (Eq. 2), anchor: plain | |", "|---|---|"]
        lines += [f"| {name} | {_spread(values, '+.3f')} |"
                  for name, values in found["score"].items()]
        lines.append("")
    lines += ["| PCK@0.1 by point, head nn, test split | image | box |", "|---|---|---|"]
    for name, seeds in found["pck"].items():
        image, box = (_spread(values, ".1f") for values in zip(*seeds, strict=True))
        lines.append(f"| {name} | {image} | {box} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    deviation = f"{statistics.stdev(values):{form}}".lstrip("+")
    return f"{statistics.fmean(values):{form}} ± {deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path,
                        default=Path("manifests/gate-question.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", help="model.source instead of the manifest's")
    parser.add_argument("--style", choices=["dusk"], help="of toyworld's pictures")
    parser.add_argument("--only", nargs="+", metavar="TECHNIQUE",
                        help="single features of these alone, and no mixture with others")
    parser.add_argument("--stores", type=parse_place, default=Path("stores"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    loaded = asked(load(args.manifest), args.model, args.style, args.only)
    roots = Roots(args.data, args.models, args.stores, args.runs)
    extract(Workspace(loaded, roots, progress=SHOW))
    question = Question(loaded, roots, args.seeds)
    found = {"score": question.scores(), "pck": question.pck()}
    print(f"\n{report(found)}")
    args.runs.mkdir(parents=True, exist_ok=True)
    out = args.runs / f"{loaded.path.stem}-{Path(loaded.manifest.model.source).name}.json"
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\n{out}")


if __name__ == "__main__":
    try:
        main()
    except GateCacheError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
