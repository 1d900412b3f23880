"""A loaded model: the modules an extraction needs, on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel

from gate_cache.diffusion.models.conditioning import Call, Extra, Text
from gate_cache.diffusion.passes.noise import add_noise

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.text.tokens import Tokens

T = TypeVar("T")


@dataclass(kw_only=True)
class Backbone(ABC):
    """Modules and constants of one diffusion model: a class after it loads and runs each kind.

    Attributes
    ----------
    unet, vae, text_encoder : modules; None of a kind that the model has not. A diffusion
        transformer is its `unet`
    tokens : the tokenizer
    alphas_cumprod : (T,) float32, ᾱ of the forward process
    prediction_type : what the UNet predicts: ``epsilon``, ``v_prediction`` or ``sample``
    device, dtype : where and in what the modules compute
    controlnet : class of the ControlNets that are made for it
    """

    controlnet: ClassVar[Any] = ControlNetModel

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
    @abstractmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        """Modules and tokenizers by field, as loaded."""

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Its text encoders by the names that LoRA files use; none by default."""
        return {}

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 pixels as x_0: (B, C, h, w) float32 latents, or pixels −1 to 1."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) float32 x_0 as (B, H, W, 3) uint8 pixels."""

    @abstractmethod
    def embed(self, prompt: str) -> Text:
        """Encode one prompt."""

    @staticmethod
    def pixels(values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) values from −1 to 1 as (B, H, W, 3) uint8 pixels; others are clipped."""
        levels = ((values.float() + 1) * 127.5).round().clamp(0, 255)
        return levels.byte().permute(0, 2, 3, 1)

    def place(self, values: Any) -> torch.Tensor:
        """A tensor or an array of this process's memory on the device, which is not waited for."""
        found = torch.as_tensor(values)
        if self.device.type != "cuda":
            return found.to(self.device)
        return found.pin_memory().to(self.device, non_blocking=True)

    def here(self, module: Any) -> Any:
        """A module on the device, which it may have left."""
        return module if self.device.type == "cpu" else module.to(self.device)

    def leave(self, *modules: Any) -> None:
        """Have modules leave the device until they are used again: its memory is for passes."""
        for module in modules if self.device.type != "cpu" else ():
            module.to("cpu")

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 pixels as (B, 3, H, W) float32 from −1 to 1, on the device."""
        return self.place(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    def predict(self, x: torch.Tensor, t: int, text: Text, *extras: Extra | None) -> torch.Tensor:
        """One UNet pass.

        Parameters
        ----------
        x : (B, 4, h, w) noised latents
        t : timestep
        text : B prompts
        extras : of techniques, which add keyword arguments; None adds nothing

        Returns
        -------
        (B, 4, h, w) what the UNet predicts (see `prediction_type`)
        """
        text = self.conditioned(text, x)
        call = Call(x.to(self.dtype), torch.full((), t, device=x.device), text)
        added, more = dict(text.added), dict[str, Any]()
        for extra in extras:
            arguments = dict(extra(call)) if extra else {}
            added |= arguments.pop("added_cond_kwargs", {})
            more |= arguments
        return self.run(call, added, more)

    def conditioned(self, text: Text, x: torch.Tensor) -> Text:
        """Prompts with what else the UNet takes for (B, 4, h, w) `x`."""
        return text

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself, with ``added_cond_kwargs`` and more keyword arguments."""
        return torch.as_tensor(self.unet(
            call.x, call.t, encoder_hidden_states=call.text.states, return_dict=False,
            added_cond_kwargs=added or None, **more)[0])

    def condition(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """What a ControlNet is given of (B, 3, H, W) uint8 control images."""
        return images.to(self.dtype) / 255

    def controlled(self, net: Any, call: Call, condition: torch.Tensor,
                   scale: float) -> dict[str, Any]:
        """What a ControlNet adds to a pass, times `scale`: keyword arguments of the UNet."""
        down, mid = net(
            call.x, call.t, encoder_hidden_states=call.text.states, controlnet_cond=condition,
            conditioning_scale=scale, return_dict=False, added_cond_kwargs=call.text.added or None)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def noised(self, clean: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
        """x_t of x_0 and ε, all (B, 4, h, w) float32."""
        return add_noise(clean, eps, t, self.alphas_cumprod)

    def as_epsilon(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        """What the UNet predicted at (B, 4, h, w) `x`, as noise in float32."""
        output, alpha = predicted.float(), self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return alpha.sqrt() * output + (1 - alpha).sqrt() * x.float()
        if self.prediction_type == "sample":
            return (x.float() - alpha.sqrt() * output) / (1 - alpha).sqrt()
        return output

    def as_clean(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        """The same as x_0, (B, 4, h, w) float32: `x` without the noise that is predicted in it.

        No division where v or x_0 is predicted, so that ᾱ may be 0 (zero terminal SNR, Lin et al.
        2024, section 3.2).
        """
        output, alpha = predicted.float(), self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return alpha.sqrt() * x.float() - (1 - alpha).sqrt() * output
        if self.prediction_type == "sample":
            return output
        return (x.float() - (1 - alpha).sqrt() * output) / alpha.sqrt()

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What several techniques share, made on first use; closed with the model."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    def close(self) -> None:
        """Remove what techniques have put beside the modules."""
        for shared in self._shared.values():
            if hasattr(shared, "close"):
                shared.close()
        self._shared.clear()
