"""Extraction of SPair-71k's seven combos against the usual way; share of time on the device.

    python -m benchmarks.models MODELS          once: the architecture with random weights
    python -m benchmarks.extract MODELS --images 8 --size 256
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

import cv2
import numpy as np
import torch

from benchmarks.usual_way import UsualWay
from gate_cache.core.places import Place
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models import loading, modules
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.store.reader import FeatureStore
from gate_cache.toyworld import draw
from gate_cache.workspace.workspace import Workspace

CLASSES = ("aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dog, horse,"
           " motorbike, person, potted plant, sheep, train, tv monitor")
FINE = f"a photo of {CLASSES}, high quality, best quality, highly realistic"
PHOTO = {"prompt": "a photo"}
NET = {"source": "canny"}


def spair(size: int, steps: int, dtype: str) -> Manifest:
    """The paper's combos for SPair-71k (its section C.1), over a folder of images."""
    return Manifest.model_validate({
        "dataset": {"name": "folder", "root": "images"},
        "model": {"source": "sd15", "size": size, "dtype": dtype},
        "conv": {**{f"prompt-{i}": {"prompt": FINE, "seed": i} for i in range(2)},
                 **{f"lora-{n}": {**PHOTO, "lora": {"source": f"{n}.safetensors"}}
                    for n in "ab"},
                 **{f"control-{i}": {**PHOTO, "controlnet": NET, "seed": i}
                    for i in range(2)}},
        "attention": {"attn-0": {
            "prompt": f"a photo of {CLASSES}", "controlnet": NET,
            "lora": {"source": "a.safetensors"}, "denoise": {"from": 60, "steps": steps}}},
        "store": {"batch": 8, "block": 8}})


class Clock(Silent):
    """Measures the work, without loading."""

    seconds = 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        start = time.perf_counter()
        with super().task(label, total, unit) as task:
            yield task
        if label == "extracting":
            self.seconds = time.perf_counter() - start


class Forwards:
    """Seconds inside UNet and ControlNet forwards; start of the first one, end of the last."""

    def __init__(self) -> None:
        self.inside, self.first, self.last = 0.0, 0.0, 0.0

    def watch(self, module: Any) -> None:
        """Time a module's passes."""
        inner = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self.first = self.first or start
            try:
                return inner(*args, **kwargs)
            finally:
                self.last = time.perf_counter()
                self.inside += self.last - start
        module.forward = forward


@contextmanager
def watched() -> Iterator[Forwards]:
    """Time all passes of models that are loaded inside."""
    found, loaders = Forwards(), ((loading, "load"), (modules, "load_controlnet"))
    before = [getattr(module, name) for module, name in loaders]

    def watching(load: Any) -> Any:
        def loaded(*args: Any) -> Any:
            model = load(*args)
            found.watch(getattr(model, "unet", model))
            return model
        return loaded
    for (module, name), load in zip(loaders, before, strict=True):
        setattr(module, name, watching(load))
    try:
        yield found
    finally:
        for (module, name), load in zip(loaders, before, strict=True):
            setattr(module, name, load)


def images(folder: Path, count: int) -> dict[str, Path]:
    """Drawn pictures of 320 pixels as PNG files."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture = np.ascontiguousarray(draw("bench", i, 320).image[:, :, ::-1])
        cv2.imwrite(str(folder / f"{i:03d}.png"), picture)
    return {f.name: f for f in sorted(folder.iterdir())}


def size_of(folder: Place) -> int:
    assert isinstance(folder, Path)
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def largest_difference(store: FeatureStore, out: Path) -> float:
    """Over combos and maps that need no resizing: largest difference over the largest value."""
    worst = 0.0
    for view in store.views():
        name = view.maps[-1]
        for row, sample in enumerate(store.samples):
            usual = np.load(out / view.label / f"{Path(sample).stem}.npy").astype(np.float32)
            ours = view[name][row].astype(np.float32)
            worst = max(worst, float(np.abs(usual[-len(ours):] - ours).max() / np.abs(ours).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--dtype", default="float32",
                        help="bfloat16 is faster where the CPU has it (default: %(default)s)")
    parser.add_argument("--usual-batches", type=int, nargs="+", default=[8, 1],
                        help="images per pass of the usual way (default: as ours, and 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        home = Path(temp)
        roots = Roots(home / "data", args.models, home / "stores", home / "runs")
        files = images(roots.data / "images", args.images)
        manifest = spair(args.size, args.steps, args.dtype)
        clock = Clock()
        loaded = Loaded(path=home / "m.yaml", manifest=manifest)
        with watched() as forwards:
            store = extract(Workspace(loaded, roots, progress=clock)).store
        ours = clock.seconds
        usual = UsualWay(args.models, manifest)
        theirs = {}
        for batch in args.usual_batches:
            start, out = time.perf_counter(), home / f"usual-{batch}"
            for name, combo in manifest.combos.items():
                usual.run(name, combo, manifest.kind(name) == "attention", files, out, batch)
            theirs[batch] = time.perf_counter() - start
        out = home / f"usual-{args.usual_batches[0]}"
        print(json.dumps({
            "images": args.images, "size": args.size, "steps": args.steps, "dtype": args.dtype,
            "threads": torch.get_num_threads(), "ours_s": round(ours, 1),
            "usual_s by batch": {k: round(v, 1) for k, v in theirs.items()},
            "time_ratio by batch": {k: round(ours / v, 3) for k, v in theirs.items()},
            "bytes_ratio": round(size_of(store) / size_of(out), 3),
            "largest_difference": round(largest_difference(FeatureStore.open(store), out), 5),
            "share_in_forwards": round(forwards.inside / (forwards.last - forwards.first), 4),
        }, indent=2))


if __name__ == "__main__":
    main()
