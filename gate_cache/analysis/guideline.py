"""``guideline``: is Img2Img with a technique closer to its input than without? (section 5.1)

The images are noised to a late t and denoised to t = 0, by deterministic DDIM steps, with the same
noise for all techniques. Nothing is extracted or written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.analysis.score import ONE_PASS, PROMPT, Selection, plain, techniques_of
from gate_cache.core.errors import UserError
from gate_cache.diffusion.techniques.controlnet import canny
from gate_cache.extraction.passes import (
    Passes,
    chosen_combos,
    need_whole,
    open_passes,
    with_combos,
)
from gate_cache.learn.metrics.image_similarity import edge_f1, psnr, ssim
from gate_cache.learn.metrics.intervals import Spread
from gate_cache.manifest.specs import T_MAX, Combo, DenoiseSpec

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.workspace.workspace import Workspace

STRENGTH, STEPS, SEEDS, IMAGES = 0.7, 20, 3, 4
"""Defaults."""
MEASURES = ("SSIM", "edges", "PSNR")
THRESHOLDS = (100, 200)
"""Of Canny, for the edges that are compared: those of ControlNet's edges (METHOD, 2)."""
REFERENCE = "reference"
Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TriedTechnique:
    """Img2Img results of one technique, or of none.

    Attributes
    ----------
    name : of the combo
    techniques : in words
    pictures : (H, W, 3) by image, of the first seed
    values : measure to (images, seeds)
    mean : over images, of each one's mean over seeds
    gain : how much more than the reference, likewise; None for the reference
    closer : percent of the results, of every image and seed, with a higher SSIM than the reference
    """

    name: str
    techniques: str
    pictures: dict[str, Pixels]
    values: dict[str, Values]
    mean: dict[str, Spread]
    gain: dict[str, Spread] | None
    closer: float | None


@dataclass(frozen=True)
class Guideline:
    """The comparison.

    Attributes
    ----------
    inputs : (H, W, 3) by image, as the model is given them
    strength : share of the times that are denoised; `start` is the first of them
    bound : what the autoencoder alone keeps, which no technique can exceed by much
    rows : the reference first
    """

    manifest: str
    model: str
    prompt: str
    strength: float
    start: int
    steps: int
    seeds: int
    inputs: dict[str, Pixels]
    bound: dict[str, Spread]
    rows: list[TriedTechnique]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        own = ("manifest", "model", "prompt", "strength", "start", "steps", "seeds")
        rows = [{"name": r.name, "techniques": r.techniques, "closer": r.closer,
                 "mean": _json(r.mean), "gain": _json(r.gain or {}),
                 "each": {m: v.tolist() for m, v in r.values.items()}} for r in self.rows]
        return {**{k: getattr(self, k) for k in own}, "images": list(self.inputs),
                "autoencoder": _json(self.bound), "rows": rows}


@dataclass(frozen=True)
class Img2Img:
    """How images are made anew.

    Attributes
    ----------
    strength : share of the times that are denoised, above 0 and up to 1
    steps : of denoising
    seeds : of the noise; each image is made so many times
    """

    strength: float = STRENGTH
    steps: int = STEPS
    seeds: int = SEEDS

    @property
    def start(self) -> int:
        """The time that images are noised to."""
        return min(max(round(self.strength * (T_MAX + 1)), 1), T_MAX)  # strength 1 has no t = 1000

    def of(self, combo: Combo, seed: int) -> Combo:
        """A combo that denoises from there to t = 0."""
        walk = DenoiseSpec.model_validate({"from": self.start, "steps": self.steps})
        return combo.model_copy(update={**ONE_PASS, "seed": seed, "denoise": walk})


def guideline(work: Workspace, how: Img2Img, selection: Selection) -> Guideline:
    """Make images anew without and with every technique, and compare them with the input.

    Parameters
    ----------
    work : the manifest, data set and model
    how : strength, steps and seeds of Img2Img
    selection : combos and images; combos that differ in what `ONE_PASS` names alone are one
        technique

    Raises
    ------
    UserError
        No such image or combo, something of the model is missing, or it takes no technique.
    """
    need_whole(work)
    chosen = distinct(chosen_combos(work, selection.combos))
    if how.steps > how.start:
        raise UserError(f"--steps {how.steps}: more than the {how.start} timesteps of"
                        f" --strength {how.strength:g}")
    files = with_combos(work, chosen).model()
    if not files.family.text:
        raise UserError(f"{files.source}: a model without text input takes no techniques, so there"
                        " is nothing to compare")
    dataset, ids = selection.of(work, IMAGES)
    prompt = PROMPT if selection.prompt is None else selection.prompt
    combos = {f"@{REFERENCE}": plain(files, prompt), **chosen}
    every = {f"{name} {seed}": how.of(c, seed) for name, c in combos.items()
             for seed in range(how.seeds)}
    with open_passes(work, every, dataset, ids, selection.batch) as passes:
        decoded, results = _decoded(passes), _img2img(passes, work.progress)
        judge = _Judge(passes)
    bound = _means(judge.measure([decoded]))
    rows = _rows(judge, results, combos, how.seeds)
    return Guideline(str(work.loaded.path), files.source, prompt, how.strength, how.start,
                     how.steps, how.seeds, judge.inputs, bound, rows)


def distinct(combos: Mapping[str, Combo]) -> dict[str, Combo]:
    """One combo of those that make the same of an image and its noise."""
    names: dict[str, str] = {}
    for name, combo in combos.items():
        same = combo.model_copy(update={**ONE_PASS, "denoise": None})
        names.setdefault(same.model_dump_json(), name)
    return {name: combos[name] for name in names.values()}


@torch.inference_mode()
def _decoded(passes: Passes) -> list[Pixels]:
    """What the autoencoder keeps of each image."""
    decode, latents = passes.extractor.model.decode, passes.inputs.latents
    return [decode(latents([row]))[0].cpu().numpy()
            for row in range(len(passes.source.samples))]


@torch.inference_mode()
def _img2img(passes: Passes, show: Progress) -> dict[str, list[Pixels]]:
    """Combo to a result for each image."""
    results: defaultdict[str, dict[int, Pixels]] = defaultdict(dict)
    total, decode = sum(len(lane.items) for lane in passes.lanes), passes.extractor.model.decode
    with show.task("Img2Img", total, "pictures") as task:
        for lane in passes.lanes:
            for ready in passes.extractor.ready(lane, passes.inputs):
                # decoded one by one: a batch that fits the UNet need not fit the VAE
                for item, x in zip(ready.items, ready.x, strict=False):
                    picture = decode(x[None])[0].cpu().numpy()
                    for reader in lane.readers[item.half, ready.tail]:
                        if item.row in reader.rows:
                            results[reader.combo.name][item.row] = picture
                task.advance(len(ready.items))
    return {name: [rows[r] for r in sorted(rows)] for name, rows in results.items()}


class _Judge:
    """Compares pictures with the inputs, where these are not padding."""

    def __init__(self, passes: Passes) -> None:
        samples, frame = passes.source.samples, passes.source.frame
        pictures = passes.inputs.images(range(len(samples)))
        self.inputs = dict(zip(samples, pictures, strict=True))
        self._areas = [frame.place(int(h), int(w)).area for h, w in samples.sizes]

    def measure(self, seeds: Sequence[Sequence[Pixels]]) -> dict[str, Values]:
        """Measure to (images, seeds), of a result for each image by seed."""
        values = np.array([[self._compare(*pair) for pair in
                            zip(self.inputs.values(), pictures, self._areas, strict=True)]
                           for pictures in seeds])
        return {name: values[..., k].T for k, name in enumerate(MEASURES)}

    @staticmethod
    def _compare(original: Pixels, picture: Pixels,
                 area: tuple[slice, slice]) -> tuple[float, float, float]:
        both = np.stack([original[area], picture[area]])
        a, b = torch.from_numpy(both)
        edges = torch.from_numpy(canny(both, *THRESHOLDS))
        return ssim(a, b), edge_f1(edges[0], edges[1]), psnr(a, b)


def _rows(judge: _Judge, results: Mapping[str, list[Pixels]], combos: Mapping[str, Combo],
          seeds: int) -> list[TriedTechnique]:
    """A row for each combo, the first of which is the reference."""
    rows: list[TriedTechnique] = []
    for name, combo in combos.items():
        images = [results[f"{name} {seed}"] for seed in range(seeds)]
        values, about = judge.measure(images), "none"
        gain = closer = None
        if rows:
            reference, about = rows[0].values, techniques_of(combo)
            gain = _means({m: v - reference[m] for m, v in values.items()})
            closer = 100 * float((values["SSIM"] > reference["SSIM"]).mean())
        pictures = dict(zip(judge.inputs, images[0], strict=True))
        rows.append(TriedTechnique(name.lstrip("@"), about, pictures, values, _means(values),
                                   gain, closer))
    return rows


def _means(measures: Mapping[str, Values]) -> dict[str, Spread]:
    return {name: Spread.of(values.mean(1)) for name, values in measures.items()}


def _json(values: Mapping[str, Spread]) -> dict[str, Any]:
    return {m: {"mean": v.mean, "std": v.std, "interval": list(v.interval)}
            for m, v in values.items()}
