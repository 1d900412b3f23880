"""Maps of Stable Diffusion 1.5's shapes at 512 pixels, made up: for what only bytes matter to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer

SD15 = {"up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64), "up3": (320, 64, 64)}
COMBOS = ("a", "b", "c")
BLOCK = 16
Block = dict[str, npt.NDArray[np.float16]]


def block(seed: int, rows: int = BLOCK) -> Block:
    """One block of one combo's maps, (rows, C, h, w) each."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((rows, *shape), np.float32).astype(np.float16)
            for name, shape in SD15.items()}


def blocks(images: int) -> Iterator[tuple[str, range, Block]]:
    """Combo, rows and maps of all blocks."""
    for number, combo in enumerate(COMBOS):
        for start in range(0, images, BLOCK):
            rows = range(start, min(start + BLOCK, images))
            yield combo, rows, block(1000 * number + start, len(rows))


def write_store(path: Path, images: int, encoding: str = "float16") -> None:
    """A store as `extract` leaves it."""
    new = [NewSample(f"{i:06d}.png", f"{i:064x}", 512, 512) for i in range(images)]
    with open_writer(path, "synthetic", BLOCK, 8) as store:
        store.append(new)
        groups = {name: store.require(name, {"kind": "conv", "combo": name, "size": 512}, SD15,
                                      encoding, {}) for name in COMBOS}
        for group in groups.values():
            group.fit()
        for combo, rows, maps in blocks(images):
            groups[combo].write(rows, maps)
