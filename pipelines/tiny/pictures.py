"""What tiny is trained on: toyworld's training split, and CIFAR-10's, as arrays of 64 pixels.

Both are drawn or decoded once and kept beside the checkpoints. Test splits are read by the
evaluation alone.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gate_cache.core.replacing import replacing
from gate_cache.report.terminal.console import console_progress
from gate_cache.toyworld import draw
from gate_cache.toyworld.captions import with_article

SIZE = 64
TOYWORLD_TRAIN = 48_000
CIFAR_TRAIN = 50_000
NAMES = {"airplane": "aeroplane", "automobile": "car", "ship": "boat"}
"""CIFAR-10's names that SPair-71k (and so toyworld) calls otherwise."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Pictures with what they show.

    Attributes
    ----------
    pixels : (N, 64, 64, 3) uint8, RGB
    captions : N sentences
    categories : N names
    """

    pixels: Pixels
    captions: list[str]
    categories: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, count: int) -> Pictures:
        """The first `count` of them."""
        return Pictures(self.pixels[:count], self.captions[:count], self.categories[:count])


def toyworld(folder: Path, split: str, count: int) -> Pictures:
    """The first `count` pictures of a split of toyworld, drawn once into `folder`."""
    return _kept(folder / f"toyworld-{split}-{count}", count,
                 lambda: drawn(split, count))


def cifar(folder: Path, archive: Path, split: str, count: int) -> Pictures:
    """Photographs of a split of CIFAR-10, the classes taking turns, enlarged to 64 pixels.

    Parameters
    ----------
    archive : zip of ``<split>/<class>/<number>.jpg``
    """
    return _kept(folder / f"cifar-{split}-{count}", count,
                 lambda: photographs(archive, split, count))


def _kept(base: Path, count: int, make: Callable[[], Iterable[tuple[Any, str, str]]]) -> Pictures:
    pixels, words = base.with_suffix(".npy"), base.with_suffix(".json")
    if not words.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(pixels, "w+", np.uint8, (count, SIZE, SIZE, 3))
        texts = []
        with console_progress().task(base.name, count, "image") as task:
            for i, (image, caption, category) in enumerate(make()):
                array[i] = image
                texts.append((caption, category))
                task.advance()
        array.flush()
        with replacing(words) as draft:  # last: where it is, the pictures are whole
            draft.write_text(json.dumps(texts), encoding="utf-8")
    captions, categories = zip(*json.loads(words.read_text(encoding="utf-8")), strict=True)
    return Pictures(np.load(pixels, mmap_mode="r"), list(captions), list(categories))


def _one(task: tuple[str, int]) -> tuple[Pixels, str, str]:
    scene = draw(*task, SIZE)
    return scene.image, scene.caption, scene.category


def drawn(split: str, count: int) -> Iterable[tuple[Pixels, str, str]]:
    """Pictures of toyworld one by one: pixels, caption, category."""
    with get_context("spawn").Pool(2) as pool:
        yield from pool.imap(_one, ((split, i) for i in range(count)), chunksize=200)


def photographs(archive: Path, split: str, count: int) -> Iterable[tuple[Pixels, str, str]]:
    """Photographs of CIFAR-10 one by one: pixels, caption, category."""
    if not archive.is_file():
        sys.exit(f"{archive}: no such file; name the zip of CIFAR-10 as JPEGs with --cifar")
    with zipfile.ZipFile(archive) as files:
        names = sorted(n for n in files.namelist()
                       if n.startswith(f"{split}/") and n.endswith(".jpg"))
        names.sort(key=lambda n: n.rsplit("/", 1)[1])  # the classes take turns
        for name in names[:count]:
            image = np.asarray(Image.open(io.BytesIO(files.read(name))).convert("RGB"))
            category = name.split("/")[1]
            category = NAMES.get(category, category)
            large = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
            yield np.asarray(large, np.uint8), cifar_caption(category), category


def cifar_caption(category: str) -> str:
    """What a photograph of CIFAR-10 is called."""
    return f"a low resolution photo of {with_article(category)}"
