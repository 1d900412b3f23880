"""``show --activations``: what a model's levels give along one pass (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.core.errors import UserError
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.extraction.passes import Passes, chosen_combos, need_whole, open_passes
from gate_cache.learn.features.pca import ColourPCA
from gate_cache.workspace.pick import pick

if TYPE_CHECKING:
    from gate_cache.workspace.workspace import Workspace

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One activation of a pass.

    Attributes
    ----------
    shape : (C, h, w)
    colours : (h, w, 3), its first three principal components
    """

    shape: tuple[int, ...]
    colours: Pixels

    @classmethod
    def of(cls, values: torch.Tensor) -> Level:
        """Of (C, h, w) values."""
        array = values.float().cpu().numpy()
        return cls(array.shape, ColourPCA(array)(array))


@dataclass(frozen=True)
class Activations:
    """One pass over one image.

    Attributes
    ----------
    t : the time of the pass
    image : (H, W, 3), as the model is given it
    noised : (H, W, 3), x_t decoded
    clean : (H, W, 3), x_0 as predicted by this one pass, decoded
    latents, noise : x_t and the noise predicted in it
    levels : ``down0`` …, ``mid``, ``up0`` …, or a transformer's blocks, in the order of the pass
    """

    id: str
    combo: str
    t: int
    image: Pixels
    noised: Pixels
    clean: Pixels
    latents: Level
    noise: Level
    levels: Mapping[str, Level]


def activations(work: Workspace, images: Sequence[str] = (), combos: Sequence[str] = (),
                ) -> Iterator[Activations]:
    """Run one pass for each image and combo, and keep what every level gives.

    Parameters
    ----------
    work : the manifest, data set and model
    images : ids, or parts of them; by default the first one
    combos : names; by default the first one

    Raises
    ------
    UserError
        No such image or combo, or something of the model is missing.
    """
    need_whole(work)
    every = chosen_combos(work, combos)
    selected = every if combos else dict([next(iter(every.items()))])
    chosen = {n: c.model_copy(update={"ensemble": 1}) if c.ensemble > 1 else c
              for n, c in selected.items()}  # one pass, not the mean of several
    dataset = work.dataset()
    ids = pick([s.id for s in dataset.samples()], images, 1, work.name, "its data set")
    with open_passes(work, chosen, dataset, ids, batch=1) as passes:
        yield from _run(passes)


@torch.inference_mode()
def _run(passes: Passes) -> Iterator[Activations]:
    model = passes.extractor.model
    if not passes.family.levels:
        raise UserError("a vision encoder predicts no noise: 'show' without --activations shows its"
                        " maps")
    for lane in passes.lanes:
        t = lane.common.walk.stop
        for ready in passes.extractor.ready(lane, passes.inputs):
            height, width = ready.x.shape[-2:]
            with tapped(model.unet, passes.family.levels, height / width) as taps:
                predicted = ready.run()
                outputs = taps.take()
            (item,) = ready.items
            clean = model.as_clean(predicted, ready.x, t)
            noised, denoised = (p.cpu().numpy() for p in model.decode(torch.cat([ready.x, clean])))
            noise = model.as_epsilon(predicted, ready.x, t)
            levels = {name: Level.of(values[0]) for name, values in outputs.items()}
            image = ready.inputs.images([item.row])[0]
            for reader in lane.readers[item.half, ready.tail]:
                yield Activations(passes.inputs.id(item.row), reader.combo.name, t, image, noised,
                                  denoised, Level.of(ready.x[0]), Level.of(noise[0]), levels)
