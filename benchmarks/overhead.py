"""What looking costs: `inspect`, `status` and an `extract` that has nothing to do, on a big store.

    python -m benchmarks.overhead

The store has 1,800 photographs (drawn, as JPEG files), seven combos of the embedded model and
blocks of 16, all marked done, and then as many combos of one recipe as make 400 arrays. There are
no shards in it: none of the three reads any. Seconds are those of the call, without imports.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from gate_cache.core.fingerprint import file_sha256
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.passes.recipes import latents_recipe
from gate_cache.extraction.extract import extract
from gate_cache.extraction.status import status
from gate_cache.store.check.inspect import inspect
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import LATENT_MAP, LATENTS, blocks_of
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer
from gate_cache.toyworld import draw
from gate_cache.workspace.workspace import Workspace

BLOCK, ARRAYS, COMBOS = 16, 400, 7


def make(home: Path, images: int) -> Workspace:
    """Photographs, a manifest, and the store that an extraction of it would leave."""
    photos = home / "data" / "images"
    photos.mkdir(parents=True)
    pictures = [cv2.resize(draw("horse", i).image, (480, 360)) for i in range(8)]
    noise = np.random.default_rng(0)
    for i in range(images):
        picture = cv2.add(pictures[i % 8], noise.integers(0, 9, (360, 480, 3), np.uint8))
        cv2.imwrite(str(photos / f"{i:05d}.jpg"), picture)
    (home / "big.yaml").write_text(yaml.safe_dump({
        "dataset": {"name": "folder", "root": "images"}, "model": {"source": "tiny"},
        "conv": {f"combo-{i}": {"prompt": "a photo", "seed": i} for i in range(COMBOS)},
        "store": {"block": BLOCK}}))
    roots = Roots(home / "data", home / "models", home / "stores", home / "runs")
    work = Workspace.open(home / "big.yaml", roots, "cpu")
    fill(work)
    return work


def fill(work: Workspace) -> None:
    """A store with every block marked done, and more groups beside the manifest's."""
    manifest, files = work.manifest, work.model()
    dataset = open_dataset(manifest.dataset, work.roots)
    ids = [s.id for s in dataset.samples()]
    new = [NewSample(i, file_sha256(work.roots.data / "images" / i), 360, 480) for i in ids]
    with open_writer(work.store_path, dataset.name, BLOCK, 8, 2) as store:
        store.append(new)
        how, model = files.preprocessing(manifest.model), manifest.model
        latents = {LATENT_MAP: files.family.latent_shape(how.size)}
        recipe = latents_recipe(files, how, model.compute)
        mark(store.require(LATENTS, recipe, latents, "float32", {}))
        plans = work.plans(files)
        for plan in plans:
            mark(store.require(plan.name, plan.recipe, plan.shapes, "float16", {"source": {}}))
        more = ARRAYS // (len(plans[0].shapes) + 1) - COMBOS
        for i in range(more):
            old = {**plans[0].recipe, "settings": {"prompt": f"another one, {i}"}}
            store.require(f"old-{i}", old, plans[0].shapes, "float16", {"source": {}})


def mark(group: GroupWriter) -> None:
    """Say that all blocks are done."""
    group.fit()
    for number, rows in enumerate(blocks_of(group.rows, group.block)):
        group.marks.write(number, len(rows) << 32 | 1)


def seconds(call: Callable[[], Any], rounds: int = 3) -> float:
    """The best of several."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return round(min(found), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1800)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        work = make(Path(home), given.images)
        path = work.store_path
        arrays = sum(1 for p in Path(str(path)).glob("*/*/zarr.json"))
        done = extract(work)
        assert not any(done.rows.values()), done.rows
        print(json.dumps({
            "images": given.images, "combos": COMBOS, "arrays": arrays,
            "inspect_s": seconds(lambda: inspect(path)),
            "status_s": seconds(lambda: status(work)),
            "extract_nothing_s": seconds(lambda: extract(work))}, indent=2))


if __name__ == "__main__":
    main()
