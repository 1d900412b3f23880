"""Judging an image with pixel MLPs: linear layers at the maps' cells, against at every pixel.

    python -m benchmarks.pixel_judging [--repeat 3]

The usual way, as published code has it, brings all features to the image's size and applies the
networks to each pixel. Both ways are timed on the same model and maps, in processor time; the usual
one on as many tiles as take a second or more, and scaled up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from benchmarks.synthetic import SD15
from gate_cache.core.geometry import Frame, Placement
from gate_cache.learn.features.native import Native, NativeMaps
from gate_cache.learn.features.pixel_grid import centres, read_at, tiles
from gate_cache.learn.mixing.vectors import VectorAmalgamator, VectorModel, Vectors
from gate_cache.learn.modules.pixel_mlp import PixelMLPs
from gate_cache.learn.tasks.whole_image import WholeImage

TINY = {"up0": (128, 4, 4), "up1": (96, 8, 8), "up2": (64, 16, 16), "up3": (32, 16, 16)}
CASES = {  # maps, combos, members, classes, side of the image
    "SD 1.5, Horse-21's size": (SD15, 4, 10, 21, 256),
    "tiny, toyworld's size": (TINY, 6, 10, 9, 64),
}
TILE_BYTES = 2**23


class Maps:
    """One image's maps, made up."""

    device = torch.device("cpu")

    def __init__(self, shapes: dict[str, tuple[int, int, int]], combos: int, side: int) -> None:
        self.native = Native(tuple(torch.randn(combos, *s) for s in shapes.values()), (), ())
        self._place = Frame(side, "squash").place(side, side)

    def __call__(self, sample_id: str) -> Native:
        return self.native

    def place(self, sample_id: str) -> Placement:
        return self._place

    def extra_places(self, sample_id: str) -> list[Placement]:
        return []


def usual(maps: Maps, model: VectorModel, side: int) -> Iterator[int]:
    """Tiles of pixels with all their features; yields how many pixels are done."""
    features = 4 * sum(level.shape[0] * level.shape[1] for level in maps.native.levels)
    done = 0
    for part in tiles(side * side, max(64, TILE_BYTES // features)):
        points = centres((side, side), part)
        conv = torch.cat([read_at(level, maps.place(""), points)
                          for level in maps.native.levels], -1)
        model(Vectors(conv, None, None))
        done += len(points)
        yield done


def ours(maps: Maps, model: VectorModel, side: int) -> Iterator[int]:
    """The whole image."""
    image = WholeImage(cast(NativeMaps, maps), "", (side, side))
    yield sum(output.values.shape[1] for output in image.outputs(model, slice(0, side * side)))


def seconds(way: Callable[..., Iterator[int]], maps: Maps, model: VectorModel,
            side: int) -> float:
    """Processor seconds of an image."""
    began = time.process_time()
    for done in way(maps, model, side):
        if (took := time.process_time() - began) > 1 or done == side * side:
            return took * side * side / done
    raise AssertionError("no pixels")


@torch.inference_mode()
def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    torch.manual_seed(0)
    for name, (shapes, combos, members, classes, side) in CASES.items():
        maps = Maps(shapes, combos, side)
        channels = sum(s[0] for s in shapes.values())
        model = VectorModel(VectorAmalgamator(channels, 2, members=members),
                            PixelMLPs(2 * channels, 0, classes, members), range(combos), None)
        model.eval()
        found: dict[Any, float] = {way: min(seconds(way, maps, model, side)
                                            for _ in range(repeat)) for way in (usual, ours)}
        print(f"{name}: usual {found[usual]:.2f} s, ours {found[ours]:.2f} s:"
              f" {found[usual] / found[ours]:.1f} times faster", flush=True)


if __name__ == "__main__":
    main()
