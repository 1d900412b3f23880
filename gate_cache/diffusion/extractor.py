"""Images to latents, latents to feature maps: the passes of one lane after the other.

Every pass has the same number of images, the last one filled up by repeating an item, so that a
row's bytes do not depend on its neighbours, on resuming or on the order of work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.diffusion import backbone as backbones
from gate_cache.diffusion.halves import shared_half
from gate_cache.diffusion.noise import add_noise, noise
from gate_cache.diffusion.recipes import PlannedCombo, controlnet_folder, lora_file
from gate_cache.diffusion.schedule import Item, Lane, Tail
from gate_cache.diffusion.sources import ModelFiles
from gate_cache.diffusion.taps import tapped
from gate_cache.diffusion.techniques.controlnet import Control
from gate_cache.diffusion.techniques.denoise import ddim, timesteps
from gate_cache.diffusion.techniques.lora import Loras
from gate_cache.diffusion.techniques.prompt import embed
from gate_cache.errors import ModelError
from gate_cache.roots import Roots

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Inputs(Protocol):
    """What passes need of a store's rows."""

    def id(self, row: int) -> str:
        """The sample's id: it decides the noise."""

    def latents(self, rows: Sequence[int]) -> Floats:
        """(N, 4, h, w) float32, x_0."""

    def edges(self, rows: Sequence[int], low: int, high: int) -> Images:
        """(N, H, W) uint8 Canny maps at the model's size."""


class Piece(NamedTuple):
    """Maps of some rows of a combo: name to (N, C, h, w) float32."""

    combo: str
    rows: list[int]
    maps: dict[str, Floats]


class Extractor:
    """A loaded model and the techniques of a manifest's combos. Use `open_extractor`.

    Parameters
    ----------
    batch : images per pass
    """

    def __init__(self, backbone: backbones.Backbone, loras: Loras, batch: int) -> None:
        self.backbone = backbone
        self.batch = batch
        self._loras = loras
        self._embeddings: dict[tuple[str, Any], torch.Tensor] = {}

    @torch.inference_mode()
    def encode(self, images: Images) -> Floats:
        """VAE latents x_0: the posterior's mean, times the scaling factor.

        Parameters
        ----------
        images : (N, H, W, 3) uint8

        Returns
        -------
        (N, 4, h, w) float32
        """
        model = self.backbone
        found = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            index = np.minimum(np.arange(self.batch), len(part) - 1)
            pixels = torch.from_numpy(part[index]).to(model.device).permute(0, 3, 1, 2)
            scaled = (pixels.float() / 127.5 - 1).to(model.dtype)
            latents = model.vae.encode(scaled).latent_dist.mode().float() * model.scaling_factor
            found.append(latents[: len(part)].cpu().numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def run(self, lane: Lane, inputs: Inputs) -> Iterator[Piece]:
        """All that combos read from a lane's passes, as it comes."""
        with self._loras.active(lane.weights.loras):
            for start in range(0, len(lane.items), self.batch):
                yield from self._pass(lane, lane.items[start : start + self.batch], inputs)

    def _pass(self, lane: Lane, items: Sequence[Item], inputs: Inputs) -> list[Piece]:
        """One batch through the down half, and then through the rest with every tail."""
        unet, found = self.backbone.unet, list[Piece]()
        whole = [*items, *[items[-1]] * (self.batch - len(items))]
        noised, text = self._noised(lane, whole, inputs), self._texts(lane, whole)
        with shared_half(unet) if len(lane.tails) > 1 else nullcontext():
            for tail in lane.tails:
                control = self._control(tail, whole, inputs)
                x = self._denoised(lane, noised, text, control)
                with tapped(unet, lane.specs(tail)) as taps:
                    maps = taps.read(partial(self._unet, x, lane.weights.times[1], text, control))
                found += _pieces(lane, tail, items, maps)
        return found

    def _noised(self, lane: Lane, items: Sequence[Item], inputs: Inputs) -> torch.Tensor:
        x0 = torch.from_numpy(inputs.latents([i.row for i in items]))
        eps = torch.stack([noise(i.half.seed, inputs.id(i.row), x0.shape[1:]) for i in items])
        place = self.backbone.device
        return add_noise(x0.to(place), eps.to(place), lane.weights.times[0],
                         self.backbone.alphas_cumprod)

    def _denoised(self, lane: Lane, x: torch.Tensor, text: torch.Tensor,
                  control: Control | None) -> torch.Tensor:
        start, stop, steps = lane.weights.times
        if not steps:
            return x
        return ddim(x, timesteps(start, stop, steps), self.backbone.alphas_cumprod,
                    lambda x, t: self._unet(x, t, text, control))

    def _unet(self, x: torch.Tensor, t: int, text: torch.Tensor,
              control: Control | None) -> torch.Tensor:
        x, time = x.to(self.backbone.dtype), torch.tensor(t, device=x.device)
        extra = control.residuals(x, time, text) if control else {}
        return torch.as_tensor(self.backbone.unet(
            x, time, encoder_hidden_states=text, return_dict=False, **extra)[0])

    def _texts(self, lane: Lane, items: Sequence[Item]) -> torch.Tensor:
        """(B, T, D) text embeddings; LoRAs change the text encoder, so they are in the key."""
        found = []
        for item in items:
            key = item.half.prompt, lane.weights.loras
            if key not in self._embeddings:
                self._embeddings[key] = embed(self.backbone, item.half.prompt)
            found.append(self._embeddings[key])
        return torch.cat(found)

    def _control(self, tail: Tail, items: Sequence[Item], inputs: Inputs) -> Control | None:
        if not tail.net:
            return None
        edges = inputs.edges([i.row for i in items], tail.low, tail.high)
        return Control(self.backbone, self.backbone.controlnets[tail.net], edges, tail.scale)

    def close(self) -> None:
        """Take the adapters out of the model."""
        self._loras.unload()


def open_extractor(files: ModelFiles, plans: Sequence[PlannedCombo], roots: Roots, batch: int,
                   device: torch.device, dtype: str) -> Extractor:
    """Load a model with the ControlNets and LoRAs that these combos need.

    Raises
    ------
    ModelError
        Something is missing or does not fit.
    """
    model = backbones.load(files, device, getattr(torch, dtype))
    loras = Loras(model)
    for plan in plans:
        _check(plan, model)
        weights = plan.recipe["weights"]
        if plan.combo.controlnet and weights["controlnet"] not in model.controlnets:
            folder = controlnet_folder(plan.name, plan.combo.controlnet, roots)
            model.controlnets[weights["controlnet"]] = backbones.load_controlnet(folder, model)
        for lora, digest in zip(plan.combo.lora, weights.get("lora", ()), strict=True):
            loras.load(digest, lora.source, lora_file(plan.name, lora, roots))
    return Extractor(model, loras, batch)


def _check(plan: PlannedCombo, model: backbones.Backbone) -> None:
    if plan.combo.denoise and model.prediction_type != "epsilon":
        raise ModelError(f"{plan.name}.denoise: needs a model that predicts epsilon, this one"
                         f" predicts {model.prediction_type}")


def _pieces(lane: Lane, tail: Tail, items: Sequence[Item],
            maps: dict[str, torch.Tensor]) -> Iterator[Piece]:
    """What each combo reads from one pass."""
    for half in dict.fromkeys(item.half for item in items):
        for reader in lane.readers[half, tail]:
            places = [i for i, item in enumerate(items)
                      if item.half == half and item.row in reader.rows]
            if places:
                yield Piece(reader.combo.name, [items[i].row for i in places], {
                    s.name: maps[s.name][places].cpu().numpy() for s in reader.combo.specs})
