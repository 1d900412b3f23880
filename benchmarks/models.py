"""Stable Diffusion 1.5's architecture with random weights, which a pass's cost does not depend on.

    python -m benchmarks.models FOLDER      writes 2.9 GB in bfloat16
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.text.tokens import BOS, EOS, read_tokens

DTYPE = torch.bfloat16
DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
CHANNELS = (320, 640, 1280, 1280)
UNET: dict[str, Any] = {"sample_size": 64, "block_out_channels": CHANNELS, "down_block_types": DOWN,
                        "cross_attention_dim": 768, "attention_head_dim": 8}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "sample_size": 512}


def write(folder: Path) -> None:
    """Write ``sd15/``, ``canny/`` and two LoRAs in the published layouts."""
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPE)
    unet: Any = UNet2DConditionModel(**UNET)
    AutoencoderKL(**VAE).save_pretrained(folder / "sd15" / "vae")
    net: Any = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(16, 32, 96, 256))
    net.save_pretrained(folder / "canny")
    del net
    for name in ("a", "b"):
        unet.add_adapter(LoraConfig(r=64, lora_alpha=32, init_lora_weights=False, target_modules=[
            "to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]), adapter_name=name)
        state = get_peft_model_state_dict(unet, adapter_name=name)
        save_file({f"unet.{k}": v.contiguous() for k, v in state.items()},
                  folder / f"{name}.safetensors", metadata={"format": "pt"})
        unet.delete_adapters(name)
    unet.unload_lora()
    unet.save_pretrained(folder / "sd15" / "unet")
    tokens = read_tokens(HOME / "tokenizer")
    CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokens.vocab), bos_token_id=tokens.vocab[BOS],
        eos_token_id=tokens.vocab[EOS], hidden_size=768, intermediate_size=3072,
        num_hidden_layers=12, num_attention_heads=12,
    )).save_pretrained(folder / "sd15" / "text_encoder")
    shutil.copytree(HOME / "tokenizer", folder / "sd15" / "tokenizer", dirs_exist_ok=True)
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                  clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(
        folder / "sd15" / "scheduler")
    shutil.copy(HOME / "model_index.json", folder / "sd15")
    torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
