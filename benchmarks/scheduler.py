"""What dask's scheduling costs for each block, with a stub in place of the model.

    python -m benchmarks.scheduler --blocks 100000
"""

from __future__ import annotations

import argparse
import json
import time

from distributed.diagnostics.plugin import WorkerPlugin

from gate_cache.extraction import cluster
from gate_cache.store.format.done import Provenance


class Stub(WorkerPlugin):
    """Does a block at once."""

    def block(self, rows: range) -> cluster.Done:
        """Nothing, in place of `cluster.BlockWorker`."""
        return {"stub": (len(rows), Provenance("cpu", 16, False, {}))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    done = 0

    def count(_: range, found: cluster.Done) -> None:
        nonlocal done
        done += found["stub"][0]

    blocks = [range(i * 16, (i + 1) * 16) for i in range(args.blocks)]
    with cluster.local(args.workers) as client:
        cluster.run(client, Stub(), blocks[:100], count)
        start, done = time.perf_counter(), 0
        cluster.run(client, Stub(), blocks, count)
        seconds = time.perf_counter() - start
    assert done == 16 * args.blocks
    print(json.dumps({"blocks": args.blocks, "workers": args.workers, "seconds": round(seconds, 1),
                      "ms_per_block": round(1000 * seconds / args.blocks, 2)}))


if __name__ == "__main__":
    main()
