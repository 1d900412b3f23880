"""A LoCon adapter beside a model, to be trained: attention and convolutions (paper, A.3)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig

from gate_cache.diffusion.passes.noise import generator

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone

NAME = "locon"
UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
        "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
        "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Modules that get a low-rank pair, those of kohya's LoCon; of the others none is changed."""


class Adapter:
    """Low-rank pairs beside the frozen weights of a UNet and a text encoder, in float32.

    Parameters
    ----------
    alpha : the pairs' product is scaled by alpha / rank
    seed : of the first factors; the second ones begin at zero, so that nothing is changed yet
    text : whether the text encoder gets pairs too
    """

    def __init__(self, model: Backbone, rank: int, alpha: float, seed: int, text: bool) -> None:
        self._parts: dict[str, Any] = {"unet": model.unet}
        self._configs = {"unet": _config(rank, alpha, UNET)}
        if text:
            self._parts["text_encoder"] = model.text_encoder
            self._configs["text_encoder"] = _config(rank, alpha, TEXT)
        for part, module in self._parts.items():
            module.add_adapter(LoraConfig(**self._configs[part]), adapter_name=NAME)
            for name, weight in self.parameters(part).items():
                weight.data = _first(name, weight, seed)

    def parameters(self, part: str) -> dict[str, torch.nn.Parameter]:
        """What is trained of ``unet`` or ``text_encoder``, by its key in a LoRA file."""
        if part not in self._parts:
            return {}
        named = self._parts[part].named_parameters()
        return {_key(part, name): weight for name, weight in named if f".{NAME}." in name}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter as a LoRA file in diffusers format holds it: float16, on the CPU."""
        return {name: weight.detach().to("cpu", torch.float16).contiguous()
                for part in self._parts for name, weight in self.parameters(part).items()}

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says of itself; without it, diffusers takes alpha for the rank."""
        packed = {f"{part}.{key}": value for part, config in self._configs.items()
                  for key, value in config.items()}
        return {"format": "pt", "lora_adapter_metadata": json.dumps(packed, sort_keys=True)}


def _config(rank: int, alpha: float, targets: tuple[str, ...]) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": alpha, "target_modules": list(targets)}


def _key(part: str, name: str) -> str:
    """A parameter's key in a file; ``text_model`` is left out by newer transformers only."""
    plain = name.replace(f".{NAME}.", ".")
    flat = part == "text_encoder" and not plain.startswith("text_model.")
    return f"{part}.{'text_model.' if flat else ''}{plain}"


def _first(name: str, weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Where training begins: peft's distribution, drawn by name."""
    if ".lora_B." in name:
        return torch.zeros_like(weight, dtype=torch.float32)
    bound = 1 / math.sqrt(weight[0].numel())
    drawn = torch.rand(weight.shape, generator=generator("lora", seed, name))
    return ((2 * drawn - 1) * bound).to(weight.device)
