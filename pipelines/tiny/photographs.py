"""Go on from the embedded UNet on photographs of 64 pixels, with toyworld among them.

    python -m pipelines.tiny.photographs --work WORK --tiny-imagenet ZIP --cifar ZIP
        [--name long] [--steps 20000] [--deeper 1] [--wider 1] [--masked 0.5] …

Latents are encoded once into WORK/data; then WORK/<name>.safetensors is trained from its latest
checkpoint, and WORK/<name>.jsonl has its loss. The same command goes on after an interruption, to
the bit. Every `--export-every` steps the kept weights, as a family that diffusers can load, go to
WORK/<name>/<step>, for `python -m pipelines.tiny.probe`. Two processes of one thread, each with
half of every batch, are started by ``torchrun --nproc-per-node 2 -m pipelines.tiny.photographs``.

No teacher: the loss is that of denoising alone. What is new is `masked`: in that share of a batch,
squares of the latents have much more noise than the time that the UNet is told, so that what
is there must be inferred from what is around it. At the small times that features are read at,
plain denoising needs no more than the nearest cells.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional

from gate_cache.diffusion.models.embedded import HOME
from pipelines.tiny import encoded, export, measure, pictures
from pipelines.tiny.captions import token_ids, varied
from pipelines.tiny.denoiser import ALPHAS, MOST, times
from pipelines.tiny.encoded import Encoded
from pipelines.tiny.grow import deeper, wider
from pipelines.tiny.loop import Plan, first, fit, meet, part
from pipelines.tiny.pictures import Pixels

BATCH = 64
SHARES = {"photographs": 36, "toyworld": 14, "cifar": 14}  # pictures of each kind in a batch
COUNTS = {"photographs": 60_000, "toyworld": 10_000, "cifar": 36_000}
CLASSES = 200  # of Tiny ImageNet
Source = Callable[[], Iterable[tuple[Pixels, str, str]]]
HIDDEN = (500, 850)  # times of what is masked: below, shapes are still seen; above, weights end
SQUARES = 4  # squares along a side
LEAST, LARGEST = 0.25, 0.75  # share of the squares that is masked


@dataclass(frozen=True)
class Trial:
    """What a training may differ in.

    Attributes
    ----------
    masked : share of a batch whose pictures are partly hidden
    early : share of the rest whose time is below 300 instead of anywhere
    unnamed : share of photographs whose class is not said
    bf16 : whether the UNet computes in bfloat16, which wide ones gain from
    """

    masked: float = 0.5
    early: float = 0.0
    unnamed: float = 0.5
    bf16: bool = False


def hidden(count: int, side: int, share: float, g: torch.Generator) -> torch.Tensor:
    """(count, side, side) bool: squares to be hidden in the first `share` of the pictures."""
    draw = torch.rand((count, SQUARES, SQUARES), generator=g)
    bound = LEAST + (LARGEST - LEAST) * torch.rand((count, 1, 1), generator=g)
    bound[round(count * share):] = 0
    return (draw < bound).repeat_interleave(side // SQUARES, 1).repeat_interleave(
        side // SQUARES, 2)


def drawn_times(count: int, trial: Trial, g: torch.Generator) -> torch.Tensor:
    """(count,) times that the UNet is told; below 300 for masked pictures and the early share."""
    t = times(count, g)[torch.randperm(count, generator=g)]
    masked = round(count * trial.masked)
    early = masked + round((count - masked) * trial.early)
    t[:early] = t[:early] * 3 // 10
    return t


def cell_times(t: torch.Tensor, mask: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """(N, side, side) times of every cell, of (N,) told ones and what is hidden."""
    low, high = HIDDEN
    above = torch.randint(low, high, (len(t), 1, 1), generator=g)
    return torch.where(mask, above, t[:, None, None])


def cell_loss(predicted: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """`denoiser.weighted`, for a time of every cell, (N, side, side)."""
    weight = (1 / ALPHAS[t]).clamp(max=MOST)[:, None]
    return (weight * functional.mse_loss(predicted, noise, reduction="none")).mean()


def said(data: Encoded, i: int, kind: str, unnamed: float, g: torch.Generator) -> str:
    """What the text encoder hears of a picture."""
    if kind != "photographs":
        return varied(data.captions[i], data.categories[i], g)
    draw = float(torch.rand((), generator=g))
    return data.captions[i] if draw >= unnamed else "" if draw < unnamed / 4 else "a photo"


def sampled(data: Mapping[str, Encoded], counts: Mapping[str, int], shares: Mapping[str, int],
            unnamed: float, g: torch.Generator,
            ) -> tuple[dict[str, list[int]], torch.Tensor, list[str]]:
    """Of each kind's first `counts` pictures as many as `shares`: numbers, latents, words."""
    which, words = dict[str, list[int]](), list[str]()
    for kind, share in shares.items():
        which[kind] = torch.randint(counts[kind], (share,), generator=g).tolist()
        words += [said(data[kind], i, kind, unnamed, g) for i in which[kind]]
    return which, torch.cat([data[kind].latents(some) for kind, some in which.items()]), words


def train(trial: Trial, plan: Plan, unet: Any, text: Any, data: dict[str, Encoded],
          folder: Path, stop: int) -> None:
    """Train both up to a step; they hold the kept weights afterwards."""

    def batch(g: torch.Generator) -> tuple[torch.Tensor, list[str]]:
        counts = {kind: len(some) for kind, some in data.items()}
        _, x0, words = sampled(data, counts, SHARES, trial.unnamed, g)
        order = torch.randperm(BATCH, generator=g)
        x0 = x0[order]
        flips = torch.rand(BATCH, generator=g) < 0.5
        x0[flips] = x0[flips].flip(-1)
        return x0, [words[i] for i in order.tolist()]

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        x0, words = batch(g)
        t = drawn_times(BATCH, trial, g)
        each = cell_times(t, hidden(BATCH, x0.shape[-1], trial.masked, g), g)
        noise = torch.randn(x0.shape, generator=g)
        alpha = ALPHAS[each][:, None]
        x = (alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise).contiguous(
            memory_format=torch.channels_last)
        mine = part()
        with torch.autocast("cpu", torch.bfloat16, enabled=trial.bf16):
            states = text(token_ids(words[mine]))[0]
            predicted = unet(x[mine], t[mine], encoder_hidden_states=states).sample
        return cell_loss(predicted.float(), noise[mine], each[mine])

    fit(plan, {"unet": unet, "text_encoder": text}, loss, folder, stop)


def datasets(work: Path, archive: Path, cifar: Path) -> dict[str, Encoded]:
    """Latents of all training pictures, encoded once."""
    @cache
    def vae() -> Any:
        return measure.load(HOME).vae

    return {kind: encoded.encoded(work / "data" / f"{kind}-{COUNTS[kind]}", vae, COUNTS[kind], make)
            for kind, make in sources(archive, cifar, COUNTS).items()}


def sources(archive: Path, cifar: Path, counts: Mapping[str, int]) -> dict[str, Source]:
    """The first pictures of each kind: pixels, caption, category."""
    return {"photographs": lambda: encoded.tiny_imagenet(archive, "train",
                                                         counts["photographs"] // CLASSES),
            "toyworld": lambda: pictures.drawn("train", counts["toyworld"]),
            "cifar": lambda: pictures.photographs(cifar, "train", counts["cifar"])}


def family(unet: Any, text: Any, folder: Path) -> None:
    """Write a family that diffusers can load, with the embedded model's autoencoder."""
    draft = folder.with_suffix(".partial")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(HOME / "tokenizer", draft / "tokenizer")
    export.write(unet, text, measure.load(HOME).vae, draft)
    draft.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--tiny-imagenet", type=Path, default=Path("data/tiny-imagenet-part.zip"))
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar-10-images.zip"))
    parser.add_argument("--name", default="photographs", help="of this training")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.3, help="share of steps with a falling lr")
    parser.add_argument("--export-every", type=int, default=1000)
    parser.add_argument("--save-every", type=int, default=50)
    for name, value in asdict(Trial()).items():
        if value is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--deeper", type=int, default=0, help="more layers a level")
    parser.add_argument("--wider", type=int, default=0, help="doublings of the channels")
    parser.add_argument("--threads", type=int, default=1,
                        help="on a busy machine one costs half the time of two (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RANK" in os.environ:  # torchrun's
        distributed.init_process_group("gloo")
    if not first():
        meet()  # the first one encodes what is missing
    data = datasets(args.work, args.tiny_imagenet, args.cifar)
    if first():
        meet()
    pipe = measure.load(HOME)
    unet = pipe.unet
    for change, often in ((deeper, args.deeper), (wider, args.wider)):
        for _ in range(often):
            unet = change(unet)
    unet = unet.to(memory_format=torch.channels_last)
    trial = Trial(**{k: getattr(args, k) for k in asdict(Trial())})
    plan = Plan(args.name, steps=args.steps, lr=args.lr, decay=args.decay, ema=0.999,
                save_every=args.save_every)
    for stop in [*range(args.export_every, args.steps, args.export_every), args.steps]:
        if not (folder := args.work / args.name / str(stop)).exists():
            train(trial, plan, unet, pipe.text_encoder, data, args.work, stop)
            if first():
                family(unet, pipe.text_encoder, folder)
            meet()  # the others go on from the checkpoint once it is written


if __name__ == "__main__":
    main()
