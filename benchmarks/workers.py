"""Two dask workers with a thread each against one process with two threads, on two cores.

    python -m benchmarks.workers --images 512
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import Workers, extract
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.workspace.workspace import Workspace

WARM = 0.25
"""Share of the rows that are not timed: models are loaded meanwhile."""


class Clock(Silent):
    """Rows a second after the first quarter."""

    rate = 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        if label != "extracting":
            with super().task(label, total, unit) as other:
                yield other
            return
        yield self
        self.rate = self.timed / (time.perf_counter() - self.start)

    def __init__(self, total: int) -> None:
        self.left, self.timed, self.start = WARM * total, 0, 0.0

    def expect(self, total: int) -> None:
        """Nothing: how many there are is known."""

    def advance(self, n: int = 1) -> None:
        """Count rows."""
        if self.left > 0:
            self.left -= n
            self.start = time.perf_counter()
        else:
            self.timed += n


def manifest(images: int) -> Manifest:
    """Six combos of toyworld with tiny."""
    return Manifest.model_validate({
        "dataset": {"name": "toyworld", "train": images, "val": 0, "test": 0},
        "model": {"source": "tiny"},
        "conv": {f"c{i}": {"prompt": "a photo", "seed": i, "controlnet": {"source": "tiny"}}
                 for i in range(6)},
        "store": {"block": 16, "batch": 8}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    asked = manifest(args.images)
    rates = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, threads, spread in (("one process", args.workers, None),
                                      ("workers", 1, Workers(workers=args.workers))):
            clock = Clock(6 * args.images)
            roots = Roots(stores=Path(temp) / name)
            extract(Workspace(Loaded(path=Path("m.yaml"), manifest=asked), roots, "cpu", clock),
                    threads=threads, spread=spread)
            rates[name] = round(clock.rate, 1)
    print(json.dumps({"images": args.images, "workers": args.workers, "rows_per_s": rates,
                      "ratio": round(rates["workers"] / rates["one process"], 2)}))


if __name__ == "__main__":
    main()
