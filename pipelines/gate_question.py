"""Is GATE worth it? Content-shift Score of each technique, and PCK of features and mixtures.

    python -m pipelines.gate_question [MANIFEST] [--data …] [--models …]

Reads the manifest's combos by name: ``<technique>-<seed>``, with ``plain`` for none and
``reference`` at t = 0. Extracts what is missing, then prints one table (mean ± standard deviation
over seeds) and leaves it as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gate_cache.learn.fit import fit, judge
from gate_cache.learn.model import CorrespondenceModel, amalgamated, fixed
from gate_cache.learn.pairs import copy_position, evaluate
from gate_cache.learn.shift import score, shift
from gate_cache.manifest import Loaded, load
from gate_cache.report.console import console_progress
from gate_cache.roots import Roots
from gate_cache.stages.extract import extract
from gate_cache.stages.lookup import find_combo, known_recipes
from gate_cache.stages.study import Study, open_study
from gate_cache.store.reader import FeatureStore

KEYS = ((0.1, "image", "point"), (0.1, "box", "point"))
REFERENCE, PLAIN = "reference", "plain"
MAPS = ("up1", "up2", "up3")
SHOW = console_progress()


def techniques(loaded: Loaded) -> dict[str, list[str]]:
    """Technique to its combos, one a seed."""
    found = defaultdict(list)
    for name in loaded.manifest.conv:
        if name != REFERENCE:
            found[name.rpartition("-")[0]].append(name)
    return dict(found)


def scores(loaded: Loaded, roots: Roots, store: Path) -> dict[str, list[float]]:
    """Score (Eq. 2) of each technique, one value a seed: mean over images and maps.

    The anchor is the plain feature of the same seed, so 0 is "as plain" and 1 an exact match.
    """
    opened, (recipes, _) = FeatureStore.open(store), known_recipes(loaded, roots)

    def shifts(combo: str) -> dict[str, torch.Tensor]:
        views = (find_combo(opened, loaded.manifest, n, recipes.get(n)) for n in (REFERENCE, combo))
        reference, found = views
        return {m: shift(torch.from_numpy(reference[m][:]), torch.from_numpy(found[m][:]))
                for m in MAPS}

    grouped = techniques(loaded)
    anchors = [shifts(name) for name in grouped[PLAIN]]
    found = {}
    for technique, combos in grouped.items():
        if technique != PLAIN:
            found[technique] = [
                statistics.fmean(float(score(anchors[i][m], value).mean())
                                 for m, value in shifts(combo).items())
                for i, combo in enumerate(combos)]
    return found


def pck(loaded: Loaded, roots: Roots, seeds: int) -> dict[str, list[list[float]]]:
    """Row to one [PCK@0.1 image, PCK@0.1 box] a seed, on ``test``."""
    grouped = techniques(loaded)
    full = open_study(loaded, roots, None, SHOW)
    rows = {"copy the position": [_values(evaluate(full.pairs["test"], copy_position))]}
    for technique, combos in grouped.items():
        rows[f"{technique}, alone"] = [_single(loaded, roots, c) for c in combos[:seeds]]
    for name, study in _mixtures(loaded, roots, full, grouped[PLAIN]).items():
        count = len(study.combos)
        uniform = fixed(study.spec, study.full.channels, [1 / count] * count)
        rows[f"{name}, uniform"] = [_judged(study, uniform)]
        rows[f"{name}, assigners"] = [_trained(study, seed, name) for seed in range(seeds)]
    return rows


def _mixtures(loaded: Loaded, roots: Roots, full: Study, plain: list[str]) -> dict[str, Study]:
    """Sets of features that are mixed: plain ones, the manifest's, the manifest's + attention."""
    six = _with(loaded, combos=plain, attention=False)
    found = {f"{len(plain)} × plain": open_study(six, roots, None, SHOW)}
    if list(full.combos) != plain:
        name, bare = f"GATE's {len(full.combos)}", _with(loaded, attention=False)
        found |= {name: open_study(bare, roots, None, SHOW), f"{name} + attention": full}
    return found


def _only(loaded: Loaded, wanted: list[str]) -> Loaded:
    """The manifest with some techniques alone, and plain features mixed."""
    kept = {n: c for n, c in loaded.manifest.conv.items()
            if n.rpartition("-")[0] in {*wanted, PLAIN}}
    train = loaded.manifest.train.model_copy(
        update={"combos": [n for n in kept if n.startswith(f"{PLAIN}-")], "attention": False,
                "baseline": f"{PLAIN}-0"})
    manifest = loaded.manifest.model_copy(update={"conv": kept, "attention": {}, "train": train})
    return loaded.model_copy(update={"manifest": manifest})


def _with(loaded: Loaded, **changes: Any) -> Loaded:
    spec = loaded.manifest.train.model_copy(update=changes)
    manifest = loaded.manifest.model_copy(update={"train": spec})
    return loaded.model_copy(update={"manifest": manifest})


def _single(loaded: Loaded, roots: Roots, combo: str) -> list[float]:
    study = open_study(_with(loaded, combos=[combo], baseline=combo, attention=False), roots, None,
                       SHOW)
    return _judged(study, fixed(study.spec, study.full.channels, [1.0]))


def _trained(study: Study, seed: int, name: str) -> list[float]:
    spec = study.spec.model_copy(update={"seed": seed})
    torch.manual_seed(seed)
    model = amalgamated(spec, study.full.channels)
    fit(model, spec, study.full, study.pairs["train"], study.pairs["val"], SHOW,
        f"{name}, seed {seed}")
    return _judged(study, model)


def _judged(study: Study, model: CorrespondenceModel) -> list[float]:
    return _values(judge(model.to(study.full.device), study.full, study.pairs["test"]))


def _values(found: Any) -> list[float]:
    return [100 * found.values[key] for key in KEYS]


def _spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    if len(values) == 1:
        return form(values[0])
    return f"{form(statistics.fmean(values))} ± {form(statistics.stdev(values))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path,
                        default=Path("manifests/gate-question.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", help="model.source instead of the manifest's")
    parser.add_argument("--only", nargs="+", metavar="TECHNIQUE",
                        help="single features of these alone, and no mixture with others")
    parser.add_argument("--stores", type=Path, default=Path("stores"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    loaded, roots = load(args.manifest), Roots(args.data, args.models, args.stores, args.runs)
    if args.model:
        model = loaded.manifest.model.model_copy(update={"source": args.model})
        manifest = loaded.manifest.model_copy(update={"model": model})
        loaded = loaded.model_copy(update={"manifest": manifest})
    if args.only:
        loaded = _only(loaded, args.only)
    stored = extract(loaded, roots, progress=SHOW).store
    shifted = scores(loaded, roots, stored) if REFERENCE in loaded.manifest.conv else {}
    rows = pck(loaded, roots, args.seeds)
    print(f"\n{'Score (Eq. 2), anchor: plain':34}{'mean ± std over seeds':>22}")
    for name, values in shifted.items():
        print(f"{name:34}{_spread(values, '{:+.3f}'.format):>22}")
    print(f"\n{'PCK@0.1 by point, %, head nn, test':34}{'image':>16}{'box':>16}")
    for name, found in rows.items():
        image, box = (_spread(v, "{:.1f}".format) for v in zip(*found, strict=True))
        print(f"{name:34}{image:>16}{box:>16}")
    out = args.runs / f"{args.manifest.stem}-{Path(loaded.manifest.model.source).name}.json"
    out.write_text(json.dumps({"score": shifted, "pck": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"\n{out}")


if __name__ == "__main__":
    main()
