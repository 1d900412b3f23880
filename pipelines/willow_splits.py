"""GATE beside its single feature on PF-WILLOW, over many splits: every pair tested, in turn.

    gate-cache extract manifests/pf-willow-photos.yaml --data /path/to/data
    python -m pipelines.willow_splits --data /path/to/data [--splits 16] [--stores …] [--runs …]

One split's test has too few pairs to decide anything. Here head ``nn`` is trained on every split
anew, with a seed of its own; a pair counts with the mean of the splits that tested it, so that
what one training or one split does to it is in the mean. Prints PCK@0.1 (box, by point) of each
row over all pairs that were tested, and GATE's paired differences with their intervals: images
drawn, which errs towards wide ones, and pairs drawn; and in how many splits GATE is above.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.places import parse_place
from gate_cache.core.roots import Roots
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import share
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.run_files import METRICS, items_file
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace
from pipelines.command_line import guarded
from pipelines.recipe import MANIFESTS

MANIFEST = MANIFESTS / "pf-willow-photos.yaml"
SHARES = {"val": 0.2, "test": 0.4}
ROWS = {"floor": "copy the position", "baseline": "single feature: plain-0",
        "uniform": "all features, uniform weights", "gate": "GATE"}
"""Files of a run, and what their rows are called."""
Array = npt.NDArray[Any]


def split(seed: int) -> Manifest:
    """The manifest with one split, and a training's seed of the same number."""
    data: dict[str, Any] = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    data["dataset"] |= {**SHARES, "split_seed": seed}
    data["train"] |= {"seed": seed}
    return Manifest.model_validate(data)


def trained(manifest: Manifest, roots: Roots) -> Path:
    """The run of one split, made unless these settings have one."""
    settings = fingerprint(manifest.model_dump(mode="json"))
    folder = roots.runs / "willow-splits" / settings[:16]
    if not (folder / METRICS).exists():
        loaded = Loaded(path=MANIFEST, manifest=manifest)
        train(Workspace(loaded, roots, progress=console_progress()), folder)
    return folder


def over_splits(found: Sequence[Sequence[Items]]) -> tuple[Array, Array]:
    """(P, 2) images and (P, R, 2) right and all points of every tested pair and row, the mean of
    the splits that tested it; from the rows' results of each split.
    """
    pairs: dict[tuple[str, str], list[Array]] = defaultdict(list)
    for rows in found:
        for k, (source, target) in enumerate(rows[0].ids.tolist()):
            pairs[source, target].append(np.stack([row.units[k] for row in rows]))
    return np.array(list(pairs)), np.array([np.mean(units, 0) for units in pairs.values()])


def gain(sums: Array) -> Array:
    """(…,) how much higher the second row's share is, of sums (…, 2, 2)."""
    return np.asarray(share(sums[..., 1, :]) - share(sums[..., 0, :]))


def report(found: Sequence[Sequence[Items]]) -> str:
    """A table of all rows, and GATE's differences to the others."""
    ids, units = over_splits(found)
    lines = [f"{len(ids)} pairs in {len(found)} splits", "",
             "| | PCK@0.1 (box) | GATE above it (95 %, over images) | over pairs | splits |",
             "|---|---:|---:|---:|---:|"]
    gate = list(ROWS).index("gate")
    for k, title in enumerate(ROWS.values()):
        both, cells = units[:, [k, gate]], [""] * 3
        if k != gate:
            images, pairs = bootstrap(both, gain, ids=ids), bootstrap(both, gain)
            above = sum(gain(np.stack([s[k].units.sum(0), s[gate].units.sum(0)])) > 0
                        for s in found)
            cells = [f"{gain(both.sum(0)):+.1f} ({images.low:.1f} to {images.high:.1f})",
                     f"{pairs.low:.1f} to {pairs.high:.1f}", f"{above} of {len(found)}"]
        lines.append(f"| {title} | {share(units[:, k].sum(0)):.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """From the command line."""
    given = argparse.ArgumentParser(description=__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--data", type=Path, required=True, help="PF-dataset-WILLOW below it")
    given.add_argument("--splits", type=int, default=16)
    given.add_argument("--stores", type=parse_place, default=Path("stores"))
    given.add_argument("--runs", type=Path, default=Path("runs"))
    args = given.parse_args()
    roots = Roots(data=args.data, stores=args.stores, runs=args.runs)
    runs = [trained(split(seed), roots) for seed in range(args.splits)]
    print(report([[Items.load(items_file(run, name)) for name in ROWS] for run in runs]))


if __name__ == "__main__":
    sys.exit(guarded(main))
