"""A loaded Stable Diffusion 1.x: the modules an extraction needs, on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from gate_cache.diffusion.sources import ModelFiles
from gate_cache.diffusion.tokens import ClipTokens
from gate_cache.errors import ModelError


@dataclass
class Backbone:
    """Modules and constants of one diffusion model.

    Attributes
    ----------
    alphas_cumprod : (T,) float32, ᾱ of the forward process
    prediction_type : what the UNet predicts, ``epsilon`` for SD 1.x
    controlnets : loaded ControlNets by digest
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokens: ClipTokens
    alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    dtype: torch.dtype
    controlnets: dict[str, Any] = field(default_factory=dict)

    @property
    def scaling_factor(self) -> float:
        """The VAE's scaling of latents."""
        return float(self.vae.config.scaling_factor)


def load(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load a model's modules, in evaluation mode.

    Raises
    ------
    ModelError
        Weights missing or not fitting the configuration.
    """
    _hush()
    unet, vae, text = _folder(files)
    scheduler: Any = DDIMScheduler(**files.schedule())
    for module in (unet, vae, text):
        module.to(device=device, dtype=dtype).requires_grad_(False).eval()
    return Backbone(
        unet=unet, vae=vae, text_encoder=text, tokens=files.tokens,
        alphas_cumprod=scheduler.alphas_cumprod.to(device),
        prediction_type=str(scheduler.config.prediction_type), device=device, dtype=dtype,
    )


def load_controlnet(folder: Path, backbone: Backbone) -> Any:
    """Load a ControlNet beside a backbone."""
    net = _pretrained(ControlNetModel, folder, None, None)
    wanted, got = backbone.unet.config.cross_attention_dim, net.config.cross_attention_dim
    if wanted != got:
        raise ModelError(f"{folder}: this ControlNet is for another model (text width"
                         f" {got}, the UNet's is {wanted})")
    return net.to(device=backbone.device, dtype=backbone.dtype).requires_grad_(False).eval()


def _hush() -> None:
    """Keep the libraries' advice and their own progress bars off the screen."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _folder(files: ModelFiles) -> tuple[Any, Any, Any]:
    path = files.path
    return (
        _pretrained(UNet2DConditionModel, path, "unet", files.variant),
        _pretrained(AutoencoderKL, path, "vae", files.variant),
        _pretrained(CLIPTextModel, path, "text_encoder", files.variant),
    )


def _pretrained(cls: Any, path: Path, subfolder: str | None, variant: str | None) -> Any:
    """Load one module; a weight that the file lacks is refused, never drawn at random."""
    place = path / subfolder if subfolder else path
    try:
        module, info = cls.from_pretrained(
            path, subfolder=subfolder or "", variant=variant, use_safetensors=True,
            local_files_only=True, output_loading_info=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{place}: cannot be loaded as {cls.__name__}: {reason}") from error
    missing = sorted(k for k in info["missing_keys"] if not k.endswith("position_ids"))
    if missing:
        raise ModelError(f"{place}: {len(missing)} weights of {cls.__name__} are not in the file,"
                         f" first '{missing[0]}'; replace the file")
    return module
