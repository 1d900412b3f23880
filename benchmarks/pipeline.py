"""Stage 1 around a model that takes no time: what is left is copying, testing, casting, writing.

    python -m benchmarks.pipeline --images 64

Maps have the shapes of Stable Diffusion 1.5 at 512 pixels. Beside it, in the same run: the plain
way in one thread (each batch leaves the device as float32, is tested, cast and put together in
numpy, written, and summed twice), and np.save with fsync of the same bytes from as many threads. On
a CPU, casting and testing count as processor time, which a GPU would take off it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.synthetic import BLOCK, SD15
from gate_cache.diffusion.passes.pieces import Piece
from gate_cache.extraction.engine import WRITERS, Engine
from gate_cache.extraction.work import Job, Work
from gate_cache.store.format.checksums import row_sums
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import LATENT_MAP, LATENTS, blocks_of
from gate_cache.store.format.samples import NewSample
from gate_cache.store.places import local
from gate_cache.store.writer import open_writer

BATCH = 8
LATENT = (4, 64, 64)
THREADS = WRITERS * local.LocalFolder.writes
WARM = 2
"""Blocks before the measured ones."""
Costs = tuple[float, float, float]
"""Seconds of processor time in the process itself and in the system, and on the clock."""
Way = Callable[[dict[str, GroupWriter], list[range]], None]
"""Fills some blocks of groups."""


class Stub:
    """An extractor whose maps are there already."""

    batch = coder_batch = BATCH
    model = SimpleNamespace(device=torch.device("cpu"), place=torch.as_tensor)

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.maps = {name: torch.randn(BATCH, *shape, generator=generator).to(dtype)
                     for name, shape in SD15.items()}

    def ahead(self, *_: object) -> None:
        """Nothing to prepare."""

    def encode(self, images: Any) -> torch.Tensor:
        return torch.zeros(len(images), *LATENT)

    def run(self, lane: tuple[str, list[int]], _inputs: object) -> Iterator[Piece]:
        name, rows = lane
        for start in range(0, len(rows), BATCH):
            yield Piece(name, rows[start : start + BATCH], self.maps)

    def close(self) -> None:
        """Nothing was put beside it."""


class Source:
    """Images that need not be read."""

    pixels = np.zeros((8, 8, 3), np.uint8)

    def passes(self, wanted: Any) -> list[Any]:
        return [Lane(plan.name, sorted(rows)) for plan, rows in wanted]

    def image(self, row: int) -> Any:
        return self.pixels


class Lane(tuple[str, list[int]]):
    """Rows of one combo, as the stub takes them."""

    items, tails, common = (), (), SimpleNamespace(uses=())

    def __new__(cls, *parts: Any) -> Lane:
        return super().__new__(cls, parts)


class Unheard:
    """Nobody listens."""

    def computed(self, rows: int) -> None: ...

    def unread(self, sample_id: str, why: str) -> None: ...

    def written(self, group: str, rows: int, made: Provenance) -> None: ...


def in_a_store(home: Path, images: int, combos: int, encoding: str,
               run: Way) -> Costs:
    """What it costs to fill a new store's groups, after blocks that bring memory into use."""
    with open_writer(home / "store.zarr", "synthetic", BLOCK, BATCH) as store:
        store.append([NewSample(f"{i}.png", f"{i:064x}", 512, 512) for i in range(images)])
        groups = {LATENTS: store.require(LATENTS, {"kind": "latents"}, {LATENT_MAP: LATENT},
                                         "float32", {})}
        for i in range(combos):
            groups[f"c{i}"] = store.require(f"c{i}", {"kind": "conv", "n": i}, SD15, encoding, {})
        for group in groups.values():
            group.fit()
        blocks = blocks_of(images, BLOCK)
        run(groups, blocks[:WARM])
        return timed(lambda: run(groups, blocks[WARM:]))


def timed(work: Callable[[], object]) -> Costs:
    os.sync()
    clock, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    return (after.user - before.user, after.system - before.system,
            time.perf_counter() - clock)


def ours(stub: Stub) -> Way:
    """The engine, as `extract` uses it."""
    model: Any = stub
    engine = Engine(model, 1)

    def run(groups: dict[str, GroupWriter], blocks: list[range]) -> None:
        jobs: list[Any] = [Job(SimpleNamespace(name=name), group, group.todo())  # type: ignore[arg-type]
                           for name, group in groups.items() if name != LATENTS]
        source: Any = Source()
        engine.run(Work(source, jobs, groups[LATENTS], [], ()), blocks, Unheard())
    return run


def writer_alone(stub: Stub) -> Way:
    """The blocks written by a group's writer from as many threads, with nothing before."""
    block = {name: values.repeat(BLOCK // BATCH, 1, 1, 1).float().numpy().astype(np.float16)
             for name, values in stub.maps.items()}

    def run(groups: dict[str, GroupWriter], blocks: list[range]) -> None:
        tasks = [(group, rows) for name, group in groups.items() if name != LATENTS
                 for rows in blocks]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda task: task[0].write(task[1], block), tasks))
    return run


def plain_way(stub: Stub) -> Way:
    """One thread behind the device, in numpy."""
    float32 = {name: values.float() for name, values in stub.maps.items()}

    def run(groups: dict[str, GroupWriter], blocks: list[range]) -> None:
        for rows in blocks:
            groups[LATENTS].write(rows, {LATENT_MAP: np.zeros((len(rows), *LATENT), np.float32)})
            for name, group in groups.items():
                if name == LATENTS:
                    continue
                draft = {n: np.full((len(rows), *p.shape), p.fill, p.dtype)
                         for n, p in group.parts.items()}
                for start in range(0, len(rows), BATCH):
                    places = list(range(start, min(start + BATCH, len(rows))))
                    for key, values in float32.items():
                        found = values.clone().numpy()  # in the place of a copy to pageable memory
                        if not np.isfinite(found).all():
                            raise ValueError(key)
                        for stored, array in group.encode(key, found).items():
                            draft[stored][places] = array[: len(places)]
                row_sums(draft)
                group.write_stored(rows, draft)
    return run


def np_save(home: Path, stub: Stub, images: int, combos: int) -> Costs:
    """A file a map and block, with fsync."""
    block = {name: values.half().repeat(BLOCK // BATCH, 1, 1, 1).numpy()
             for name, values in stub.maps.items()}

    def one(task: tuple[int, str]) -> None:
        with (home / f"{task[0]}-{task[1]}.npy").open("wb") as file:
            np.save(file, block[task[1]])
            file.flush()
            os.fsync(file.fileno())

    def run(blocks: range) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, [(i, name) for i in blocks for name in block]))

    run(range(combos * WARM))
    return timed(lambda: run(range(combos * WARM, combos * images // BLOCK)))


@contextmanager
def counted(syncs: Counter[str], name: str) -> Iterator[None]:
    """Count calls of fsync, warm blocks included."""
    real = os.fsync

    def sync(fd: int) -> None:
        syncs[name] += 1
        real(fd)

    with mock.patch.object(os, "fsync", sync):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="a multiple of 16, above 32")
    parser.add_argument("--combos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model-dtype", default="float16", help="of maps on the device")
    parser.add_argument("--store-dtype", default="float16")
    parser.add_argument("--folder", type=Path, help="where files are written [a temporary one]")
    given = parser.parse_args()
    torch.set_num_threads(1)
    stub, size = Stub(getattr(torch, given.model_dtype)), (given.images, given.combos)
    ways: dict[str, Callable[[Path], Costs]] = {
        "ours": lambda home: in_a_store(home, *size, given.store_dtype, ours(stub)),
        "our writer": lambda home: in_a_store(home, *size, given.store_dtype, writer_alone(stub)),
        "plain way": lambda home: in_a_store(home, *size, given.store_dtype, plain_way(stub)),
        "np.save + fsync": lambda home: np_save(home, stub, *size)}
    costs: dict[str, list[Costs]] = {name: [] for name in ways}
    syncs, names = Counter[str](), list(ways)
    for number in range(given.rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:  # each first in turn
            with tempfile.TemporaryDirectory(dir=given.folder) as home, counted(syncs, name):
                costs[name].append(ways[name](Path(home)))
    rows = (given.images - WARM * BLOCK) * given.combos
    least = {name: [min(column) for column in zip(*found, strict=True)]
             for name, found in costs.items()}
    print(json.dumps({
        "rows": rows, "threads": THREADS, "rounds": given.rounds,
        "processor ms a row (own, system)": {
            n: [round(1000 * c / rows, 1) for c in found[:2]] for n, found in least.items()},
        "rows/s": {n: round(rows / c[2], 1) for n, c in least.items()},
        "processor time of the plain way over ours (own, all)": [
            round(sum(least["plain way"][:n]) / sum(least["ours"][:n]), 2) for n in (1, 2)],
        "fsyncs a round": {n: count // given.rounds for n, count in syncs.items()},
        "rate over np.save + fsync": round(least["np.save + fsync"][2] / least["ours"][2], 2),
    }, indent=2))


if __name__ == "__main__":
    main()
