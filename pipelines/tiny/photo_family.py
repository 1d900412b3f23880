"""``tiny-photos``, the embedded family for photographs, of a UNet that `….photographs` trained.

    python -m pipelines.tiny.photo_family WORK/<name>/<step> --work WORK --tiny-imagenet ZIP
        --cifar ZIP

Trains a ControlNet on Canny edges and a LoRA for each of `STYLES`, writes the family into
gate_cache/diffusion/data/tiny-photos, and its figures on held-out pictures into ``figures.json``
there. Every part goes on from its latest checkpoint. Tiny ImageNet's validation photographs are
only measured on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from gate_cache.diffusion.models.embedded import HOMES, PHOTOS
from gate_cache.toyworld.render import dusk
from pipelines.tiny import (
    controlnet,
    denoiser,
    encoded,
    export,
    loras,
    measure,
    photographs,
    pictures,
)
from pipelines.tiny.encoded import Encoded
from pipelines.tiny.loop import Plan
from pipelines.tiny.pictures import Pictures, Pixels

HOME = HOMES[PHOTOS]
SEEN = {"photographs": 16_000, "toyworld": 3_000, "cifar": 4_000}
"""Pictures of each kind whose edges the ControlNet sees."""
STYLED = {"train": 3, "val": 1}
"""Photographs of each class that a LoRA's style is made of, and measured on."""
COUNT = 400
"""Held-out pictures of each kind."""
CONTROL = replace(controlnet.PLAN, steps=500)


def sketch(image: Pixels) -> Pixels:
    """As if drawn with a pencil, (H, W, 3): grey over its own blur (σ = 2 pixels), "dodged"."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    lines = cv2.divide(grey, 255 - cv2.GaussianBlur(255 - grey, (0, 0), 2), scale=256)
    return np.repeat(np.asarray(lines, np.uint8)[..., None], 3, -1)


STYLES: dict[str, Callable[[Pixels], Pixels]] = {"dusk": dusk, "sketch": sketch}


def recipe(style: str) -> loras.Recipe:
    """Rank and plan of a style's LoRA."""
    return loras.Recipe(4, Plan(f"lora-{style}", steps=200, lr=1e-3, warmup=20))


def controls(data: dict[str, Encoded], archive: Path, cifar: Path) -> controlnet.Batch:
    """Batches with as many pictures of each kind as the UNet's."""
    shares = {kind: round(denoiser.BATCH * n / photographs.BATCH)
              for kind, n in photographs.SHARES.items()}

    @cache  # read for the first batch: a training that is over asks for none
    def pixels() -> dict[str, Pixels]:
        return {kind: np.stack([image for image, *_ in islice(make(), SEEN[kind])])
                for kind, make in photographs.sources(archive, cifar, SEEN).items()}

    def batch(g: torch.Generator) -> tuple[torch.Tensor, Pixels, list[str]]:
        which, x0, words = photographs.sampled(data, SEEN, shares, 0.5, g)
        return x0, np.concatenate([pixels()[kind][some] for kind, some in which.items()]), words

    return batch


def styled(style: str, archive: Path, split: str) -> tuple[Pixels, list[str]]:
    """Photographs in a style, and what is said of them."""
    found = list(encoded.tiny_imagenet(archive, split, STYLED[split]))
    return np.stack([STYLES[style](image) for image, *_ in found]), [said for _, said, _ in found]


def train(base: Path, work: Path, archive: Path, cifar: Path) -> None:
    """Train what is missing of the family, and write all of it."""
    pipe = measure.load(base)
    net = controlnet.build(pipe.unet)
    folder = work / PHOTOS
    batch = controls(photographs.datasets(work, archive, cifar), archive, cifar)
    controlnet.train(net, pipe.unet, pipe.text_encoder, batch, folder, CONTROL)
    for style in STYLES:
        loras.train(style, recipe(style), pipe.unet, pipe.text_encoder, pipe.vae,
                    styled(style, archive, "train"), folder)
    shutil.copytree(base, HOME, dirs_exist_ok=True)
    export.save(net, HOME / "controlnet")
    (HOME / "loras").mkdir(exist_ok=True)
    for style in STYLES:
        shutil.copyfile(folder / f"{style}.safetensors", HOME / "loras" / f"{style}.safetensors")
    print(f"{HOME}: {export.size(HOME) / 1e6:.1f} MB")


def figures(work: Path, archive: Path, cifar: Path) -> dict[str, Any]:
    """What the family can do, on pictures that it has never seen."""
    pipe = measure.load(HOME)
    shown = islice(encoded.tiny_imagenet(archive, "val", 5), COUNT)
    pixels, captions, names = zip(*shown, strict=True)
    photos = Pictures(np.stack(pixels), list(captions), list(names))
    held_out = {"photographs": photos,
                "toyworld": pictures.toyworld(work / "data", "test", COUNT),
                "cifar": pictures.cifar(work / "data", cifar, "test", COUNT)}
    return {
        "text_effect": {kind: measure.text_effect(pipe, some) for kind, some in held_out.items()},
        "controlnet": measure.controlnet_effect(pipe, HOME, photos.pixels[:100]),
        "loras": {style: measure.lora_effect(pipe, HOME, [style], {
            split: styled(style, archive, split) for split in STYLED}) for style in STYLES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a family of pipelines.tiny.photographs")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--tiny-imagenet", type=Path, default=Path("data/tiny-imagenet-part.zip"))
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar-10-images.zip"))
    args = parser.parse_args()
    train(args.base, args.work, args.tiny_imagenet, args.cifar)
    found = figures(args.work, args.tiny_imagenet, args.cifar)
    text = json.dumps(found, indent=2)
    (HOME / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
