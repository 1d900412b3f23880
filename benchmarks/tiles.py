"""What tiles change of an image's maps, and whether their seams are seen. With tiny, on toyworld.

    python -m benchmarks.tiles

Images of 128 pixels go through the model whole, and in tiles. ``change`` is the length of the
difference to the whole image's maps by their own length; ``seam`` is how much neighbouring cells
differ across the lines where a tile begins or ends, by how much they do elsewhere.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gate_cache.core.roots import Roots
from gate_cache.core.size import Size, Tiling
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.workspace.workspace import Workspace

SIZE = 128
TILES: dict[str, dict[str, int] | None] = {
    "whole": None, "64, overlap 0": {"size": 64, "overlap": 0},
    "64, overlap 32": {"size": 64, "overlap": 32}, "96, overlap 64": {"size": 96, "overlap": 64}}


def manifest(images: int, tiles: dict[str, int] | None) -> Manifest:
    return Manifest.model_validate({
        "dataset": {"name": "toyworld", "train": images, "val": 0, "test": 0, "image_size": SIZE},
        "model": {"source": "tiny", "size": SIZE, **({"tiles": tiles} if tiles else {})},
        "conv": {"plain": {"prompt": "a photo"}}})


def seam(values: np.ndarray[Any, Any], tiles: dict[str, int]) -> float:
    """Of (N, C, h, w) maps, along both sides."""
    size, stride = Size.of(SIZE), SIZE // values.shape[-1]
    areas = Tiling(size, Size.of(tiles["size"]), tiles["overlap"]).areas(stride)
    lines = {end for _, columns in areas for end in (columns.start, columns.stop)} - {
        0, values.shape[-1]}
    steps = sum(np.linalg.norm(np.diff(values.swapaxes(-1, axis), axis=-1), axis=1).mean((0, 1))
                for axis in (-1, -2))
    across = np.isin(np.arange(1, values.shape[-1]), list(lines))
    return float(steps[across].mean() / steps[~across].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    whole: dict[str, np.ndarray[Any, Any]] = {}
    for name, tiles in TILES.items():
        with tempfile.TemporaryDirectory() as temp:
            loaded = Loaded(path=Path("tiles.yaml"), manifest=manifest(args.images, tiles))
            work = Workspace(loaded, Roots(stores=Path(temp)), progress=console_progress())
            extract(work)
            view = work.store()["plain"]
            maps = {m: np.asarray(view[m][:], np.float32) for m in view.maps}
        whole = whole or maps
        line = [name]
        for m, values in maps.items():
            change = np.linalg.norm(values - whole[m]) / np.linalg.norm(whole[m])
            seams = [seam(v, tiles) for v in (values, whole[m])] if tiles else []
            line.append(f"{m}: change {change:.3f}"
                        + (", seam {:.2f} (whole {:.2f})".format(*seams) if seams else ""))
        print("; ".join(line), flush=True)


if __name__ == "__main__":
    main()
