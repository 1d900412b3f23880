"""Diffusion transformers: PixArt-α and Σ (Chen et al. 2024), Stable Diffusion 3 and 3.5 (Esser et
al. 2024), and FLUX.1. Text is encoded, and latents are packed, by diffusers' own pipelines.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import diffusers
import torch
import transformers
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from gate_cache.diffusion.models.conditioning import Call, Text
from gate_cache.diffusion.models.modules import component
from gate_cache.diffusion.models.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles

GUIDANCE = 3.5
"""That FLUX.1 dev is conditioned on, as its pipeline does by default."""


@dataclass(kw_only=True)
class DiffusionTransformer(StableDiffusion):
    """A loaded transformer with its autoencoder and text encoders.

    Attributes
    ----------
    encoders, tokenizers : by the pipeline's names for them
    length : tokens of the text that is always filled up
    filled : class of the text encoder of that text
    """

    encoders: dict[str, Any]
    tokenizers: dict[str, Any]
    length: int
    pipeline: ClassVar[Any]
    denoiser: ClassVar[Any]
    filled: ClassVar[Any] = transformers.T5EncoderModel

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        kind = files.kind
        encoders = {name: component(cls.filled if name == kind.t5[0] else _clip(files, name), files,
                                    name) for name in kind.encoders}
        tokenizers = {name: transformers.AutoTokenizer.from_pretrained(
            files.path / name, local_files_only=True) for name in kind.tokenizers}
        vae = component(getattr(diffusers, kind.coder), files, "vae")
        return {"unet": component(cls.denoiser, files, kind.denoiser), "length": kind.t5[1],
                "vae": vae, "tokens": files.tokens,
                "encoders": encoders, "tokenizers": tokenizers}

    def __post_init__(self) -> None:
        for module in self.encoders.values():  # which go to the device when there is a text
            module.to(self.dtype).requires_grad_(False).eval()
            for name, layer in module.named_modules():
                if name.endswith("DenseReluDense.wo"):  # T5's overflow in float16
                    layer.float()

    @property
    def text_encoders(self) -> dict[str, Any]:
        return self.encoders

    @cached_property
    def _encoding(self) -> Any:
        """The pipeline, of which only text is asked."""
        return self.pipeline(transformer=None, vae=None, scheduler=None, **self.encoders,
                             **self.tokenizers)

    def _encoded(self, prompt: str, **more: Any) -> tuple[Any, ...]:
        self.tokens.encode(prompt)  # refuses what the pipeline would cut off
        for module in self.encoders.values():
            self.here(module)
        found: tuple[Any, ...] = self._encoding.encode_prompt(
            prompt, device=self.device, max_sequence_length=self.length, **more)
        return found

    @abstractmethod
    def embed(self, prompt: str) -> Text:
        """Encode one prompt as the pipeline does."""


def _clip(files: ModelFiles, name: str) -> Any:
    named = files.config(name).get("architectures") or ["CLIPTextModel"]
    return transformers.CLIPTextModelWithProjection if "Projection" in named[0] else \
        transformers.CLIPTextModel


@dataclass(kw_only=True)
class PixArt(DiffusionTransformer):
    """A loaded PixArt: noise as of Stable Diffusion, text by cross-attention."""

    pipeline = PixArtSigmaPipeline
    denoiser = PixArtTransformer2DModel

    def embed(self, prompt: str) -> Text:
        states, mask, *_ = self._encoded(prompt, do_classifier_free_guidance=False)
        return Text(states.to(self.dtype), {"encoder_attention_mask": mask})

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass; of what predicts variances too, only the mean's prediction."""
        batch, channels = call.x.shape[:2]
        size: tuple[Any, ...] = None, None
        if self.unet.use_additional_conditions:
            stride = 2 ** (len(self.vae.config.block_out_channels) - 1)
            height, width = (float(side * stride) for side in call.x.shape[-2:])
            size = tuple(self.place(torch.tensor(values, dtype=self.dtype)).expand(
                batch, -1) for values in ([height, width], [height / width]))
        output = self.unet(
            call.x, encoder_hidden_states=call.text.states, timestep=call.t.expand(batch),
            encoder_attention_mask=added["encoder_attention_mask"], return_dict=False,
            added_cond_kwargs=dict(zip(("resolution", "aspect_ratio"), size, strict=True)), **more)
        return torch.as_tensor(output[0][:, :channels])


@dataclass(kw_only=True)
class FlowTransformer(DiffusionTransformer):
    """A transformer of flow matching: x_t = (1 − σ)·x_0 + σ·ε, and ε − x_0 is predicted.

    Attributes
    ----------
    sigmas : (T,) float32, σ of each t, from the least noisy on
    """

    sigmas: torch.Tensor
    alphas_cumprod: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def noised(self, clean: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
        return (1 - self.sigmas[t]) * clean + self.sigmas[t] * eps

    def as_epsilon(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        return x.float() + (1 - self.sigmas[t]) * predicted.float()

    def as_clean(self, predicted: torch.Tensor, x: torch.Tensor, t: int) -> torch.Tensor:
        return x.float() - self.sigmas[t] * predicted.float()

    def _time(self, call: Call) -> torch.Tensor:
        """(B,) 1000·σ of a pass."""
        sigma = self.sigmas.index_select(0, call.t.reshape(1))  # sigmas[t] waits for the device
        return 1000 * sigma.expand(len(call.x))

    def condition(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        """Latents of control images: the posterior's mean, where pipelines draw from it."""
        return self.encode(images.permute(0, 2, 3, 1)).to(self.dtype)


@dataclass(kw_only=True)
class StableDiffusion3(FlowTransformer):
    """A loaded Stable Diffusion 3 or 3.5: tokens of two CLIPs, then T5's, beside the image's."""

    pipeline = StableDiffusion3Pipeline
    denoiser = SD3Transformer2DModel
    controlnet = SD3ControlNetModel

    def embed(self, prompt: str) -> Text:
        states, _, pooled, _ = self._encoded(prompt, prompt_2=None, prompt_3=None,
                                             do_classifier_free_guidance=False)
        return Text(states.to(self.dtype), {"pooled_projections": pooled.to(self.dtype)})

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself."""
        return torch.as_tensor(self.unet(
            call.x, encoder_hidden_states=call.text.states, timestep=self._time(call),
            return_dict=False, **added, **more)[0])

    def condition(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        latents = super().condition(net, images)
        if net.config.force_zeros_for_pooled_projection:  # InstantX's, which shift no latents
            shift, scale = self._latent_scale()
            return torch.as_tensor(latents + shift * scale)
        return latents

    def controlled(self, net: Any, call: Call, condition: torch.Tensor,
                   scale: float) -> dict[str, Any]:
        pooled = call.text.added["pooled_projections"]
        if net.config.force_zeros_for_pooled_projection:
            pooled = torch.zeros_like(pooled)
        samples = net(call.x, controlnet_cond=condition, conditioning_scale=scale,
                      encoder_hidden_states=call.text.states, pooled_projections=pooled,
                      timestep=self._time(call), return_dict=False)[0]
        return {"block_controlnet_hidden_states": samples}


@dataclass(kw_only=True)
class Flux(FlowTransformer):
    """A loaded FLUX.1: latents in packs of 2×2, T5's tokens beside the image's, CLIP's pooled.

    Attributes
    ----------
    places : ids of the image's tokens, by height and width of the latents
    """

    pipeline = FluxPipeline
    denoiser = FluxTransformer2DModel
    controlnet = FluxControlNetModel
    places: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def embed(self, prompt: str) -> Text:
        states, pooled, _ = self._encoded(prompt, prompt_2=None)
        return Text(states.to(self.dtype), {"pooled_projections": pooled.to(self.dtype)})

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself; one that was distilled from guidance is conditioned on `GUIDANCE`."""
        output = self.unet(**{**self._given(self.unet, call), **added}, **more)[0]
        return torch.as_tensor(FluxPipeline._unpack_latents(output, *call.x.shape[2:], 1))

    def _given(self, module: Any, call: Call) -> dict[str, Any]:
        """What the transformer, or a ControlNet, is given."""
        batch, channels, height, width = call.x.shape
        guidance = torch.full((batch,), GUIDANCE, device=call.x.device) \
            if module.config.guidance_embeds else None
        if (ids := self.places.get((height, width))) is None:  # made on the CPU: once
            ids = self.places[height, width] = FluxPipeline._prepare_latent_image_ids(
                batch, height // 2, width // 2, call.x.device, self.dtype)
        return {"hidden_states": FluxPipeline._pack_latents(call.x, batch, channels, height, width),
                "encoder_hidden_states": call.text.states, "guidance": guidance, "img_ids": ids,
                "timestep": self._time(call).to(self.dtype) / 1000,  # rounded as in the pipeline
                "txt_ids": ids.new_zeros(call.text.states.shape[1], 3), "return_dict": False,
                **call.text.added}

    def condition(self, net: Any, images: torch.Tensor) -> torch.Tensor:
        latents = super().condition(net, images)
        return torch.as_tensor(FluxPipeline._pack_latents(latents, *latents.shape))

    def controlled(self, net: Any, call: Call, condition: torch.Tensor,
                   scale: float) -> dict[str, Any]:
        double, single = net(controlnet_cond=condition, conditioning_scale=scale,
                             **self._given(net, call))
        return {"controlnet_block_samples": double, "controlnet_single_block_samples": single}


def sigmas_of(schedule: dict[str, Any]) -> torch.Tensor:
    """(T,) float32, σ of each t = 0, 1 …: the scheduler's own, from the least noisy on."""
    fields = {k: v for k, v in schedule.items() if k != "prediction_type"}
    return torch.as_tensor(FlowMatchEulerDiscreteScheduler(**fields).sigmas.flip(0))
