"""Images to latents, latents to feature maps: the passes of one combo over any number of rows.

Every pass has the same number of images, the last one filled up by repeating a row, so that a
row's bytes do not depend on its neighbours, on resuming or on the order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.diffusion import backbone as backbones
from gate_cache.diffusion.noise import add_noise
from gate_cache.diffusion.recipes import PlannedCombo, controlnet_folder, lora_file
from gate_cache.diffusion.sources import ModelFiles
from gate_cache.diffusion.taps import tapped
from gate_cache.diffusion.techniques.controlnet import Control, canny
from gate_cache.diffusion.techniques.denoise import ddim, timesteps
from gate_cache.diffusion.techniques.lora import Loras
from gate_cache.diffusion.techniques.prompt import embed
from gate_cache.errors import ModelError
from gate_cache.roots import Roots

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


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
        self._embeddings: dict[str, torch.Tensor] = {}

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
        for index, count in _passes(len(images), self.batch):
            pixels = torch.from_numpy(images[index]).to(model.device).permute(0, 3, 1, 2)
            scaled = (pixels.float() / 127.5 - 1).to(model.dtype)
            latents = model.vae.encode(scaled).latent_dist.mode().float() * model.scaling_factor
            found.append(latents[:count].cpu().numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def maps(self, plan: PlannedCombo, ids: Sequence[str], latents: Floats,
             images: Images | None,
             each: Callable[[int], None] = lambda _: None) -> dict[str, Floats]:
        """All maps of one combo.

        Parameters
        ----------
        plan : the combo
        ids : N sample ids (they decide the noise)
        latents : (N, 4, h, w) float32, x_0
        images : (N, H, W, 3) uint8; only a combo with ControlNet needs them
        each : called with the number of images after every pass

        Returns
        -------
        dict from map name to (N, C, h, w) float32
        """
        found: dict[str, list[Any]] = {name: [] for name in plan.shapes}
        with self._loras.active(_wanted_loras(plan)):
            text = self._text(plan)
            for index, count in _passes(len(ids), self.batch):
                x0 = torch.from_numpy(latents[index]).to(self.backbone.device)
                control = self._control(plan, images, index)
                taken = self._pass(plan, [ids[i] for i in index], x0, text, control)
                for name, value in taken.items():
                    found[name].append(value[:count].cpu().numpy())
                each(count)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _pass(self, plan: PlannedCombo, ids: list[str], x0: torch.Tensor, text: torch.Tensor,
              control: Control | None) -> dict[str, torch.Tensor]:
        combo, model = plan.combo, self.backbone
        start = combo.denoise.start if combo.denoise else combo.t
        states = text.expand(len(ids), -1, -1)
        x = add_noise(x0, ids, combo.seed, start, model.alphas_cumprod)

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            return self._unet(x, t, states, control)

        if combo.denoise:
            times = timesteps(start, combo.t, combo.denoise.steps)
            x = ddim(x, times, model.alphas_cumprod, predict)
        with tapped(model.unet, plan.specs) as taps:
            return taps.read(lambda: predict(x, combo.t))

    def _unet(self, x: torch.Tensor, t: int, text: torch.Tensor,
              control: Control | None) -> torch.Tensor:
        x, time = x.to(self.backbone.dtype), torch.tensor(t, device=x.device)
        extra = control.residuals(x, time, text) if control else {}
        return torch.as_tensor(self.backbone.unet(
            x, time, encoder_hidden_states=text, return_dict=False, **extra)[0])

    def _text(self, plan: PlannedCombo) -> torch.Tensor:
        """The combo's text embedding; LoRAs change the text encoder, so they are in the key."""
        key = f"{plan.combo.prompt}\n{_wanted_loras(plan)}"
        if key not in self._embeddings:
            self._embeddings[key] = embed(self.backbone, plan.combo.prompt)
        return self._embeddings[key]

    def _control(self, plan: PlannedCombo, images: Images | None,
                 index: npt.NDArray[np.int64]) -> Control | None:
        spec = plan.combo.controlnet
        if spec is None:
            return None
        assert images is not None, "a combo with ControlNet needs the images"
        edges = canny(images[index], spec.low, spec.high)
        net = self.backbone.controlnets[plan.recipe["weights"]["controlnet"]]
        return Control(self.backbone, net, edges, spec.scale)

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


def _wanted_loras(plan: PlannedCombo) -> list[tuple[str, float]]:
    digests = plan.recipe["weights"].get("lora", [])
    return [(d, lora.scale) for d, lora in zip(digests, plan.combo.lora, strict=True)]


def _passes(rows: int, batch: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Row indices of each pass, always `batch` long, and how many of them count."""
    for start in range(0, rows, batch):
        count = min(batch, rows - start)
        yield np.minimum(np.arange(start, start + batch), rows - 1), count
