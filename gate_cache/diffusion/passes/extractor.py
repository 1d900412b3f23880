"""Images to latents, latents to feature maps: the passes of one lane after the other.

Every pass has the same number of images, the last one filled up by repeating an item, so that a
row's bytes do not depend on its neighbours, on resuming or on the order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from gate_cache.core.memory import fitted, free, is_full
from gate_cache.diffusion.models import loading
from gate_cache.diffusion.models.conditioning import Extra, Text
from gate_cache.diffusion.passes.ensemble import Means
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.mirror import Mirrored
from gate_cache.diffusion.passes.noise import noise
from gate_cache.diffusion.passes.pieces import Piece, Ready, pieces, pooled
from gate_cache.diffusion.passes.shared_encoder import shared_half
from gate_cache.diffusion.passes.tiles import Tiled, cut
from gate_cache.diffusion.techniques.denoise import Walk, ddim

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.diffusion.passes.recipes import PlannedCombo
    from gate_cache.diffusion.passes.schedule import Item, PassGroup
    from gate_cache.diffusion.techniques.base import Images, Inputs, Steering, Use
    from gate_cache.manifest.specs import ModelSpec

CODER_PIXELS = 8 * 512 * 512
"""At a time through the autoencoder, which takes more memory than a pass: two images of 1024."""
KEPT_PROMPTS = 256
"""Embeddings kept at most; with a caption for each image there is no end of them."""


class _Stopped(Exception):
    """Ends a lane's passes before they are read."""


class Extractor:
    """A loaded model and the techniques of a manifest's combos. Use `open_extractor`.

    Parameters
    ----------
    steering : the opened techniques
    batch : images per pass

    Attributes
    ----------
    coder_batch : images per pass of the autoencoder
    halved : hears of each smaller batch that passes go on with when the memory is full; None: that
        is an error
    stopped : whether to end `run` between the steps of denoising
    """

    halved: Callable[[int], object] | None = None
    stopped: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, model: Backbone, steering: dict[Use, Steering], batch: int) -> None:
        self.model = model
        self.batch = self.coder_batch = batch
        self._steering = steering
        self._embeddings: dict[tuple[str, Any], Text] = {}
        self._noise: WeakKeyDictionary[Inputs, dict[tuple[int, int], torch.Tensor]] = \
            WeakKeyDictionary()

    @torch.inference_mode()
    def encode(self, images: Images) -> torch.Tensor:
        """VAE latents x_0.

        Parameters
        ----------
        images : (N, H, W, 3) uint8

        Returns
        -------
        (N, 4, h, w) float32, on the device
        """
        pixels = images.shape[1] * images.shape[2]
        size = max(min(self.coder_batch, CODER_PIXELS // pixels), 1)
        if self.halved is None:
            latents, self.coder_batch = self._encoded(images, size), size
        else:
            latents, self.coder_batch = fitted(size, partial(self._encoded, images))
        return latents

    def _encoded(self, images: Images, size: int) -> torch.Tensor:
        latents = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            index = np.minimum(np.arange(size), len(part) - 1)
            latents.append(self.model.encode(torch.from_numpy(part[index]))[: len(part)])
        return torch.cat(latents).contiguous()

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
        combos. Of an ensemble come the means, and of tiles the whole image's maps.
        """
        inputs, means = self._seen(lane, inputs), Means(lane.common.tiles)
        at, read = 0, dict.fromkeys(lane.tails, 0)
        specs = {reader.combo.name: reader.combo.specs for readers in lane.readers.values()
                 for reader in readers}
        with self._steered(lane):
            while at < len(lane.items):
                try:
                    for ready in self._batch(lane, lane.items[at : at + self.batch], inputs):
                        height, width = ready.x.shape[-2:]
                        with tapped(self.model.unet, lane.specs(ready.tail),
                                    height / width) as taps:
                            maps = taps.read(ready.run)
                        new = slice(read[ready.tail] - at, len(ready.items))
                        items, maps = means.of(ready.tail, ready.items[new],
                                               {name: values[new] for name, values in maps.items()})
                        if lane.common.mirror:
                            maps = {name: values.flip(-1) for name, values in maps.items()}
                        for piece in pieces(lane, ready.tail, items, maps):
                            yield piece._replace(maps=pooled(piece.maps, specs[piece.combo]))
                        read[ready.tail] = max(read[ready.tail], at + len(ready.items))
                    at = min(read.values())
                    continue
                except _Stopped:
                    return
                except RuntimeError as error:
                    if not self._may_halve(error):
                        raise
                self._halve()

    def _may_halve(self, error: RuntimeError) -> bool:
        return self.batch > 1 and self.halved is not None and is_full(error)

    def _halve(self) -> None:
        """Go on with less in the memory: half as many images, and no module that can wait."""
        model = self.model
        self.batch //= 2
        model.leave(*[m for m in (model.vae, *model.text_encoders.values()) if m is not None])
        free()
        if self.halved:
            self.halved(self.batch)

    @contextmanager
    def _steered(self, lane: PassGroup) -> Iterator[None]:
        """What a lane's techniques change of the whole model."""
        with ExitStack() as active:
            for use in lane.common.uses:
                active.enter_context(self._steering[use].active())
            yield

    @torch.inference_mode()
    def ready(self, lane: PassGroup, inputs: Inputs) -> Iterator[Ready]:
        """A lane's last passes, of each batch with every tail; to be run before the next is taken.

        What leads to them, the denoising steps, has run. Where the memory was full, some may come
        again, in a smaller batch.
        """
        inputs, at = self._seen(lane, inputs), 0
        with self._steered(lane):
            while at < len(lane.items):
                items = lane.items[at : at + self.batch]
                try:
                    yield from self._batch(lane, items, inputs)
                    at += len(items)
                    continue
                except RuntimeError as error:
                    if not self._may_halve(error):
                        raise
                self._halve()

    def _batch(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> Iterator[Ready]:
        """One batch through the down half, and then through the rest with every tail."""
        model = self.model
        whole = [*items, *[items[-1]] * (self.batch - len(items))]
        noised, text = self._noised(lane, whole, inputs), self._texts(lane, whole, inputs)
        always = self._extras(lane, lane.common.uses, whole, inputs)
        with shared_half(model.unet) if len(lane.tails) > 1 else nullcontext():
            for tail in lane.tails:
                extras = [*always, *self._extras(lane, tail, whole, inputs)]
                x = self._denoised(lane, noised, text, extras)
                yield Ready(tail, items, x, partial(
                    model.predict, x, lane.common.walk.stop, text, *extras), inputs)

    def _noised(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> torch.Tensor:
        x, walk, tiles = inputs.latents([i.row for i in items]), lane.common.walk, lane.common.tiles
        if walk.noised:
            x = self.model.noised(x, self._drawn(items, inputs, x.shape[1:]), walk.start)
        return x if tiles is None else cut(x, tiles, items)

    def _drawn(self, items: Sequence[Item], inputs: Inputs,
               shape: Sequence[int]) -> torch.Tensor:
        """(B, 4, h, w) float32, ε of each; drawn and brought to the device once an image."""
        known = self._noise.setdefault(inputs, {})
        keys = [(item.seed, item.row) for item in items]
        if new := [key for key in dict.fromkeys(keys) if key not in known]:
            drawn = torch.stack([noise(seed, inputs.id(row), shape) for seed, row in new])
            known |= zip(new, self.model.place(drawn), strict=True)
        return torch.stack([known[key] for key in keys])

    def _denoised(self, lane: PassGroup, x: torch.Tensor, text: Text,
                  extras: Sequence[Extra | None]) -> torch.Tensor:
        walk = lane.common.walk
        if not walk.steps:
            return x
        negative, model = self._negative(walk, len(x), lane.common.uses), self.model

        def predict(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            if self.stopped():
                raise _Stopped
            output = model.predict(x, t, text, *extras).float()
            if negative is not None:  # x_0 and noise are affine in it: guided as they would be
                away = model.predict(x, t, negative, *extras).float()
                output = away + walk.guidance * (output - away)
            return model.as_clean(output, x, t), model.as_epsilon(output, x, t)

        return ddim(x, walk.timesteps(), model.noised, predict)

    def _negative(self, walk: Walk, count: int, uses: tuple[Use, ...]) -> Text | None:
        return Text.joined([self._text(walk.negative, uses)] * count) if walk.guided else None

    def _texts(self, lane: PassGroup, items: Sequence[Item], inputs: Inputs) -> Text:
        prompts = [inputs.prompt(i.row, i.half.prompt) for i in items]
        return Text.joined([self._text(p, lane.common.uses, p != i.half.prompt)
                            for p, i in zip(prompts, items, strict=True)])

    def _text(self, prompt: str, uses: tuple[Use, ...], captioned: bool = False) -> Text:
        """One prompt's embedding; LoRAs change the text encoder, so they are in the key."""
        key = prompt, uses
        if key not in self._embeddings:
            if len(self._embeddings) >= KEPT_PROMPTS:
                self._embeddings.clear()
            self._embeddings[key] = self.model.embed(prompt)
            if not captioned:  # as many as there are images, one by one
                self.model.leave(*self.model.text_encoders.values())
        return self._embeddings[key]

    def _extras(self, lane: PassGroup, uses: Sequence[Use], items: Sequence[Item],
                inputs: Inputs) -> list[Extra | None]:
        rows, tiles = [i.row for i in items], lane.common.tiles
        if tiles is not None:
            inputs, rows = Tiled(inputs, tiles), Tiled.numbers(items)
        return [self._steering[use].batch(inputs, rows) for use in uses]

    def close(self) -> None:
        """Take back what techniques have put beside the model."""
        self.model.close()


def open_extractor(files: ModelFiles, plans: Sequence[PlannedCombo], roots: Roots, batch: int,
                   device: torch.device, spec: ModelSpec) -> Extractor:
    """Load a model with what the techniques of these combos need.

    Parameters
    ----------
    files : the model's
    plans : combos, with their techniques
    roots : folders that techniques' files are looked up in
    batch : images per pass
    device : where the model runs
    spec : the manifest's part on the model; its `dtype` is that of the weights

    Raises
    ------
    ModelError
        Something is missing or does not fit.
    """
    model = loading.load(files, device, getattr(torch, spec.dtype))
    steering: dict[Use, Steering] = {}
    for plan in plans:
        for use, technique in plan.techniques.items():
            if use not in steering:
                steering[use] = technique.open(model, roots)
    loading.faster(model, spec)
    return Extractor(model, steering, batch)
