"""Writing finished blocks: our shards with checksums against np.save and zarr-python.

    python -m benchmarks.write --blocks 12

The same arrays are written by each way in turn, several rounds. ``fsync`` says whether the bytes
are on the disk when a way is done: ours always are, the others only where it is said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.synthetic import BLOCK, SD15, Block, block
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer


def ours(home: Path, maps: Block, count: int) -> float:
    """Shards, their checksums, marks; fsync."""
    rows = count * BLOCK
    new = [NewSample(f"{i}.png", f"{i:064x}", 512, 512) for i in range(rows)]
    with open_writer(home / "ours.zarr", "synthetic", BLOCK, 8) as store:
        store.append(new)
        group = store.require("a", {"kind": "conv"}, SD15, "float16", {})
        group.fit()
        start = time.perf_counter()
        for i in range(count):
            group.write_stored(range(i * BLOCK, (i + 1) * BLOCK), maps)
        return time.perf_counter() - start


def zarr_python(home: Path, maps: Block, count: int) -> float:
    """The same arrays, written by zarr-python; no fsync."""
    new = [NewSample(f"{i}.png", f"{i:064x}", 512, 512) for i in range(count * BLOCK)]
    with open_writer(home / "zarr.zarr", "synthetic", BLOCK, 8) as store:
        store.append(new)
        name = store.require("a", {"kind": "conv"}, SD15, "float16", {})
        name.fit()
    group: Any = zarr.open_group(home / "zarr.zarr", mode="r+")[name.name]
    arrays: dict[str, Any] = {n: group[n] for n in maps}
    start = time.perf_counter()
    with zarr.config.set({"array.write_empty_chunks": True}):
        for i in range(count):
            for n, values in maps.items():
                arrays[n][i * BLOCK : (i + 1) * BLOCK] = values
    return time.perf_counter() - start


def np_save(sync: bool) -> Callable[[Path, Block, int], float]:
    """A file a map and block."""
    def write(home: Path, maps: Block, count: int) -> float:
        start = time.perf_counter()
        for i in range(count):
            for name, values in maps.items():
                with (home / f"{i}-{name}.npy").open("wb") as file:
                    np.save(file, values)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())
        return time.perf_counter() - start
    return write


WAYS: dict[str, Callable[[Path, Block, int], float]] = {
    "ours (fsync)": ours, "np.save": np_save(False), "np.save + fsync": np_save(True),
    "zarr-python": zarr_python}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=12, help="of 16 images, 178 MB each")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where files are written [a temporary one]")
    given = parser.parse_args()
    maps = block(0)
    size = given.blocks * sum(m.nbytes for m in maps.values())
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    ways = list(WAYS.items())
    for i in range(given.rounds):
        for name, way in ways[i % len(ways):] + ways[: i % len(ways)]:  # each comes first once
            with tempfile.TemporaryDirectory(dir=given.folder) as home:
                os.sync()
                seconds[name].append(way(Path(home), maps, given.blocks))
                shutil.rmtree(home, ignore_errors=True)
                Path(home).mkdir()
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    mine = middle["ours (fsync)"]
    print(json.dumps({
        "MB": size / 1e6, "MB/s": {n: round(size / 1e6 / s) for n, s in middle.items()},
        "ours_as_share_of": {n: round(s / mine, 2) for n, s in middle.items()}}, indent=2))


if __name__ == "__main__":
    main()
