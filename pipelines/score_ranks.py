"""Does Score (Eq. 2) rank techniques as PCK@0.1 does, on toyworld with tiny?

    python -m pipelines.score_ranks [--style dusk] [--test 256] [--stores …]

Every technique once, at the same t and with the same noise, so that nothing else differs. Prints
both figures of each technique, and Spearman's rank correlation between them for each reading of
what the paper leaves open: reference, anchor and level. Intervals draw test images, for both
figures at once.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from scipy.stats import spearmanr

from gate_cache.core.places import parse_place
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.pck import BROAD, SELECT, named
from gate_cache.learn.metrics.shift import score, shift
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.features import rows_of, views_of
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.workspace.workspace import Workspace
from pipelines.command_line import guarded
from pipelines.recipe import MANIFESTS, TOY

NAMES = ("plain-0", "prompt-0", "high-0", "low-0", "lora-0", "overfit-0", "control-0", "both-0",
         "all-0")
"""Combos of the manifest, with the same seed and t."""
STRONG = 1.0
"""A further ControlNet's scale, the paper's; the manifest's is half of it."""
LATE = "late"
LEVELS = ("up0", "up1", "up2", "up3")
Array = npt.NDArray[Any]


def techniques(style: str | None, test: int) -> Loaded:
    """The manifest with every technique, each at t = 0 too, and an anchor at t = 500."""
    data: dict[str, Any] = yaml.safe_load((MANIFESTS / TOY).read_text(encoding="utf-8"))
    data["dataset"] |= {"train": 16, "val": 0, "test": test, "style": style}
    conv = {name: data["conv"][name] for name in NAMES}
    control = {**conv["control-0"]["controlnet"], "scale": STRONG}
    conv["control-1.0"] = {**conv["control-0"], "controlnet": control}
    at_0 = {_at_0(name): {**combo, "t": 0} for name, combo in conv.items()}
    data |= {"conv": {**conv, **at_0, LATE: {**conv["plain-0"], "t": 500}}, "attention": {},
             "store": {"path": f"toyworld-techniques{f'-{style}' if style else ''}.zarr",
                       "block": 64}}
    data["train"] |= {"combos": list(conv), "baseline": "plain-0"}
    return Loaded(path=MANIFESTS / TOY, manifest=Manifest.model_validate(data))


def judged(study: TrainingInputs, names: Sequence[str]) -> tuple[Array, Array, Array]:
    """(P, T, 2) right points and all of each pair and technique, (P, 2) images, (T,) PCK img."""
    results = study.task.judge([study.single(study.spec, name) for name in names], "test")
    items = [r.items for r in results if r.items]
    return (np.stack([i.units for i in items], 1), items[0].ids,
            np.array([r.values[named(*BROAD)] for r in results]))


def shifts(work: Workspace, study: TrainingInputs, names: Iterable[str],
           ids: Sequence[str]) -> dict[tuple[str, str, str], Array]:
    """(N,) Scores of images by reading (reference, anchor, level) and technique, as
    ``[reference/anchor, level, technique]``.
    """
    every = list(names)
    views = views_of(work, study.store, [*every, *(_at_0(n) for n in every), LATE])
    rows = rows_of(study.store, work.dataset(), list(views.values()))
    found = {}
    for level in LEVELS:
        maps = {name: torch.from_numpy(np.stack([view[level][rows[i]] for i in ids]))
                for name, view in views.items()}
        plain = {"plain at t = 0": lambda _: _at_0("plain-0"), "its own at t = 0": _at_0}
        for (kind, reference), anchor in product(plain.items(), (LATE, "plain-0")):
            for name in every:
                base = shift(maps[reference("plain-0")], maps[anchor])
                diff = shift(maps[reference(name)], maps[name])
                found[f"{kind}, anchor {anchor}", level, name] = score(base, diff).numpy()
    return found


def _at_0(name: str) -> str:
    return f"{name}-at-0"


def correlation(total: Array) -> float:
    """Spearman's, from (T, 3) right points, points and Scores summed over the pairs drawn; NaN
    without any.
    """
    if not total[:, 1].all():
        return math.nan
    return float(spearmanr(total[:, 0] / total[:, 1], total[:, 2]).statistic)


def ranks(units: Array, ids: Array, scores: Array) -> str:
    """``0.62 (0.31 to 0.80)``.

    Parameters
    ----------
    units : (P, T, 2) right points and all
    ids : (P, 2) images
    scores : (N, T) Scores of images, in the order of the sorted ids
    """
    where = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    each = np.concatenate([units, scores[where].mean(1)[..., None]], -1)
    interval = bootstrap(each, lambda totals: np.array([correlation(t) for t in totals]),
                         ids=ids)
    return f"{correlation(each.sum(0)):+.2f} ({interval.low:.2f} to {interval.high:.2f})"


def report(work: Workspace) -> str:
    """Both tables as Markdown."""
    study = open_any(work)
    assert isinstance(study, TrainingInputs)
    names = list(study.mixed)
    units, ids, broad = judged(study, names)
    found = shifts(work, study, names, np.unique(ids).tolist())
    readings = list(dict.fromkeys(reading for reading, _, _ in found))
    of = {(r, level): np.stack([found[r, level, n] for n in names], 1)
          for r, level in product(readings, LEVELS)}
    of |= {(r, "all"): np.mean([of[r, level] for level in LEVELS], 0) for r in readings}
    box = 100 * units.sum(0)[:, 0] / units.sum(0)[:, 1]
    lines = [f"| technique | PCK img | PCK {SELECT[1]} | {' | '.join(readings)} |",
             "|---|" + "---:|" * (2 + len(readings))]
    lines += [f"| {n} | {broad[i]:.1f} | {box[i]:.1f} | "
              + " | ".join(f"{of[r, 'all'][:, i].mean():.2f}" for r in readings) + " |"
              for i, n in sorted(enumerate(names), key=lambda pair: float(box[pair[0]]))]
    levels = ("all", *LEVELS)
    lines += ["", f"| rank correlation (95 %) | {' | '.join(levels)} |", "|---|" + "---:|" * 5]
    lines += [f"| {r} | {' | '.join(ranks(units, ids, of[r, k]) for k in levels)} |"
              for r in readings]
    return "\n".join(lines)


def main() -> None:
    """From the command line."""
    given = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--style", choices=["dusk", "flawed", "covered"], help="of the pictures")
    given.add_argument("--test", type=int, default=256, help="test pictures")
    given.add_argument("--stores", type=parse_place, default=Path("stores"))
    args = given.parse_args()
    work = Workspace(techniques(args.style, args.test), Roots(stores=args.stores),
                     progress=console_progress())
    extract(work)
    print(report(work))


if __name__ == "__main__":
    sys.exit(guarded(main))
