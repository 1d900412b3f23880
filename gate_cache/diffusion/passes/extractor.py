"""Images to latents, latents to feature maps: the passes of one lane after the other.

Every pass has the same number of images, the last one filled up by repeating an item, so that a
row's bytes do not depend on its neighbours, on resuming or on the order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from gate_cache.diffusion.models import loading
from gate_cache.diffusion.models.conditioning import Extra, Text
from gate_cache.diffusion.passes.ensemble import Means
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.mirror import Mirrored
from gate_cache.diffusion.passes.noise import add_noise, noise
from gate_cache.diffusion.passes.shared_encoder import shared_half
from gate_cache.diffusion.techniques.denoise import Walk, ddim

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec
    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.diffusion.passes.schedule import Item, PassGroup, Tail
    from gate_cache.diffusion.techniques.base import Floats, Images, Inputs, Steering, Use

KEPT_PROMPTS = 256
"""Embeddings kept at most; with a caption for each image there is no end of them."""


class Piece(NamedTuple):
    """Maps of some rows of a combo: name to (N, C, h, w) float32, on the device."""

    combo: str
    rows: list[int]
    maps: dict[str, torch.Tensor]


class Ready(NamedTuple):
    """A pass that is about to run.

    Attributes
    ----------
    tail : of its lane
    items : its images, behind which the batch is filled up
    x : (B, 4, h, w) float32, noised and, where the lane's walk has steps, denoised
    run : the pass; gives what the UNet predicts, (B, 4, h, w)
    inputs : what it was made from
    """

    tail: Tail
    items: Sequence[Item]
    x: torch.Tensor
    run: Callable[[], torch.Tensor]
    inputs: Inputs


class Extractor:
    """A loaded model and the techniques of a manifest's combos. Use `open_extractor`.

    Parameters
    ----------
    steering : the opened techniques
    batch : images per pass
    """

    def __init__(self, model: Backbone, steering: dict[Use, Steering], batch: int) -> None:
        self.model = model
        self.batch = batch
        self._steering = steering
        self._embeddings: dict[tuple[str, Any], Text] = {}

    @torch.inference_mode()
    def encode(self, images: Images) -> Floats:
        """VAE latents x_0.

        Parameters
        ----------
        images : (N, H, W, 3) uint8

        Returns
        -------
        (N, 4, h, w) float32
        """
        found = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            index = np.minimum(np.arange(self.batch), len(part) - 1)
            latents = self.model.encode(torch.from_numpy(part[index]))
            found.append(latents[: len(part)].cpu().numpy())
        return np.concatenate(found)

    def ahead(self, lane: PassGroup, inputs: Inputs) -> None:
        """Let a lane's techniques prepare its rows on the CPU."""
        rows = list(dict.fromkeys(item.row for item in lane.items))
        for use in sorted({*lane.common.uses, *(use for tail in lane.tails for use in tail)}):
            self._steering[use].ahead(self._seen(lane, inputs), rows)

    def _seen(self, lane: PassGroup, inputs: Inputs) -> Inputs:
        """Inputs as a lane's passes are given them."""
        return Mirrored(inputs, self.encode) if lane.common.mirror else inputs

    @torch.inference_mode()
    def run(self, lane: PassGroup, inputs: Inputs) -> Iterator[Piece]:
        """All that combos read from a lane's passes, as it comes.

        Maps of mirrored images are mirrored back, so that a cell shows the same place in all
        combos. Of an ensemble come the means.
        """
        specs = {reader.combo.name: reader.combo.specs for readers in lane.readers.values()
                 for reader in readers}
        means = Means()
        for ready in self.ready(lane, inputs):
            with tapped(self.model.unet, lane.specs(ready.tail)) as taps:
                maps = taps.read(ready.run)
            if lane.common.mirror:
                maps = {name: values.flip(-1) for name, values in maps.items()}
            found = _pieces(lane, ready.tail, *means.of(ready.tail, ready.items, maps))
            yield from (piece._replace(maps=pooled(piece.maps, specs[piece.combo]))
                        for piece in found)

    @torch.inference_mode()
    def ready(self, lane: PassGroup, inputs: Inputs) -> Iterator[Ready]:
        """A lane's last passes, of each batch with every tail; to be run before the next is taken.

        What leads to them, the denoising steps, has run.
        """
        inputs = self._seen(lane, inputs)
        with ExitStack() as active:
            for use in lane.common.uses:
                active.enter_context(self._steering[use].active())
            for start in range(0, len(lane.items), self.batch):
                yield from self._batch(lane, lane.items[start : start + self.batch], inputs)

    def _batch(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> Iterator[Ready]:
        """One batch through the down half, and then through the rest with every tail."""
        model = self.model
        whole = [*items, *[items[-1]] * (self.batch - len(items))]
        noised, text = self._noised(lane, whole, inputs), self._texts(lane, whole, inputs)
        always = self._extras(lane.common.uses, whole, inputs)
        with shared_half(model.unet) if len(lane.tails) > 1 else nullcontext():
            for tail in lane.tails:
                extras = [*always, *self._extras(tail, whole, inputs)]
                x = self._denoised(lane, noised, text, extras)
                yield Ready(tail, items, x, partial(
                    model.predict, x, lane.common.walk.stop, text, *extras), inputs)

    def _noised(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> torch.Tensor:
        x0 = torch.from_numpy(inputs.latents([i.row for i in items]))
        place = self.model.device
        if not lane.common.walk.noised:
            return x0.to(place)
        eps = torch.stack([noise(i.seed, inputs.id(i.row), x0.shape[1:]) for i in items])
        return add_noise(x0.to(place), eps.to(place), lane.common.walk.start,
                         self.model.alphas_cumprod)

    def _denoised(self, lane: PassGroup, x: torch.Tensor, text: Text,
                  extras: Sequence[Extra | None]) -> torch.Tensor:
        walk = lane.common.walk
        if not walk.steps:
            return x
        negative, model = self._negative(walk, len(x), lane.common.uses), self.model

        def predict(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            found = model.predict(x, t, text, *extras).float()
            if negative is not None:  # x_0 and noise are affine in it: guided as they would be
                away = model.predict(x, t, negative, *extras).float()
                found = away + walk.guidance * (found - away)
            return model.as_clean(found, x, t), model.as_epsilon(found, x, t)

        return ddim(x, walk.timesteps(), model.alphas_cumprod, predict)

    def _negative(self, walk: Walk, count: int, uses: tuple[Use, ...]) -> Text | None:
        return Text.joined([self._text(walk.negative, uses)] * count) if walk.guided else None

    def _texts(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> Text:
        return Text.joined([self._text(inputs.prompt(i.row, i.half.prompt), lane.common.uses)
                            for i in items])

    def _text(self, prompt: str, uses: tuple[Use, ...]) -> Text:
        """One prompt's embedding; LoRAs change the text encoder, so they are in the key."""
        key = prompt, uses
        if key not in self._embeddings:
            if len(self._embeddings) >= KEPT_PROMPTS:
                self._embeddings.clear()
            self._embeddings[key] = self.model.embed(prompt)
        return self._embeddings[key]

    def _extras(self, uses: Sequence[Use], items: Sequence[Item],
                inputs: Inputs) -> list[Extra | None]:
        return [self._steering[use].batch(inputs, [i.row for i in items]) for use in uses]

    def close(self) -> None:
        """Take back what techniques have put beside the model."""
        self.model.close()


def open_extractor(files: ModelFiles, plans: Sequence[PlannedCombo], roots: Roots, batch: int,
                   device: torch.device, dtype: str) -> Extractor:
    """Load a model with what the techniques of these combos need.

    Raises
    ------
    ModelError
        Something is missing or does not fit.
    """
    model = loading.load(files, device, getattr(torch, dtype))
    steering: dict[Use, Steering] = {}
    for plan in plans:
        for use, technique in plan.techniques.items():
            if use not in steering:
                steering[use] = technique.open(model, roots)
    return Extractor(model, steering, batch)


def pooled(maps: dict[str, torch.Tensor], specs: Sequence[MapSpec]) -> dict[str, torch.Tensor]:
    """Maps of one combo, those made smaller that it wants so, in float32.

    Torch's adaptive pooling: cell (i, j) of a grid of g cells a side is of the values from
    ⌊i·h/g⌋ to ⌈(i+1)·h/g⌉, and so in the other direction.
    """
    kinds: dict[str, Callable[..., torch.Tensor]] = {
        "mean": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}
    return {s.name: kinds[s.pool](maps[s.name].float(), s.grid) if s.grid else maps[s.name]
            for s in specs}


def _pieces(lane: PassGroup, tail: Tail, items: Sequence[Item],
            maps: dict[str, torch.Tensor]) -> Iterator[Piece]:
    """What each combo reads from the maps of some images."""
    for half in dict.fromkeys(item.half for item in items):
        for reader in lane.readers[half, tail]:
            places = [i for i, item in enumerate(items)
                      if item.half == half and item.row in reader.rows]
            if places:
                yield Piece(reader.combo.name, [items[i].row for i in places], {
                    s.name: maps[s.name][places] for s in reader.combo.specs})
