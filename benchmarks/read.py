"""Random reads of whole samples: our stream against np.memmap, zarr-python and the usual files.

    python -m benchmarks.read --images 60

Every way reads the same samples (all maps of three combos, Stable Diffusion 1.5's shapes, float16;
the usual way's files hold them resized to 64 × 64, as the released code saves them) in the same
random order. Ratios are of samples per second within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import zarr
from torch.utils.data import DataLoader, Dataset

from benchmarks.synthetic import COMBOS, SD15, write_store
from gate_cache.learn.features.stream import FeatureStream
from gate_cache.store.format.chunks import Check
from gate_cache.store.reader import FeatureStore

RING = 8
"""Buffers that np.memmap's copies go to in turn, as many as our stream has."""
Way = Callable[[list[int]], Iterable[object]]


class Files(Dataset[Any]):
    """A list of rows, each read by a function."""

    def __init__(self, rows: list[int], read: Callable[[int], Any]) -> None:
        self._rows, self._read = rows, read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._read(self._rows[index])


class Ways:
    """All ways to read, over files below one folder."""

    def __init__(self, home: Path, images: int) -> None:
        self.store, self._home, self._images = home / "store.zarr", home, images

    def write(self, loose: bool) -> None:
        """The store; with `loose` the peers' files too."""
        write_store(self.store, self._images)
        self._memmaps()
        if loose:
            self._loose()

    def _memmaps(self) -> None:
        store = FeatureStore.open(self.store)
        for combo in COMBOS:
            for name in SD15:
                whole = np.lib.format.open_memmap(
                    self._memmap(combo, name), "w+", np.float16, store[combo][name].shape)
                for row in range(self._images):
                    whole[row] = store[combo][name][row]
                whole.flush()

    def _loose(self) -> None:
        store = FeatureStore.open(self.store)
        for row in range(self._images):
            maps = {c: {n: torch.from_numpy(store[c][n][row]) for n in SD15} for c in COMBOS}
            torch.save(maps, self._home / f"{row}.pt")
            for combo, found in maps.items():
                levels = [F.interpolate(m[None].float(), (64, 64))[0] for m in found.values()]
                np.save(self._home / f"{row}-{combo}.npy", torch.cat(levels).half().numpy())

    def _memmap(self, combo: str, name: str) -> Path:
        return self._home / f"memmap-{combo}-{name}.npy"

    def memmap(self, rows: list[int]) -> Iterator[object]:
        """np.memmap, one file a map of a combo, copied into buffers that are used again."""
        maps = [np.load(self._memmap(c, n), mmap_mode="r") for c in COMBOS for n in SD15]
        ring = [[np.empty(m.shape[1:], m.dtype) for m in maps] for _ in range(RING)]
        for i, row in enumerate(rows):
            for whole, buffer in zip(maps, ring[i % RING], strict=True):
                np.copyto(buffer, whole[row])
            yield ring[i % RING]

    def stream(self, check: Check, threads: int, reuse: bool = True) -> Way:
        """Ours."""
        store = FeatureStore.open(self.store, check)

        def read(rows: list[int]) -> Iterator[object]:
            return iter(FeatureStream(store, COMBOS, rows, order="sequential", threads=threads,
                                      reuse=reuse))
        return read

    def zarr(self, rows: list[int]) -> Iterator[object]:
        """zarr-python over the same store."""
        group: Any = zarr.open_group(self.store, mode="r")
        names = {n.rsplit("-", 1)[0]: n for n in group}
        arrays = [group[f"{names[c]}/{n}"] for c in COMBOS for n in SD15]
        for row in rows:
            yield [array[row] for array in arrays]

    def pt(self, rows: list[int]) -> Iterable[object]:
        """A .pt file an image, in two DataLoader workers."""
        return _loader(rows, lambda row: torch.load(self._home / f"{row}.pt", weights_only=True))

    def npy(self, rows: list[int]) -> Iterable[object]:
        """The released code's file a combo and image, in two DataLoader workers."""
        def read(row: int) -> list[npt.NDArray[Any]]:
            return [np.load(self._home / f"{row}-{combo}.npy") for combo in COMBOS]
        return _loader(rows, read)


def _loader(rows: list[int], read: Callable[[int], Any]) -> Iterable[object]:
    return DataLoader(Files(rows, read), batch_size=None, num_workers=2)


def rate(way: Way, rows: list[int]) -> float:
    """Samples per second."""
    start = time.perf_counter()
    count = sum(1 for _ in way(rows))
    return count / (time.perf_counter() - start)


def forget(home: Path) -> None:
    """Drop all files below from the page cache."""
    os.sync()
    for path in home.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def first_sample(store: Path) -> float:
    """Seconds from opening a store to its first sample."""
    start = time.perf_counter()
    next(iter(FeatureStream(FeatureStore.open(store), COMBOS, order="random")))
    return time.perf_counter() - start


def measure(home: Path, images: int, rounds: int, loose: bool) -> dict[str, Any]:
    """All figures."""
    ways = Ways(home, images)
    ways.write(loose)
    compared: dict[str, Way] = {
        "ours, unchecked": ways.stream("never", 2), "ours, checked": ways.stream("always", 2),
        "ours, checked once": ways.stream("first", 2),
        "ours, unchecked, no thread": ways.stream("never", 0),
        "ours, unchecked, memory of its own": ways.stream("never", 2, reuse=False),
        "zarr-python": ways.zarr}
    if loose:
        compared |= {".pt, 2 workers": ways.pt, "np.load, 2 workers": ways.npy}
    size = len(COMBOS) * sum(2 * int(np.prod(s)) for s in SD15.values())
    warm: dict[str, list[float]] = {n: [] for n in compared}
    cold: dict[str, list[float]] = {n: [] for n in compared}
    base = []
    generator = np.random.default_rng(0)
    for way in (ways.memmap, *compared.values()):
        rate(way, list(range(images)))  # warm
    for _ in range(rounds):
        rows = generator.permutation(images).tolist()
        for name, way in compared.items():
            limit = rate(ways.memmap, rows)
            warm[name].append(rate(way, rows) / limit)
            base.append(limit * size / 1e9)
    for name, way in list(compared.items())[:6]:
        for _ in range(rounds):
            rows = generator.permutation(images).tolist()
            forget(home)
            limit = rate(ways.memmap, rows)
            forget(home)
            cold[name].append(rate(way, rows) / limit)
    return {
        "images": images, "sample_MB": size / 1e6, "memmap_warm_GB/s": statistics.median(base),
        "first_sample_s": first_sample(ways.store),
        "warm_share_of_memmap": {n: statistics.median(v) for n, v in warm.items()},
        "cold_share_of_memmap": {n: statistics.median(v) for n, v in cold.items() if v}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are written [a temporary one]")
    parser.add_argument("--no-loose", action="store_true", help="without .pt and .npy files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as home:
        found = measure(Path(home), given.images, given.rounds, not given.no_loose)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
