"""Small random models in the published layouts: the same block structure, fewer channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.published import published
from gate_cache.text.tokens import EOS, read_tokens

WIDTH, WIDTH_2, POOLED = 32, 48, 24
LONG = "horse car bird " * 40
"""A prompt of more than 75 tokens."""


def small_unet(name: str, **more: Any) -> dict[str, Any]:
    """A published UNet's configuration with fewer channels."""
    config = {**published(name)["unet"], "norm_num_groups": 8, "layers_per_block": 1,
              "sample_size": 16}
    levels = len(config["block_out_channels"])
    config["block_out_channels"] = [32, 64, 128, 128][:levels]
    heads = config["attention_head_dim"]
    config["attention_head_dim"] = [2, 4, 8, 8][:levels] if isinstance(heads, list) else 4
    config["cross_attention_dim"] = WIDTH
    return {**config, **more}


def vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=4,
        latent_channels=4)


def clip(cls: Any, width: int) -> Any:
    tokens = read_tokens(HOME / "tokenizer")
    return cls(CLIPTextConfig(
        vocab_size=len(tokens.vocab), hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=3, num_attention_heads=4, projection_dim=POOLED, hidden_act="gelu",
        bos_token_id=0, eos_token_id=2, pad_token_id=1))


def tokenizer(pad: str = EOS) -> Any:
    tokens = read_tokens(HOME / "tokenizer")
    return CLIPTokenizer(vocab=tokens.vocab, merges=tokens.merges, model_max_length=77,
                         pad_token=pad)


def scheduler(name: str) -> Any:
    return DDIMScheduler(**published(name)["scheduler"], clip_sample=False, steps_offset=1)


def write_sd1(folder: Path) -> None:
    _write_sd(folder, "sd-1.5", EOS)


def write_sd2(folder: Path) -> None:
    """v-prediction, a list of head counts, linear projections, padding with '!'."""
    _write_sd(folder, "sd-2.1", "!")


def _write_sd(folder: Path, name: str, pad: str) -> None:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=vae(), unet=UNet2DConditionModel.from_config(small_unet(name)),
        text_encoder=clip(CLIPTextModel, WIDTH), tokenizer=tokenizer(pad),
        scheduler=scheduler(name), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)


def sdxl_unet() -> Any:
    return UNet2DConditionModel.from_config(small_unet(
        "sdxl-base", cross_attention_dim=WIDTH + WIDTH_2, addition_time_embed_dim=8,
        transformer_layers_per_block=[1, 1, 2],
        projection_class_embeddings_input_dim=POOLED + 6 * 8))


def write_sdxl(folder: Path) -> None:
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=vae(), unet=sdxl_unet(), text_encoder=clip(CLIPTextModel, WIDTH),
        text_encoder_2=clip(CLIPTextModelWithProjection, WIDTH_2), tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"), add_watermarker=False,
        scheduler=scheduler("sdxl-base")).save_pretrained(folder)


def ddpm_unet(**more: Any) -> Any:
    """As google/ddpm-bedroom-256 with fewer levels and channels."""
    return UNet2DModel(**{
        "sample_size": 32, "block_out_channels": (16, 32, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 8,
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, **more})


def write_ddpm(folder: Path, **more: Any) -> None:
    torch.manual_seed(0)
    DDPMPipeline(ddpm_unet(**more), DDPMScheduler()).save_pretrained(folder)


def write_bare_ddpm(folder: Path) -> None:
    """As the first DDPMs were published: the UNet's files beside the scheduler's."""
    torch.manual_seed(0)
    ddpm_unet().save_pretrained(folder)
    DDPMScheduler().save_pretrained(folder)


def write_controlnet(folder: Path, model: Path) -> None:
    """For a model of these, with residuals that are not zero."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 32))
    torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=0.1)
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    net.save_pretrained(folder)


WRITERS = {"sd1": write_sd1, "sd2": write_sd2, "sdxl": write_sdxl, "ddpm": write_ddpm,
           "bare": write_bare_ddpm}
SIZES = {"sd1": 64, "sd2": 64, "sdxl": 64, "ddpm": 32, "bare": 32}
