"""Train the embedded model: ``python -m pipelines.tiny STAGE``, in the order of the list.

    vocabulary    the tokenizer's words
    pictures      draw toyworld, enlarge CIFAR-10
    autoencoder   64 pixels to 16×16×4; then all pictures' latents
    denoiser      UNet and text encoder
    controlnet    on Canny edges
    loras         two, on 30 pictures at dusk
    classifier    of toyworld's categories, to judge samples with
    export        write the family into gate_cache/diffusion/data/tiny
    measure       figures on held-out pictures, into the same folder
    card          the model card, and its pictures into docs/
    all           all of these
    random        the same family untrained, into WORK/random, to compare with

Every stage goes on from its latest checkpoint. Two cores take about three and a half hours in all.
``python -m pipelines.tiny.photographs`` goes on with photographs, ``….photo_family`` makes a family
of that, ``….probe`` judges features.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.report.terminal.console import console_progress
from pipelines.tiny import (
    autoencoder,
    card,
    classifier,
    controlnet,
    denoiser,
    export,
    loras,
    measure,
    pictures,
    vocabulary,
)

ENCODED = {"drawn": 30_000, "photos": 12_000}
"""Pictures of each kind whose latents the UNet is trained on."""


@dataclass
class Work:
    """A folder with checkpoints, and what is in it."""

    folder: Path
    archive: Path

    @cached_property
    def drawn(self) -> pictures.Pictures:
        return pictures.toyworld(self.folder / "data", "train", pictures.TOYWORLD_TRAIN)

    @cached_property
    def photos(self) -> pictures.Pictures:
        return pictures.cifar(self.folder / "data", self.archive, "train", pictures.CIFAR_TRAIN)

    def held_out(self) -> dict[str, pictures.Pictures]:
        count, data = measure.COUNT, self.folder / "data"
        return {"toyworld": pictures.toyworld(data, "test", count),
                "cifar": pictures.cifar(data, self.archive, "test", count)}

    @cached_property
    def vae(self) -> Any:
        """The trained autoencoder, its latents scaled to unit variance."""
        model = autoencoder.build()
        autoencoder.train(model, self.drawn, self.photos, self.folder)
        some = np.concatenate([self.drawn.pixels[:1400], self.photos.pixels[:600]])
        autoencoder.with_unit_latents(model, some)
        return model

    def latents(self, kind: str) -> torch.Tensor:
        """(N, 4, 16, 16) float16, scaled; encoded once."""
        file, chunk = self.folder / "data" / f"latents-{kind}.npy", 500
        if not file.exists():
            pixels = getattr(self, kind).pixels[: ENCODED[kind]]
            parts = []
            with console_progress().task(f"latents {kind}", len(pixels), "image") as task:
                for i in range(0, len(pixels), chunk):
                    found = autoencoder.latents(self.vae, pixels[i : i + chunk])
                    parts.append(found.half().numpy())
                    task.advance(len(parts[-1]))
            np.save(file, np.concatenate(parts))
        return torch.from_numpy(np.load(file))

    def training_set(self) -> tuple[torch.Tensor, pictures.Pictures, torch.Tensor,
                                    pictures.Pictures]:
        a, b = self.latents("drawn"), self.latents("photos")
        return a, self.drawn.first(len(a)), b, self.photos.first(len(b))

    @cached_property
    def denoiser(self) -> tuple[Any, Any]:
        """The trained UNet and text encoder."""
        unet, text = denoiser.build()
        denoiser.train(unet, text, *self.training_set(), self.folder)
        return unet, text

    @cached_property
    def controlnet(self) -> Any:
        unet, text = self.denoiser
        net = controlnet.build(unet)
        batch = controlnet.of_two_kinds(*self.training_set())
        controlnet.train(net, unet, text, batch, self.folder)
        return net

    @cached_property
    def classifier(self) -> Any:
        model = classifier.build()
        classifier.train(model, self.drawn, self.folder)
        return model


def _autoencoder(work: Work) -> None:
    for kind, held_out in work.held_out().items():
        found, gate = autoencoder.psnr(work.vae, held_out.pixels), autoencoder.GATES[kind]
        print(f"autoencoder: {found:.2f} dB on {kind}")
        if found < gate:
            raise SystemExit(f"autoencoder: less than {gate} dB on {kind}; train it for more steps"
                             " (PLAN in pipelines/tiny/autoencoder.py) before the others")
    work.training_set()


def _loras(work: Work) -> None:
    unet, text = work.denoiser
    style = loras.style_pictures("train", loras.COUNT)
    for name, recipe in loras.RECIPES.items():
        loras.train(name, recipe, unet, text, work.vae, style, work.folder)


def _export(work: Work) -> None:
    unet, text = work.denoiser
    export.write(unet, text, work.vae)
    export.save(work.controlnet, HOME / "controlnet")
    (HOME / "loras").mkdir(exist_ok=True)
    for name in loras.RECIPES:
        state = (work.folder / f"{name}.safetensors").read_bytes()
        (HOME / "loras" / f"{name}.safetensors").write_bytes(state)
    print(f"{HOME}: {export.size() / 1e6:.1f} MB")


def _measure(work: Work) -> None:
    figures = measure.everything(HOME, work.held_out(), work.classifier)
    text = json.dumps(figures, indent=2)
    (HOME / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    for line in measure.missed(figures):
        print(f"not reached: {line}")


def _card(work: Work) -> None:
    unet, text = work.denoiser
    modules = {"vae": work.vae, "text_encoder": text, "unet": unet, "controlnet": work.controlnet}
    facts = {"size": export.size() / 1e6, "drawn": len(work.drawn), "photos": len(work.photos),
             **{f"encoded_{k}": v for k, v in ENCODED.items()}}
    card.write(HOME, work.folder, modules, facts)
    card.pictures(HOME, work.held_out())


def _random(work: Work) -> None:
    folder = work.folder / "random"
    shutil.copytree(HOME / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    vae = autoencoder.build()
    autoencoder.with_unit_latents(vae, work.drawn.pixels[:500])
    export.write(*denoiser.build(), vae, folder)


STAGES: dict[str, Callable[[Work], Any]] = {
    "vocabulary": lambda work: vocabulary.write(HOME / "tokenizer"),
    "pictures": lambda work: (work.drawn, work.photos, work.held_out()),
    "autoencoder": _autoencoder,
    "denoiser": lambda work: work.denoiser,
    "controlnet": lambda work: work.controlnet,
    "loras": _loras,
    "classifier": lambda work: work.classifier,
    "export": _export,
    "measure": _measure,
    "card": _card,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tiny", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all", "random"])
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"),
                        help="checkpoints and logs (default: %(default)s)")
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar-10-images.zip"),
                        help="zip of CIFAR-10: <split>/<class>/<number>.jpg (default: %(default)s)")
    args = parser.parse_args()
    work = Work(args.work, args.cifar)
    if args.stage == "random":
        _random(work)
        return
    for stage in STAGES if args.stage == "all" else [args.stage]:
        STAGES[stage](work)


if __name__ == "__main__":
    main()
