"""Trained classifiers beside probes of the same features of photographs, with the embedded model.

    python -m benchmarks.probes CIFAR_ZIP --work WORK

CIFAR-10: `--each` training and 100 test pictures a class (a zip of ``<split>/<class>/<n>.jpg``);
a fifth of the former is val; three combos of tiny at t = 50. A sweep trains ``classifier`` as it
is and as release 0.1 had it, and solves ``linear`` and ``knn``; every row of its table is told,
with the paired difference to ``linear`` on the same combos. Then the strength of the penalty:
accuracy on val of each map by C · D. WORK keeps pictures, store and runs; the same command goes on.
"""

from __future__ import annotations

import argparse
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from gate_cache.analysis.probe import ProbeOptions, probe
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.metrics.dense import accuracy
from gate_cache.learn.metrics.intervals import gain
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.modules import probes
from gate_cache.manifest.load import load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.report.terminal.console import console_progress
from gate_cache.training.run_files import items_file
from gate_cache.training.sweep import sweep
from gate_cache.workspace.workspace import Workspace

TEST = 100
PLAIN = {"prompt": "a photo", "t": 50}
MANIFEST: dict[str, Any] = {
    "dataset": {"name": "folder", "root": "cifar-10-photos", "val": 0.2},
    "model": {"source": "tiny"},
    "conv": {"plain-0": PLAIN, "plain-1": {**PLAIN, "seed": 1},
             "control-0": {**PLAIN, "controlnet": {"source": "tiny", "scale": 0.5}}},
    "train": {"head": "classifier", "attention": False, "baseline": "plain-0"}}
OLD = {"head": {"name": "classifier", "pool": 1, "classifier_hidden": 0}, "lr": 5e-4,
       "schedule": "constant", "warmup": 0}
TRIALS = {"trials": [{"head": "linear"}, {"head": "knn"}, {"head": "classifier"}, OLD]}
STRENGTHS = (0.1, 1.0, 10.0, 30.0)


def unpack(archive: Path, folder: Path, each: int) -> None:
    """The first pictures of each class."""
    taken: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as file:
        for name in sorted(n for n in file.namelist() if n.endswith(".jpg")):
            group = name.rpartition("/")[0]
            if taken[group] < (TEST if name.startswith("test/") else each):
                taken[group] += 1
                (folder / group).mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(file.read(name))


def compare(work: Workspace, folder: Path) -> None:
    """Accuracy on test of every row, and how much `linear` is better on the same combos."""
    (folder / "probes.yaml").write_text(yaml.safe_dump(TRIALS), encoding="utf-8")
    found = sweep(work, load_sweep(folder / "probes.yaml", work.loaded), folder / "runs" / "probes")
    counts = {r.key: Items.load(items_file(found.folder, r.key)).units for r in found.rows}
    best = {r.method.role: r.key for r in found.rows if r.method.head == "linear"}
    for row in [r for r in found.rows if r.method.head]:  # not the floor
        ahead, between = gain([counts[best[row.method.role]]], [counts[row.key]],
                              accuracy)
        print(f"{row.test['accuracy']:5.1f}  linear {ahead:+.1f} ({between.low:.1f} to"
              f" {between.high:.1f})  {row.name}")


def strengths(work: Workspace) -> None:
    """Accuracy on val of each map of the plain feature by C · D and grid."""
    for pool in (1, 2, 4):
        rows: dict[str, list[float]] = {}
        for strength in STRENGTHS:
            probes.STRENGTH = strength
            (table,) = probe(work, ProbeOptions(pool=pool, images=10**6)).tables
            for row in table.rows:
                if row.combos == ("plain-0",):
                    rows.setdefault(" ".join(row.maps), []).append(row.value)
        for maps, values in rows.items():
            print(f"{pool} × {pool} {maps:20}", *(f"{v:5.1f}" for v in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/probes"))
    parser.add_argument("--each", type=int, default=375)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unpack(args.archive, args.work / "data" / "cifar-10-photos", args.each)
    path = args.work / "cifar.yaml"
    path.write_text(yaml.safe_dump(MANIFEST, sort_keys=False), encoding="utf-8")
    roots = Roots(*(args.work / name for name in ("data", "models", "stores", "runs")))
    work = Workspace(load(path), roots, "cpu", console_progress())
    extract(work)
    compare(work, args.work)
    strengths(work)


if __name__ == "__main__":
    main()
