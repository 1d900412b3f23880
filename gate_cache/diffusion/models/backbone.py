"""A loaded model: the modules an extraction needs, on one device.

Here for Stable Diffusion 1.x and 2.x; other kinds are in `gate_cache.diffusion.families`.
"""

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

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.fitting import check_parts
from gate_cache.diffusion.models.original import read_original
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.models.unread import check_read
from gate_cache.diffusion.techniques.base import Call, Extra
from gate_cache.diffusion.text.tokens import Tokens

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


@dataclass(kw_only=True)
class Backbone:
    """Modules and constants of one diffusion model, a Stable Diffusion 1.x or 2.x.

    Attributes
    ----------
    vae, text_encoder : None for a model that has none
    alphas_cumprod : (T,) float32, ᾱ of the forward process
    prediction_type : what the UNet predicts, ``epsilon`` for SD 1.x
    """

    unet: Any
    vae: Any = None
    text_encoder: Any = None
    tokens: Tokens
    alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    dtype: torch.dtype
    _shared: dict[object, Any] = field(default_factory=dict)

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        """Modules and tokenizers by field, as loaded."""
        return {"unet": component(UNet2DConditionModel, files, "unet"),
                "vae": component(AutoencoderKL, files, "vae"),
                "text_encoder": component(CLIPTextModel, files, "text_encoder"),
                "tokens": files.tokens}

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Its text encoders by the names that LoRA files use."""
        return {"text_encoder": self.text_encoder}

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents x_0: the posterior's mean, shifted and scaled as the configuration says.

        Parameters
        ----------
        pixels : (B, H, W, 3) uint8 tensor

        Returns
        -------
        (B, 4, h, w) float32 tensor
        """
        posterior = self.vae.encode(self.scaled(pixels).to(self.vae.dtype)).latent_dist
        shift, scale = self._latent_scale()
        return torch.as_tensor((posterior.mode().float() - shift) * scale)

    def _latent_scale(self) -> tuple[Any, Any]:
        """What x_0 is shifted and multiplied by: numbers, or (1, 4, 1, 1) tensors by channel."""
        config = self.vae.config
        shift, scale = float(config.shift_factor or 0), float(config.scaling_factor)
        if config.latents_mean is None:
            return shift, scale
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1)
                     for v in (config.latents_mean, config.latents_std))
        return mean + shift, scale / std

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures of latents: what `encode` came from, as far as the autoencoder keeps it.

        Parameters
        ----------
        latents : (B, 4, h, w) float32 tensor

        Returns
        -------
        (B, H, W, 3) uint8 tensor
        """
        shift, scale = self._latent_scale()
        unscaled = latents.to(self.device) / scale + shift
        return self.pixels(self.vae.decode(unscaled.to(self.vae.dtype)).sample)

    @staticmethod
    def pixels(values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) values from −1 to 1 as (B, H, W, 3) uint8 pixels; what is beyond is cut."""
        shown = ((values.float() + 1) * 127.5).round().clamp(0, 255)
        return shown.byte().permute(0, 2, 3, 1)

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 pixels as (B, 3, H, W) float32 from −1 to 1, on the device."""
        return pixels.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def embed(self, prompt: str) -> Text:
        """Encode one prompt with the text encoder's last hidden state; pieces joined (A.1)."""
        pieces = torch.tensor(self.tokens.encode(prompt).ids, device=self.device)
        states = self.text_encoder(pieces)[0]
        return Text(states.reshape(1, -1, states.shape[-1]).to(self.dtype))

    def predict(self, x: torch.Tensor, t: int, text: Text, *extras: Extra | None) -> torch.Tensor:
        """One UNet pass: what it predicts at (B, 4, h, w) `x`."""
        text = self.conditioned(text, x)
        call = Call(x.to(self.dtype), torch.tensor(t, device=x.device), text)
        added, more = dict(text.added), dict[str, Any]()
        for extra in extras:
            found = dict(extra(call)) if extra else {}
            added |= found.pop("added_cond_kwargs", {})
            more |= found
        return self.run(call, added, more)

    def conditioned(self, text: Text, x: torch.Tensor) -> Text:
        """Prompts with what else the UNet is told of (B, 4, h, w) `x`."""
        return text

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself, with ``added_cond_kwargs`` and more keyword arguments."""
        return torch.as_tensor(self.unet(
            call.x, call.t, encoder_hidden_states=call.text.states, return_dict=False,
            added_cond_kwargs=added or None, **more)[0])

    def as_epsilon(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        """What the UNet predicted at (B, 4, h, w) `x`, as noise in float32."""
        found, alpha = predicted.float(), self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return alpha.sqrt() * found + (1 - alpha).sqrt() * x.float()
        if self.prediction_type == "sample":
            return (x.float() - alpha.sqrt() * found) / (1 - alpha).sqrt()
        return found

    def as_clean(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        """The same as x_0, (B, 4, h, w) float32: `x` without the noise that is predicted in it.

        No division where v or x_0 is predicted, so that ᾱ may be 0 (zero terminal SNR, Lin et al.
        2024, section 3.2).
        """
        found, alpha = predicted.float(), self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return alpha.sqrt() * x.float() - (1 - alpha).sqrt() * found
        if self.prediction_type == "sample":
            return found
        return (x.float() - (1 - alpha).sqrt() * found) / alpha.sqrt()

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
    from gate_cache.diffusion.models.families import FAMILIES

    _hush()
    check_parts(files)
    kind = files.kind
    family = kind.backbone() if kind.backbone else FAMILIES[kind]
    parts = family.parts(files)
    vae_dtype = getattr(torch, files.latents_dtype(str(dtype).removeprefix("torch.")))
    for name, module in parts.items():
        if isinstance(module, torch.nn.Module):
            wanted = vae_dtype if name == "vae" else dtype
            module.to(device=device, dtype=wanted).requires_grad_(False).eval()
    return family(**parts, **_schedule(files, device), device=device, dtype=dtype)


def _schedule(files: ModelFiles, device: torch.device) -> dict[str, Any]:
    """ᾱ and what is predicted."""
    try:
        scheduler: Any = DDIMScheduler(**files.schedule())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"{files.source}: a schedule that is not read ({error})") from None
    return {"alphas_cumprod": scheduler.alphas_cumprod.to(device),
            "prediction_type": str(scheduler.config.prediction_type)}


def load_controlnet(place: Path, backbone: Backbone, config: dict[str, Any] | None = None,
                    variant: str | None = None) -> Any:
    """Load a ControlNet beside a backbone.

    Parameters
    ----------
    place : its folder in diffusers layout, or a single file, which needs `config`
    """
    net = read_original(ControlNetModel, place, "controlnet", config or {}) if place.is_file() \
        else pretrained(ControlNetModel, place, variant)
    return net.to(device=backbone.device, dtype=backbone.dtype).requires_grad_(False).eval()


def _hush() -> None:
    """Keep the libraries' advice and their own progress bars off the screen."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def component(cls: Any, files: ModelFiles, name: str) -> Any:
    """Load one module of a model."""
    if files.file:
        return read_original(cls, files.file, name, files.config(name))
    return pretrained(cls, files.folder(name), files.variant)


def pretrained(cls: Any, place: Path, variant: str | None) -> Any:
    """Load one module from its folder: every tensor is read, and none is drawn at random.

    Raises
    ------
    ModelError
        It cannot be loaded, or file and model do not hold the same tensors.
    """
    try:
        module, info = cls.from_pretrained(
            place, variant=variant, use_safetensors=True, local_files_only=True,
            ignore_mismatched_sizes=True, output_loading_info=True)  # the next line refuses them
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{place}: cannot be loaded as {cls.__name__}: {reason}") from error
    if info["mismatched_keys"]:
        name, got, wanted = sorted(info["mismatched_keys"])[0]
        raise ModelError(f"{place}: {len(info['mismatched_keys'])} weights are not of the shapes"
                         f" that the configuration of {cls.__name__} says: '{name}' is"
                         f" {'×'.join(map(str, got))}, not {'×'.join(map(str, wanted))}")
    check_read(place, cls.__name__, info["missing_keys"], info["unexpected_keys"])
    return module
