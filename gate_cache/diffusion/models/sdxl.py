"""Stable Diffusion XL: two text encoders, and a UNet that also takes the input's size.

The states are the penultimate ones of both encoders, side by side; the pooled embedding is the
second's (Podell et al. 2023, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import CLIPTextModelWithProjection

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.conditioning import Text
from gate_cache.diffusion.models.modules import component
from gate_cache.diffusion.models.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.text.tokens import Tokens


@dataclass(kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """A loaded Stable Diffusion XL (base)."""

    text_encoder_2: Any
    tokens_2: Tokens

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        return {**super().parts(files), "tokens_2": files.tokenizers[1],
                "text_encoder_2": component(CLIPTextModelWithProjection, files, "text_encoder_2")}

    @property
    def text_encoders(self) -> dict[str, Any]:
        return {**super().text_encoders, "text_encoder_2": self.text_encoder_2}

    def embed(self, prompt: str) -> Text:
        """Encode one prompt; pieces joined (A.1), pooled is the first piece."""
        first = self._encoded(self.text_encoder, self.tokens, prompt)
        second = self._encoded(self.text_encoder_2, self.tokens_2, prompt)
        if len(first.last_hidden_state) != len(second.last_hidden_state):
            raise ModelError(f"'{prompt[:60]}…' is longer than 75 tokens for one of XL's tokenizers"
                             " and not for the other (which takes every '!' for one); shorten it")
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        pooled = second.text_embeds[:1].to(self.dtype)
        return Text(states.reshape(1, -1, states.shape[-1]).to(self.dtype),
                    {"text_embeds": pooled})

    def _encoded(self, encoder: Any, tokens: Tokens, prompt: str) -> Any:
        pieces = self.place(torch.tensor(tokens.encode(prompt).ids))
        return self.here(encoder)(pieces, output_hidden_states=True)

    def conditioned(self, text: Text, x: torch.Tensor) -> Text:
        """Prompts with the time ids (H, W, 0, 0, H, W): an original of this size, not cropped."""
        stride = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = (int(side) * stride for side in x.shape[-2:])
        ids = self.once(("time ids", height, width), lambda: self.place(
            torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype)))
        return Text(text.states, {**text.added, "time_ids": ids.expand(len(x), -1)})
