"""A loaded Stable Diffusion 1.x: the modules an extraction needs, on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from gate_cache.diffusion.sources import ModelFiles
from gate_cache.diffusion.techniques.base import Call, Extra
from gate_cache.diffusion.tokens import ClipTokens
from gate_cache.errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True)
class Text:
    """Prompts as the UNet takes them.

    Attributes
    ----------
    states : (B, T, D) text encoder states
    added : more of them by name, each (B, …), for ``added_cond_kwargs``
    """

    states: torch.Tensor
    added: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def joined(cls, texts: Sequence[Text]) -> Text:
        """Several batches as one."""
        added = {k: torch.cat([text.added[k] for text in texts]) for k in texts[0].added}
        return cls(torch.cat([text.states for text in texts]), added)


@dataclass
class Backbone:
    """Modules and constants of one diffusion model.

    Attributes
    ----------
    alphas_cumprod : (T,) float32, ᾱ of the forward process
    prediction_type : what the UNet predicts, ``epsilon`` for SD 1.x
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokens: ClipTokens
    alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    dtype: torch.dtype
    _shared: dict[object, Any] = field(default_factory=dict)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents x_0: the posterior's mean, times the scaling factor.

        Parameters
        ----------
        pixels : (B, H, W, 3) uint8 tensor

        Returns
        -------
        (B, 4, h, w) float32 tensor
        """
        scaled = pixels.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = self.vae.encode(scaled.to(self.dtype)).latent_dist
        return torch.as_tensor(posterior.mode().float() * float(self.vae.config.scaling_factor))

    def embed(self, prompt: str) -> Text:
        """Encode one prompt with the text encoder's last hidden state; pieces joined (A.1)."""
        pieces = torch.tensor(self.tokens.encode(prompt).ids, device=self.device)
        states = self.text_encoder(pieces)[0]
        return Text(states.reshape(1, -1, states.shape[-1]).to(self.dtype))

    def predict(self, x: torch.Tensor, t: int, text: Text, *extras: Extra | None) -> torch.Tensor:
        """One UNet pass: what it predicts at (B, 4, h, w) `x`."""
        call = Call(x.to(self.dtype), torch.tensor(t, device=x.device), text)
        added, more = dict(text.added), dict[str, Any]()
        for extra in extras:
            found = dict(extra(call)) if extra else {}
            added |= found.pop("added_cond_kwargs", {})
            more |= found
        return torch.as_tensor(self.unet(
            call.x, call.t, encoder_hidden_states=text.states, return_dict=False,
            added_cond_kwargs=added or None, **more)[0])

    def epsilon(self, x: torch.Tensor, t: int, text: Text, *extras: Extra | None) -> torch.Tensor:
        """The noise that one UNet pass predicts, (B, 4, h, w) float32."""
        found = self.predict(x, t, text, *extras).float()
        if self.prediction_type == "v_prediction":
            alpha = self.alphas_cumprod[t]
            return alpha.sqrt() * found + (1 - alpha).sqrt() * x.float()
        return found

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What several techniques share, made on first use; closed with the model."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    def close(self) -> None:
        """Take back what techniques have put beside the modules."""
        for shared in self._shared.values():
            if hasattr(shared, "close"):
                shared.close()
        self._shared.clear()


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
    net = pretrained(ControlNetModel, folder, None, None)
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
        pretrained(UNet2DConditionModel, path, "unet", files.variant),
        pretrained(AutoencoderKL, path, "vae", files.variant),
        pretrained(CLIPTextModel, path, "text_encoder", files.variant),
    )


def pretrained(cls: Any, path: Path, subfolder: str | None, variant: str | None) -> Any:
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
