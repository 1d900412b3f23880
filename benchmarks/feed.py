"""Training's own input against the bare stream and np.memmap, in images a second.

    python -m benchmarks.feed --images 24

Every way reads the same images (all maps of three combos, Stable Diffusion 1.5's shapes) in
the same random order. Training is `fit_trials` on pairs of images, with nothing held from step to
step and a trial that does nothing. What the training device does, decoding and resizing, is left
out of the ratios and told beside them: here that device is this processor. The server is moto's S3.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.read import Ways
from benchmarks.remote import serving, upload
from benchmarks.synthetic import COMBOS, SD15, write_store
from gate_cache import FeatureStore
from gate_cache.core.progress import Silent
from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.learn.features import layout, samples
from gate_cache.learn.features.bucket import Bucket, Buckets, BucketSpec
from gate_cache.learn.features.feed import Feed
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.features.stream import FeatureStream
from gate_cache.learn.fit import order
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.manifest.train_spec import TrainSpec

CPU = torch.device("cpu")
POINTS = Keypoints(np.ones((1, 2)), np.ones(1, bool), np.array([0.0, 0, 9, 9]), (512, 512))
BATCH, EPOCHS = 2, 4


class Idle:
    """A trial whose head is not there."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec, self.active, self.failed = spec, True, ""
        self.label, self.model = "", torch.nn.Identity()

    def step(self, *_: Any) -> None:
        """Nothing."""

    def look(self) -> None:
        """Nothing."""

    def note(self, *_: Any) -> str:
        """Nothing."""
        return ""

    def finish(self, *_: Any) -> None:
        """Nothing."""


def training(store: FeatureStore, rows: list[int], resized: bool = False) -> None:
    """The fit loop over pairs of these images, in this order in every epoch."""
    names = [store.samples[row] for row in rows]
    pairs = [PairPoints(Pair(a, b, ""), POINTS, POINTS)
             for a, b in zip(names[::2], names[1::2], strict=True)]
    room = 6 * layout.Layout(layout.views_of(store, COMBOS)).nbytes  # as the bare stream has
    with mock.patch.object(samples, "_AHEAD", (4, 4)):
        buckets = Buckets(store, BucketSpec(COMBOS), CPU,
                          {i: row for row, i in enumerate(store.samples.ids)}, room)
    epochs = 1 if resized else EPOCHS
    spec = TrainSpec(steps=epochs * len(pairs) // BATCH, batch=BATCH, validate_steps=10**6)
    trial: Any = Idle(spec)
    task = CorrespondenceTask(buckets, {"train": pairs, "val": []})
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(  # what is held comes never again in time
            order, "_drawn", lambda count, *_: torch.arange(count)))
        if not resized:
            buckets._feed = Feed(buckets._feed._reader, int,
                                 lambda *_: Bucket(torch.zeros(1), None), lambda _: 1, CPU, 0)
            stack.enter_context(mock.patch.object(layout, "decode", lambda _, parts: parts[""]))
        fit_trials([trial], task, False, FitSession(Silent()))


def bare(store: FeatureStore, rows: list[int]) -> None:
    """`FeatureStream` as fast as it is."""
    for _ in FeatureStream(store, COMBOS, rows * EPOCHS, order="sequential", reuse=True):
        pass


def timed(way: Callable[[list[int]], object], rows: list[int],
          epochs: int = EPOCHS) -> tuple[float, float]:
    """Images a second, and milliseconds of the processor an image."""
    wall, cpu = time.perf_counter(), time.process_time()
    way(rows)
    took, used = time.perf_counter() - wall, time.process_time() - cpu
    return len(rows) * epochs / took, 1e3 * used / len(rows) / epochs


def measure(home: Path, images: int, rounds: int) -> dict[str, Any]:
    """All figures: the best of some rounds, in which the ways take turns."""
    files = Ways(home, images)
    files.write(loose=False)
    write_store(home / "int8.zarr", images, "int8")
    half, small = FeatureStore.open(files.store), FeatureStore.open(home / "int8.zarr")
    with serving("s3", home) as server:
        os.environ |= {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "x",
                       "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
                       "AWS_ALLOW_HTTP": "true", "GATE_CACHE_CACHE": str(home / "cache")}
        bucket(server)
        upload(files.store, "s3://bench/store.zarr")
        far = FeatureStore.open("s3://bench/store.zarr")
        ways: dict[str, Callable[[list[int]], object]] = {
            "np.memmap": lambda rows: [0 for _ in files.memmap(rows * EPOCHS)],
            "bare stream": lambda rows: bare(half, rows),
            "training": lambda rows: training(half, rows),
            "training, int8": lambda rows: training(small, rows),
            "training, s3 with cache": lambda rows: training(far, rows),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):  # the first warms
            rows = np.random.default_rng(number).permutation(images).tolist()
            for name, way in ways.items():
                found[name] += [timed(way, rows)] if number else [timed(way, rows)][:0]
    rate = {name: max(r for r, _ in each) for name, each in found.items()}
    resized = {str(store.path.name): min(timed(lambda rows: training(store, rows, True),  # noqa: B023
                                               rows[:8], 1)[1] for _ in range(2))
               for store in (half, small)}
    cpu = {name: round(min(c for _, c in each), 1) for name, each in found.items()}
    train = rate["training"]
    return {"images": images, "MB": sum(2e-6 * np.prod(s) for s in SD15.values()) * len(COMBOS),
            "images/s": {n: round(r, 1) for n, r in rate.items()}, "cpu_ms": cpu,
            "cpu_ms with decoding and resizing": {n: round(v, 1) for n, v in resized.items()},
            "training/bare": round(train / rate["bare stream"], 2),
            "training/memmap": round(train / rate["np.memmap"], 2),
            "int8/float16": round(rate["training, int8"] / train, 2),
            "s3/local": round(rate["training, s3 with cache"] / train, 2)}


def bucket(server: str) -> None:
    """Make the bucket that the store goes to."""
    request = urllib.request.Request(f"{server}/bench", method="PUT")  # noqa: S310
    urllib.request.urlopen(request).close()  # noqa: S310


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(measure(Path(home), given.images, given.rounds), indent=2))


if __name__ == "__main__":
    main()
