"""Unconditional DDPM (Ho et al. 2020): a UNet on pixels; no text, no autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Call, Text
from gate_cache.diffusion.models.modules import component

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles


@dataclass(kw_only=True)
class DDPMBackbone(Backbone):
    """A loaded DDPM."""

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        return {"unet": component(UNet2DModel, files, "unet"), "tokens": files.tokens}

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scaled(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.pixels(latents)

    def embed(self, prompt: str) -> Text:
        return Text(torch.empty(1, 0, 0, device=self.device))

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself; of a UNet that learned variances too, only the mean's prediction."""
        output = torch.as_tensor(self.unet(call.x, call.t, return_dict=False, **more)[0])
        return output[:, : call.x.shape[1]]
