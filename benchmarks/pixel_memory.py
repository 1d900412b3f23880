"""Peak memory of head ``pixel-mlp`` at Horse-21's real size.

    python -m benchmarks.pixel_memory [--combos 4] [--steps 20] [--judged 1] [--reservoir-mb 1024]

21 classes, 256×256 masks, 30 training images, made-up maps of Stable Diffusion 1.5 at 512 pixels
(3520 channels, 11 MB a combo and image in float16) and a DDPM-like extra combo. Fills the
reservoir, trains all ten MLPs for some steps, judges images pixel by pixel, prints peak RSS.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.synthetic import SD15, block
from gate_cache.core.progress import Silent
from gate_cache.datasets.common.base import Sample, Split
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.features.reservoir import pixel_bytes
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.store.format.samples import NewSample
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import open_writer
from gate_cache.training.inputs import FEW_BYTES

IMAGES, CLASSES, SIDE, BLOCK = 30, 21, 256, 8
EXTRA = {"up0": (512, 32, 32), "up1": (512, 64, 64), "up2": (256, 128, 128)}
ATTENTION = {"attn2": (77, 32, 32), "attn3": (77, 64, 64)}
IDS = [f"{i:04d}.png" for i in range(IMAGES)]


class Horses:
    """Images that are only masks."""

    name, protocol = "horse-21", "synthetic"
    classes = tuple(f"part {i}" for i in range(CLASSES))

    def samples(self) -> Sequence[Sample]:
        return [Sample(i) for i in IDS]

    def sha256(self, sample_id: str) -> str:
        return "00" * 32

    def size(self, sample_id: str) -> tuple[int, int]:
        return (SIDE, SIDE)

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    def mask(self, sample_id: str) -> npt.NDArray[np.uint8]:
        blocks = np.random.default_rng(IDS.index(sample_id)).integers(0, CLASSES, (16, 16))
        return np.kron(blocks, np.ones((SIDE // 16, SIDE // 16))).astype(np.uint8)

    def split_of(self, sample_id: str) -> Split:
        return "train"


def write(path: Path, combos: int) -> None:
    """The store, a block at a time."""
    named = {**{f"c{i}": SD15 for i in range(combos)}, "attn": ATTENTION, "ddpm": EXTRA}
    with open_writer(path, "horse-21", BLOCK, 8) as store:
        store.append([NewSample(i, "00" * 32, SIDE, SIDE) for i in IDS])
        for name, shapes in named.items():
            group = store.require(name, {"kind": "conv", "combo": name, "size": 512}, shapes,
                                  "float16", {})
            group.fit()
            for start in range(0, IMAGES, BLOCK):
                rows = range(start, min(start + BLOCK, IMAGES))
                group.write(rows, block(start, len(rows)) if shapes is SD15 else
                            {m: np.random.default_rng(start).random((len(rows), *s), np.float32)
                             .astype(np.float16) for m, s in shapes.items()})


def measure(path: Path, options: argparse.Namespace) -> None:
    """Fill, train, judge; say time and peak memory after each."""
    store = FeatureStore.open(path)
    groups = {v.label: v.name for v in store.views()}
    spec = NativeSpec(tuple(groups[f"c{i}"] for i in range(options.combos)), groups["attn"],
                      None, (groups["ddpm"],))
    maps = NativeMaps(store, spec, torch.device("cpu"),
                      {i: row for row, i in enumerate(IDS)}, Horses().size, FEW_BYTES)
    ids: dict[Split, list[str]] = {"train": IDS, "val": [], "test": IDS[:options.judged]}
    task = PixelTask(maps, Horses(), ids, options.reservoir_mb * 2**20)
    say("opened", time.monotonic())
    began = time.monotonic()
    held = task.reservoir
    say(f"reservoir: {len(held)} pixels of {pixel_bytes(maps)} bytes,"
        f" {held.nbytes / 2**30:.2f} GiB", began)
    members = 10
    train = TrainSpec.model_validate({"head": {"name": "pixel-mlp", "members": members},
                                      "steps": options.steps})
    trial = Trial("gate", train, partial(task.model, train, range(options.combos), None, True),
                  task, maps.device)
    began = time.monotonic()
    fit_trials([trial], task, False, FitSession(Silent()))
    say(f"{options.steps} steps of 64 pixels, {members} members", began)
    began = time.monotonic()
    task.judge([trial.model], "test")
    say(f"{options.judged} images judged", began)


def say(what: str, began: float) -> None:
    """One line with the peak so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.monotonic() - began:.1f} s, peak RSS {peak:.2f} GiB", flush=True)


def main() -> None:
    """Write in a process of its own, so that only reading counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--combos", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--judged", type=int, default=1)
    parser.add_argument("--reservoir-mb", type=int, default=1024)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "horse.zarr"
        from multiprocessing import get_context

        writer = get_context("spawn").Process(target=write, args=(path, options.combos))
        writer.start()
        writer.join()
        measure(path, options)


if __name__ == "__main__":
    main()
