"""What tiny is trained on as latents of 8 bits, 1 KB a picture, encoded once by its autoencoder.

Tiny ImageNet's photographs are read from a zip of ``train/<wnid>/<number>.jpg`` beside
``classes.tsv`` (wnid, name). Its validation pictures are never read here.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gate_cache.core.replacing import replacing
from gate_cache.report.terminal.console import console_progress
from gate_cache.toyworld.captions import with_article
from pipelines.tiny import autoencoder
from pipelines.tiny.pictures import SIZE, Pixels

CHUNK = 200
STEP = 1 / 32
"""What one of the 8 bits' values stands for; latents have unit variance, so ±4 is enough."""


@dataclass(frozen=True)
class Encoded:
    """Latents of pictures with what they show.

    Attributes
    ----------
    values : (N, 4, 16, 16) int8, latents of unit variance over `STEP`
    captions : N sentences
    categories : N names
    """

    values: npt.NDArray[np.int8]
    captions: list[str]
    categories: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def latents(self, which: Sequence[int]) -> torch.Tensor:
        """(n, 4, 16, 16) float32 of these pictures."""
        return torch.from_numpy(self.values[list(which)]).float() * STEP


def eight_bits(latents: torch.Tensor) -> npt.NDArray[np.int8]:
    """Latents to the nearest of 255 values."""
    return (latents / STEP).round().clamp(-127, 127).to(torch.int8).numpy()


def encoded(base: Path, vae: Callable[[], Any], count: int,
            make: Callable[[], Iterable[tuple[Pixels, str, str]]]) -> Encoded:
    """The latents of `count` pictures, kept as ``<base>.npy`` and ``<base>.json``."""
    values, words = base.with_suffix(".npy"), base.with_suffix(".json")
    if not words.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        model, parts, texts = vae(), [], []
        with console_progress().task(base.name, count, "image") as task:
            rest = iter(make())
            while chunk := list(islice(rest, CHUNK)):
                pixels, *words_of = zip(*chunk, strict=True)
                parts.append(eight_bits(autoencoder.latents(model, np.stack(pixels), 50)))
                texts += list(zip(*words_of, strict=True))
                task.advance(len(chunk))
        if len(texts) != count:
            sys.exit(f"{base.name}: {len(texts)} pictures, expected {count}")
        np.save(values, np.concatenate(parts))
        with replacing(words) as draft:  # last: where it is, the values are whole
            draft.write_text(json.dumps(texts), encoding="utf-8")
    captions, categories = zip(*json.loads(words.read_text(encoding="utf-8")), strict=True)
    return Encoded(np.load(values), list(captions), list(categories))


def tiny_imagenet(archive: Path, split: str, each: int) -> Iterator[tuple[Pixels, str, str]]:
    """The first `each` photographs of every class, the classes taking turns."""
    if not archive.is_file():
        sys.exit(f"{archive}: no such file; name the zip of Tiny ImageNet with --tiny-imagenet")
    with zipfile.ZipFile(archive) as files:
        table = files.read("classes.tsv").decode().splitlines()
        names = {row["wnid"]: row["name"] for row in csv.DictReader(table, delimiter="\t")}
        members: dict[str, list[str]] = {wnid: [] for wnid in names}
        for member in sorted(files.namelist()):
            folder, _, rest = member.partition("/")
            if folder == split and rest.endswith(".jpg"):
                members[rest.split("/")[0]].append(member)
        for turn in zip(*(found[:each] for found in members.values()), strict=True):
            for member in turn:
                yield _read(files, member), *_said(names[member.split("/")[1]])


def _read(files: zipfile.ZipFile, member: str) -> Pixels:
    image = np.asarray(Image.open(io.BytesIO(files.read(member))).convert("RGB"))
    if image.shape != (SIZE, SIZE, 3):
        sys.exit(f"{files.filename}: {member} has {image.shape[1]}×{image.shape[0]} pixels,"
                 f" expected {SIZE}×{SIZE}")
    return image


def _said(name: str) -> tuple[str, str]:
    return f"a photo of {with_article(name.lower())}", name
