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
        """The UNet."""
        return {"unet": component(UNet2DModel, files, "unet"), "tokens": files.tokens}

    @property
    def text_encoders(self) -> dict[str, Any]:
        """None."""
        return {}

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 pixels as x_0: (B, 3, H, W) float32 from −1 to 1."""
        return self.scaled(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) from −1 to 1 as (B, H, W, 3) uint8 pixels."""
        return self.pixels(latents)

    def embed(self, prompt: str) -> Text:
        """No text."""
        return Text(torch.empty(1, 0, 0, device=self.device))

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself; of a UNet that learned variances too, only the mean's prediction."""
        found = torch.as_tensor(self.unet(call.x, call.t, return_dict=False, **more)[0])
        return found[:, : call.x.shape[1]]
