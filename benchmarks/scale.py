"""What every command costs on stores of a thousand to a million images: seconds, memory, exponent.

    python -m benchmarks.scale --folder /somewhere/with/15/GB

The data set is a tree of tiny JPEG files in folders of 500, the store that of two combos of the
embedded model, one pooled map each, in blocks of 64. Each command runs in a process of its own; the
seconds are those of the processor in the call, without imports; the memory is the process's peak,
in brackets, with what imports take of it behind the line. The exponent is the slope of seconds over
images between the two largest sizes, on logarithmic axes, less what the smallest takes: 1 is in
proportion.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.passes.recipes import latents_recipe
from gate_cache.extraction.diff import diff
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.prune import prune
from gate_cache.extraction.status import status
from gate_cache.extraction.validate import validate
from gate_cache.store.check.inspect import inspect
from gate_cache.store.check.removal import remove_group
from gate_cache.store.check.verify import verify
from gate_cache.store.format.layout import LATENT_MAP, LATENTS
from gate_cache.store.format.samples import NewSample
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.image_digests import ImageDigests
from gate_cache.workspace.workspace import Workspace

SIZES = 1_000, 10_000, 100_000, 1_000_000
BLOCK, PER_FOLDER = 64, 500


def make_images(root: Path, count: int) -> None:
    """Tiny JPEGs of distinct content: what follows a picture's end is not read."""
    noise, bodies = np.random.default_rng(0), []
    for _ in range(200):
        body = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (32, 32, 3), np.uint8)).save(body, "JPEG")
        bodies.append(body.getvalue())
    for i in range(count):
        folder = root / f"c{i // PER_FOLDER:05d}"
        if i % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{i:07d}.jpg").write_bytes(bodies[i % 200] + b"%d" % i)


def make(home: Path, images: int) -> Workspace:
    """Images, a manifest, and the store that an extraction of it would leave."""
    os.fsync = lambda fd: None  # it takes hours, and nothing here is to outlast a crash
    make_images(home / "data" / "images", images)
    (home / "scale.yaml").write_text(yaml.safe_dump({
        "dataset": {"name": "folder", "root": "images", "val": 0.1, "test": 0.1},
        "model": {"source": "tiny"},
        "conv": {name: {"prompt": f"a photo of a {name}", "maps": {"up0": {"grid": 1}}}
                 for name in ("horse", "bird")},
        "store": {"block": BLOCK, "path": "s.zarr"},
        "train": {"head": "classifier", "combos": ["horse"]}}))
    work = opened(home)
    manifest, files = work.manifest, work.model()
    dataset = open_dataset(manifest.dataset, work.roots)
    ids = [s.id for s in dataset.samples()]
    digests = ImageDigests(dataset, ids)
    with open_writer(work.store_path, dataset.name, BLOCK, 8, 1) as store:
        store.append([NewSample(name, digests.read(at), 32, 32) for at, name in enumerate(ids)])
        digests.keep()
        how, model = files.preprocessing(manifest.model), manifest.model
        recipe = latents_recipe(files, how, model.compute)
        fill(store, LATENTS, recipe, {LATENT_MAP: files.family.latent_shape(how.size)}, "float32")
        for combo in work.plans(files):
            fill(store, combo.name, combo.recipe, combo.shapes, "float16")
    return work


def opened(home: Path) -> Workspace:
    roots = Roots(home / "data", home / "models", home / "stores", home / "runs")
    return Workspace.open(home / "scale.yaml", roots, "cpu")


def fill(store: StoreWriter, name: str, recipe: Any, shapes: Any, encoding: str) -> None:
    """A group whose blocks are all written, with noise."""
    group = store.require(name, recipe, shapes, encoding, {"source": {}})
    group.fit()
    noise = {n: np.random.default_rng(0).standard_normal((group.block, *group.shape(n)), np.float32)
             for n in group.maps}
    for rows in group.todo():
        group.write(rows, {n: values[: len(rows)] for n, values in noise.items()})


def one_more(home: Path, below: str = "z") -> Any:
    """`extract` of one new image, behind all others or in the folder of some."""
    number = time.time_ns()
    folder = home / "data" / "images" / below
    folder.mkdir(exist_ok=True)
    body = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), number % 255, np.uint8)).save(body, "JPEG")
    (folder / f"{number}.jpg").write_bytes(body.getvalue() + b"%d" % number)
    return extract(opened(home))


def half_gone(home: Path) -> Any:
    """What a store does about images of which half are not there any more."""
    with open_writer(home / "stores" / "s.zarr", "folder", BLOCK, 8, 1) as store:
        gone = frozenset(range(0, len(store.samples), 2))
        group = store.require("gone", {"kind": "conv", "size": 64}, {"up0": (8, 1, 1)},
                              "float16", {"source": {}})
        group.fit()
        todo = group.todo(gone)
        group.note_absent(todo, gone)
        for rows in todo[:100]:
            assert rows in todo
            group.write(rows, {"up0": np.zeros((len(rows), 8, 1, 1))},
                        [row for row in rows if row in gone])
    remove_group(store.folder, group.name)


def read(home: Path) -> None:
    """Rows here and there, of a store that was just opened."""
    store = FeatureStore.open(home / "stores" / "s.zarr")
    for row in np.random.default_rng(0).integers(len(store.samples), size=500).tolist():
        store["horse"]["up0"][row]


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "validate": lambda home: validate(opened(home)),
    "plan": lambda home: plan(opened(home)),
    "status": lambda home: status(opened(home)),
    "inspect": lambda home: inspect(home / "stores" / "s.zarr"),
    "extract, nothing to do": lambda home: extract(opened(home)),
    "extract, one new image": one_more,
    "prune": lambda home: prune([home / "scale.yaml"], opened(home).roots),
    "diff": lambda home: diff(home / "stores" / "s.zarr", home / "stores" / "s.zarr",
                              opened(home).roots),
    "verify": lambda home: verify(home / "stores" / "s.zarr"),
    "read 500 rows": read,
    "half of the images gone": half_gone,
    "extract, one image between others": lambda home: one_more(home, "c00000"),
    "extract, nothing to do then": lambda home: extract(opened(home)),
}


def child(home: Path, command: str) -> None:
    """One command; its seconds, and the process's memory."""
    if command.startswith("extract, one"):
        import diffusers  # noqa: F401
        import transformers  # noqa: F401

        from gate_cache.diffusion.passes import extractor  # noqa: F401
        from gate_cache.toyworld import draw  # noqa: F401
    before = peak_mb()
    start = time.process_time()
    COMMANDS[command](home)
    seconds = time.process_time() - start
    print(json.dumps({"seconds": seconds, "imports_mb": before, "mb": peak_mb()}))


def peak_mb() -> float:
    """Of this process alone: what getrusage tells begins with that of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def measured(home: Path, command: str, rounds: int) -> dict[str, float]:
    """The best of some runs."""
    found = []
    for _ in range(rounds):
        run = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "benchmarks.scale", "--folder", str(home), "--child", command],
            check=False, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"{command}: {run.stderr[-2000:]}")
        found.append(json.loads(run.stdout.splitlines()[-1]))
    return min(found, key=lambda f: f["seconds"])


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope between the two largest sizes, on logarithmic axes, what any size costs left out.
    """
    fixed = min(seconds[0], *seconds)
    grown = [max(s - fixed, 1e-3) for s in seconds[-2:]]
    return float(np.log(grown[1] / grown[0]) / np.log(sizes[-1] / sizes[-2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        return child(given.folder, given.child)
    found: dict[str, list[dict[str, float]]] = {command: [] for command in given.only}
    for size in given.sizes:
        home = given.folder / str(size)
        if not (home / "scale.yaml").exists():
            print(f"{size}: making images and store", file=sys.stderr, flush=True)
            make(home, size)
        for command in given.only:
            found[command].append(measured(home, command, given.rounds))
            print(size, command, found[command][-1], file=sys.stderr, flush=True)
    print("| s (peak MB) |", *(f"{size:,} |" for size in given.sizes), "exponent |")
    print("|---|", "---|" * (len(given.sizes) + 1))
    for command, runs in found.items():
        cells = [f"{r['seconds']:.2f} ({r['mb']:.0f}) |" for r in runs]
        cells[-1] = cells[-1].replace(")", f", {runs[-1]['imports_mb']:.0f} of imports)")
        power = exponent(given.sizes, [r["seconds"] for r in runs]) if len(runs) > 2 else 0
        print(f"| `{command}` |", *cells, f"{power:.2f} |")


if __name__ == "__main__":
    main()
