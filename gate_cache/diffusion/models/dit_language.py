"""Diffusion transformers whose text is a language model's: Lumina Image 2.0 (Qin et al. 2025), Sana
(Xie et al., ICLR 2025), Qwen-Image and Z-Image (both of 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import transformers
from diffusers import (
    FluxPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.conditioning import Text
from gate_cache.diffusion.models.dit import FlowTransformer
from gate_cache.diffusion.models.transformers import PATCH
from gate_cache.diffusion.passes.reads import Packing
from gate_cache.text.t5 import PAD
from gate_cache.text.template import INSTRUCTION

if TYPE_CHECKING:
    from gate_cache.diffusion.models.conditioning import Call

MASK = "encoder_attention_mask"
MULTIPLE = 32
"""Of which Z-Image fills up text and image each, with tokens that are attended to."""


@dataclass(kw_only=True)
class OfLanguage(FlowTransformer):
    """What they share: texts of several lengths in a pass."""

    def _filled(self, prompt: str, states: torch.Tensor) -> Text:
        """(n, D) states of a prompt, filled up.

        Raises
        ------
        ModelError
            There are not as many as the token table has.
        """
        known = len([word for word in self.tokens.encode(prompt).words if word != PAD])
        if len(states) != known:
            raise ModelError(f"prompt '{prompt[:40]}': its pipeline makes {len(states)} tokens of"
                             f" it, and the published model's {known}: another chat template;"
                             " put the tokenizer there that belongs to the model")
        filled = F.pad(states.to(self.dtype), (0, 0, 0, self.length - known))
        seen = torch.arange(self.length, device=filled.device) < known
        return Text(filled[None], {MASK: seen[None]})

    def _packed(self, call: Call, multiple: int = 0) -> Packing:
        """How a pass's tokens lie in its sequences, told to the modules that maps are read from."""
        cells = call.x.shape[2] * call.x.shape[3] // PATCH**2
        packing = Packing(call.text.added[MASK].sum(1).tolist(), cells, self.length, multiple)
        for block in getattr(self.unet, "layers", ()):
            layer = block.attention if hasattr(block, "attention") else block.attn
            for module in (block, layer, layer.to_q, layer.to_k, layer.to_v):
                module.packing = packing
        for block in getattr(self.unet, "transformer_blocks", ()):  # whose image lies apart
            block.attn.packing = packing
        return packing


@dataclass(kw_only=True)
class Lumina2(OfLanguage):
    """A loaded Lumina Image 2.0: Gemma's tokens, then the image's."""

    pipeline = Lumina2Pipeline
    denoiser = Lumina2Transformer2DModel
    filled = transformers.Gemma2Model

    def embed(self, prompt: str) -> Text:
        states, mask, *_ = self._encoded(prompt, do_classifier_free_guidance=False)
        return Text(states.to(self.dtype), {MASK: mask})

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself, with a time of 1 − σ; what it predicts is x_0 − ε."""
        self._packed(call)
        return -torch.as_tensor(self.unet(
            call.x, encoder_hidden_states=call.text.states, timestep=1 - self._time(call) / 1000,
            return_dict=False, **added, **more)[0])


@dataclass(kw_only=True)
class Sana(FlowTransformer):
    """A loaded Sana: Gemma's tokens by cross-attention, latents of 32 pixels a cell."""

    pipeline = SanaPipeline
    denoiser = SanaTransformer2DModel
    filled = transformers.Gemma2Model

    def _coded(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.here(self.vae).encode(pixels).latent)

    def embed(self, prompt: str) -> Text:
        states, mask, *_ = self._encoded(prompt, do_classifier_free_guidance=False,
                                         complex_human_instruction=[INSTRUCTION])
        return Text(states.to(self.dtype), {MASK: mask})

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass; of what predicts variances too, only the mean's prediction."""
        time = self._time(call) * self.unet.config.timestep_scale
        output = self.unet(call.x, encoder_hidden_states=call.text.states, timestep=time,
                           return_dict=False, **added, **more)[0]
        return torch.as_tensor(output[:, :call.x.shape[1]])


@dataclass(kw_only=True)
class QwenImage(OfLanguage):
    """A loaded Qwen-Image: latents in packs of 2×2, Qwen2.5-VL's tokens beside the image's."""

    pipeline = QwenImagePipeline
    denoiser = QwenImageTransformer2DModel
    filled = transformers.Qwen2_5_VLForConditionalGeneration

    def _coded(self, pixels: torch.Tensor) -> torch.Tensor:
        return super()._coded(pixels[:, :, None])[:, :, 0]  # a video of one frame

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return super()._decoded(latents[:, :, None])[:, :, 0]

    def embed(self, prompt: str) -> Text:
        return self._filled(prompt, self._encoded(prompt)[0][0])

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself, of texts as long as the longest."""
        batch, channels, height, width = call.x.shape
        texts = self._packed(call).texts
        longest = max(texts)
        mask = added[MASK][:, :longest] if min(texts) < longest else None
        output = self.unet(
            FluxPipeline._pack_latents(call.x, batch, channels, height, width),
            encoder_hidden_states=call.text.states[:, :longest], encoder_hidden_states_mask=mask,
            timestep=self._time(call).to(self.dtype) / 1000,  # rounded as in the pipeline
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * batch, return_dict=False,
            **more)[0]
        return torch.as_tensor(FluxPipeline._unpack_latents(output, height, width, 1))


@dataclass(kw_only=True)
class ZImage(OfLanguage):
    """A loaded Z-Image: the image's tokens, then Qwen3's, each filled up to a multiple."""

    pipeline = ZImagePipeline
    denoiser = ZImageTransformer2DModel
    filled = transformers.Qwen3Model

    def embed(self, prompt: str) -> Text:
        states, _ = self._encoded(prompt, do_classifier_free_guidance=False)
        return self._filled(prompt, states[0])

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        """The pass itself, with a time of 1 − σ; what it predicts is x_0 − ε."""
        texts = self._packed(call, MULTIPLE).texts
        seen = [of_one[:count] for of_one, count in zip(call.text.states, texts, strict=True)]
        output = self.unet(list(call.x[:, :, None]), 1 - self._time(call) / 1000, seen,
                           return_dict=False, **more)[0]
        return -torch.stack(output)[:, :, 0]
