"""What the features of a small Stable Diffusion know of photographs it has never seen.

    python -m pipelines.tiny.probe MODEL_DIR … --work WORK --cifar ZIP --willow FOLDER

Nothing is trained but a logistic regression: a model takes a minute or two on one core, and is
judged alike each time. Prompt "a photo", one noise of seed 0.

CIFAR-10: 500 training and 200 test pictures a class, enlarged to 64 pixels; levels pooled to 2×2 or
4×4, standardised; logistic regression, C = 0.003; interval over pictures. Floor: the same of
pixels.

PF-WILLOW: all 900 published pairs, squashed to 64 pixels or `--side`; cosine nearest neighbour as
head ``nn`` does it; PCK@0.1 by point; interval over pairs. ``raw`` concatenates levels as they
are, ``standardised`` after each channel has mean 0 and deviation 1 over all pictures, ``by
picture`` over each picture alone; ``content`` takes from the latter, place by place, the mean over
all pictures, so that nothing is left that says where a cell is. Floor: copying the position.

``MODEL_DIR`` may be ``tiny`` or ``tiny-photos``, the embedded families, ``random``, the first with
random weights, or ``floors``.
Results go to WORK/probes/<model>.json too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from gate_cache.datasets.common.images import read_rgb, to_frame
from gate_cache.datasets.pf_willow import PFWillow
from gate_cache.diffusion.models.embedded import HOMES, TINY
from gate_cache.diffusion.passes.noise import noise
from gate_cache.learn.features.pairs import PairPoints, load_pairs
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.pck import Points, correct, share
from gate_cache.learn.tasks.correspondence import nearest, sample
from pipelines.tiny import autoencoder, denoiser, measure, pictures
from pipelines.tiny.captions import token_ids
from pipelines.tiny.encoded import Encoded, encoded
from pipelines.tiny.pictures import SIZE

CIFAR = {"train": 500, "test": 200}
CIFAR_TIMES, WILLOW_TIMES = (50, 100), (20, 50, 100)
C = 0.003
LEVELS = ("up0", "up1", "up2", "up3")
READINGS = {"up0-up2, 2×2": (LEVELS[:3], 2), "up1, 4×4": (LEVELS[1:2], 4),
            "up2, 4×4": (LEVELS[2:3], 4)}
"""Levels that CIFAR-10's vectors are made of, and cells along a side that each is pooled to."""
SETS = (LEVELS, LEVELS[1:], LEVELS[1:3], LEVELS[:1], LEVELS[1:2])
"""Levels that PF-WILLOW's descriptors are made of."""
OVER: dict[str, tuple[int, ...]] = {"raw": (), "standardised": (0, 2, 3), "by picture": (2, 3),
                                    "content": (2, 3)}
"""Axes of (N, C, h, w) over which channels are standardised."""
Maps = dict[str, torch.Tensor]
GOALS = {"cifar": ("up0-up2, 2×2, t = 50", "accuracy", 58.0),
         "willow": ("up1+up2+up3, t = 50, by picture", "image", 43.8)}
"""What a family should reach: its row, the figure, and the least; of PF-WILLOW, the floor's."""


@torch.inference_mode()
def features(pipe: Any, x0: torch.Tensor, names: list[str], t: int, batch: int = 50) -> Maps:
    """Outputs of the UNet's up levels, (N, C, h, w) each, at one time."""
    outputs: dict[str, list[torch.Tensor]] = {level: [] for level in LEVELS}
    states = pipe.text_encoder(token_ids(["a photo"]))[0]
    with ExitStack() as hooks:
        for level, block in zip(LEVELS, pipe.unet.up_blocks, strict=True):
            hooks.enter_context(block.register_forward_hook(
                lambda _module, _inputs, out, level=level: outputs[level].append(out)))
        for i in range(0, len(x0), batch):
            part = x0[i : i + batch]
            eps = torch.stack([noise(0, name, part.shape[1:]) for name in names[i : i + batch]])
            times = torch.full((len(part),), t)
            pipe.unet(denoiser.noised(part, eps, times), times,
                      encoder_hidden_states=states.expand(len(part), -1, -1))
    return {level: torch.cat(parts) for level, parts in outputs.items()}


def accuracy(x: dict[str, npt.NDArray[Any]], y: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Percent of test rows whose class a regression on standardised training rows names."""
    mean, deviation = x["train"].mean(0), x["train"].std(0) + 1e-6
    rows = {split: (values - mean) / deviation for split, values in x.items()}
    model = LogisticRegression(C=C, max_iter=1000).fit(rows["train"], y["train"])
    right = 100.0 * (model.predict(rows["test"]) == y["test"])
    return {"accuracy": round(float(right.mean()), 1), "interval": rounded(bootstrap(right))}


def rounded(values: Any) -> list[float]:
    """To a tenth."""
    return [round(float(v), 1) for v in values]


def pooled(maps: Maps, levels: tuple[str, ...], side: int) -> npt.NDArray[np.float32]:
    """(N, D): the levels' means over `side` × `side` parts of the picture."""
    return torch.cat([functional.adaptive_avg_pool2d(maps[level], side).flatten(1)
                      for level in levels], 1).numpy()


def cifar(pipe: Any, data: dict[str, Encoded]) -> dict[str, Any]:
    """Accuracy at each time."""
    found = {}
    y = {split: np.array(some.categories) for split, some in data.items()}
    for t in CIFAR_TIMES:
        maps = {split: features(pipe, some.latents(range(len(some))),
                                [f"{split}/{i}" for i in range(len(some))], t)
                for split, some in data.items()}
        for name, (levels, side) in READINGS.items():
            found[f"{name}, t = {t}"] = accuracy(
                {split: pooled(m, levels, side) for split, m in maps.items()}, y)
    return found


def pixels_alone(archive: Path) -> dict[str, Any]:
    """Accuracy of CIFAR-10's own 32×32 pixels."""
    x, y = {}, {}
    for split, each in CIFAR.items():
        some = list(pictures.photographs(archive, split, 10 * each))
        x[split] = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).ravel()
                             for image, _, _ in some]).astype(np.float32)
        y[split] = np.array([category for _, _, category in some])
    return {"pixels": accuracy(x, y)}


def joined(maps: Maps, levels: tuple[str, ...], how: str) -> torch.Tensor:
    """Descriptors (N, D, h, w): levels at the finest one's resolution, unit length over D.

    Parameters
    ----------
    how : key of `OVER`
    """
    side = max(m.shape[-1] for m in maps.values())
    whole = torch.cat([functional.interpolate(maps[level], (side, side), mode="bilinear")
                       for level in levels], 1)
    if axes := OVER[how]:
        apart = whole - whole.mean(axes, keepdim=True)
        whole = apart / whole.std(axes, keepdim=True).clamp_min(1e-6)
    if how == "content":
        whole = whole - whole.mean(0, keepdim=True)
    return functional.normalize(whole, dim=1)


def matched(descriptors: dict[str, torch.Tensor], pair: PairPoints) -> Points:
    """Where a pair's points are found by cosine nearest neighbour."""
    wanted = sample(descriptors[pair.pair.source], torch.from_numpy(pair.source_shares).float())
    return np.asarray(nearest(wanted, descriptors[pair.pair.target]).double())


def pck(pairs: Sequence[PairPoints], predict: Callable[[PairPoints], Points]) -> dict[str, Any]:
    """PCK@0.1 for both radii, with intervals over pairs."""
    units: dict[str, list[list[int]]] = {"image": [], "box": []}
    for pair in pairs:
        told = pair.judge(predict(pair))
        for radius, counts in units.items():
            hits = correct(told, 0.1, radius)
            counts.append([int(hits.sum()), len(hits)])
    return {radius: rounded([share(np.sum(counts, 0)), *bootstrap(counts, share)])
            for radius, counts in units.items()}


def willow(pipe: Any, folder: Path, side: int) -> dict[str, Any]:
    """PCK of sets of levels at each time, by each way to join them."""
    data = PFWillow(folder)
    names, pairs = [s.id for s in data.samples()], load_pairs(data, None)
    pixels = np.stack([to_frame(read_rgb(data.path(name)), side) for name in names])
    x0, found = autoencoder.latents(pipe.vae, pixels), {}
    for t in WILLOW_TIMES:
        maps = features(pipe, x0, names, t)
        for levels in SETS:
            for how in OVER:
                described = dict(zip(names, joined(maps, levels, how), strict=True))
                found[f"{'+'.join(levels)}, t = {t}, {how}"] = pck(
                    pairs, partial(matched, described))
    return found


def model(name: str) -> Any:
    """A family by folder or name."""
    pipe = measure.load(HOMES.get(TINY if name == "random" else name, Path(name)))
    if name == "random":
        pipe.unet, pipe.text_encoder = (part.eval() for part in denoiser.build())
    return pipe


def probes(pipe: Any, data: Path, archive: Path) -> dict[str, Encoded]:
    """CIFAR-10's latents by this family's autoencoder, encoded once."""
    weights = b"".join(v.numpy().tobytes() for v in pipe.vae.state_dict().values())
    digest = hashlib.sha256(weights).hexdigest()[:8]
    return {split: encoded(data / f"probe-{split}-{digest}", lambda: pipe.vae, 10 * each,
                           partial(pictures.photographs, archive, split, 10 * each))
            for split, each in CIFAR.items()}


def missed(found: dict[str, Any]) -> list[str]:
    """Goals that are not reached, a line each."""
    lines = []
    for part, (row, key, least) in GOALS.items():
        figures = found[part][row][key]
        reached = figures if part == "cifar" else figures[0]
        if reached < least:
            lines.append(f"not reached: {part}, {row}, {key}: {reached}, at least {least}")
    return lines


def judged(name: str, work: Path, archive: Path, folder: Path, side: int) -> dict[str, Any]:
    """All figures of a model, or of what needs none."""
    if name == "floors":
        return {"cifar": pixels_alone(archive),
                "willow": {"copy the position": pck(load_pairs(PFWillow(folder), None),
                                                    lambda p: p.source_shares)}}
    pipe = model(name)
    return {"cifar": cifar(pipe, probes(pipe, work / "data", archive)),
            "willow": willow(pipe, folder, side)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--cifar", type=Path, default=Path("data/cifar-10-images.zip"))
    parser.add_argument("--willow", type=Path, default=Path("data/PF-dataset-WILLOW"))
    parser.add_argument("--side", type=int, default=SIZE, help="of PF-WILLOW's pictures, pixels")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (args.work / "probes").mkdir(parents=True, exist_ok=True)
    for name in args.models:
        found = judged(name, args.work, args.cifar, args.willow, args.side)
        at = "" if args.side == SIZE else f"@{args.side}"
        file = args.work / "probes" / f"{'-'.join(Path(name).parts[-2:])}{at}.json"
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        lines = [] if name == "floors" else missed(found)
        print(name, json.dumps(found, indent=1), *lines, file, sep="\n", flush=True)


if __name__ == "__main__":
    main()
