"""``tiny``, the embedded model, built in code with random weights drawn from names.

Each weight comes from a generator seeded by its own name, so that it depends neither on the order
of construction nor on a library's initialisation.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from gate_cache.diffusion import tiny_config as config
from gate_cache.diffusion.tokens import BOS, EOS, tiny_tokens


def unet() -> Any:
    """The UNet: four up levels, cross-attention in three."""
    return _drawn("unet", UNet2DConditionModel(**config.UNET))


def vae() -> Any:
    """The autoencoder: 64 pixels to 16×16×4."""
    return _drawn("vae", AutoencoderKL(**config.VAE))


def controlnet() -> Any:
    """A ControlNet whose zero convolutions are not zero, so that it has an effect."""
    return _drawn("controlnet", ControlNetModel(**config.CONTROLNET))


def text_encoder() -> Any:
    """The CLIP text encoder over the small vocabulary."""
    vocab = tiny_tokens().vocab
    text = CLIPTextConfig(vocab_size=len(vocab), bos_token_id=vocab[BOS], eos_token_id=vocab[EOS],
                          pad_token_id=vocab[EOS], **config.TEXT)
    return _drawn("text_encoder", CLIPTextModel(text))


def lora(name: str, base: Any) -> dict[str, torch.Tensor]:
    """A LoRA (convolutions included) for `base`, the UNet, in diffusers' format."""
    rank = config.LORAS[name]
    state: dict[str, torch.Tensor] = {}
    for path, module in base.named_modules():
        if not path.endswith(config.LORA["targets"]):
            continue
        out, into, *kernel = module.weight.shape
        shape_a, shape_b = (rank, into, *kernel), (out, rank, *[1] * len(kernel))
        key = f"unet.{path}"
        state[f"{key}.lora_A.weight"] = _draw(f"{name}/{key}/A", shape_a)
        state[f"{key}.lora_B.weight"] = _draw(f"{name}/{key}/B", shape_b) * config.LORA["strength"]
    return state


def _drawn(component: str, module: torch.nn.Module) -> torch.nn.Module:
    """Fill a module: matrices and kernels from their names, norms and biases as they are meant."""
    state = module.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.ndim >= 2:
            state[name] = _draw(f"{component}/{name}", tuple(value.shape))
        elif name.endswith("weight"):
            state[name] = torch.ones_like(value)
        else:
            state[name] = torch.zeros_like(value)
    module.load_state_dict(state)
    return module.eval()


def _draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Gaussian with variance 1 / fan-in."""
    seed = hashlib.sha256(f"{config.VERSION}/{name}".encode()).digest()[:8]
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    std = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32) * np.float32(std))
