"""Stable Diffusion 1.x and 2.x (Rombach et al., CVPR 2022): one text encoder, 4-channel latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel

from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Text
from gate_cache.diffusion.models.modules import component

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles


@dataclass(kw_only=True)
class StableDiffusion(Backbone):
    """A loaded Stable Diffusion 1.x or 2.x."""

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        return {"unet": component(UNet2DConditionModel, files, "unet"),
                "vae": component(AutoencoderKL, files, "vae"),
                "text_encoder": component(CLIPTextModel, files, "text_encoder"),
                "tokens": files.tokens}

    @property
    def text_encoders(self) -> dict[str, Any]:
        return {"text_encoder": self.text_encoder}

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents x_0: the posterior's mean, shifted and scaled as the configuration says."""
        found = self._coded(self.scaled(pixels).to(self.vae.dtype))
        shift, scale = self._latent_scale()
        return torch.as_tensor((found.float() - shift) * scale)

    def _coded(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.here(self.vae).encode(pixels).latent_dist.mode())

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.here(self.vae).decode(latents).sample)

    def _latent_scale(self) -> tuple[Any, Any]:
        """What x_0 is shifted and multiplied by: numbers, or (1, 4, 1, 1) tensors by channel."""
        config = self.vae.config
        shift, scale = float(config.get("shift_factor") or 0), config.get("scaling_factor", 1.0)
        if config.get("latents_mean") is None:
            return shift, scale
        mean, std = (self.place(torch.tensor(v)).view(1, -1, 1, 1)
                     for v in (config.latents_mean, config.latents_std))
        return mean + shift, scale / std

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        shift, scale = self._latent_scale()
        unscaled = latents.to(self.device) / scale + shift
        return self.pixels(self._decoded(unscaled.to(self.vae.dtype)))

    def embed(self, prompt: str) -> Text:
        """Encode one prompt with the text encoder's last hidden state; pieces joined (A.1)."""
        pieces = self.place(torch.tensor(self.tokens.encode(prompt).ids))
        states = self.here(self.text_encoder)(pieces)[0]
        return Text(states.reshape(1, -1, states.shape[-1]).to(self.dtype))
