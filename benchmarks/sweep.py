"""A sweep of 16 trials over one stream against 16 runs of their own.

    gate-cache extract manifests/toyworld.yaml
    python -m benchmarks.sweep --steps 25

Whole processes are measured, imports, baselines and judging included, in seconds of the processor
(one thread: another process beside them changes little). Of the separate runs a few are measured
and their mean counted 16 times; they are as in the paper, whatever ``--assigner-resolution`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

MANIFEST = "manifests/toyworld.yaml"
GRID = {"gamma1": [0.0, 0.05, 0.1, 0.2], "gamma2": [0.0, 0.05, 0.1, 0.2]}


def seconds(*command: str) -> float:
    """Of the processor, for one process of the command line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gate_cache.cli", *command], check=True,  # noqa: S603
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--runs", type=int, default=3, help="separate runs that are measured")
    parser.add_argument("--assigner-resolution", type=int, help="of the trials")
    parser.add_argument("--hidden", type=int, default=32, help="units of an assigner")
    parser.add_argument("--stores", default="stores")
    given = parser.parse_args()
    short = {"steps": given.steps, "validate_steps": given.steps, "hidden": given.hidden}
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "sweep.yaml")
        path.write_text(yaml.safe_dump({"grid": GRID, "train": {
            **short, "assigner_resolution": given.assigner_resolution}}))
        whole = seconds("sweep", MANIFEST, str(path), "--stores", given.stores, "--out",
                        f"{home}/sweep")
        manifest = Path(home, "toyworld.yaml")
        data = yaml.safe_load(Path(MANIFEST).read_text())
        data["train"] |= short
        manifest.write_text(yaml.safe_dump(data))
        alone = [seconds("train", str(manifest), "--stores", given.stores, "--gamma1",
                         str(GRID["gamma1"][i]), "--out", f"{home}/run-{i}")
                 for i in range(given.runs)]
    mean = statistics.fmean(alone)
    print(json.dumps({"sweep_s": round(whole, 1), "run_s": [round(s, 1) for s in alone],
                      "ratio": round(whole / (16 * mean), 2)}, indent=2))


if __name__ == "__main__":
    main()
