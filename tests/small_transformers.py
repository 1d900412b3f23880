"""Small random diffusion transformers in the published layouts, written by diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from small_models import POOLED, WIDTH, clip, tokenizer
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

T5_WIDTH, T5_WORDS = 24, [chr(i) for i in range(ord("a"), ord("z") + 1)]
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


def small_vae(channels: int, **more: Any) -> Any:
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
        latent_channels=channels, **more)


def t5() -> Any:
    return T5EncoderModel(T5Config(
        vocab_size=40, d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu"))


def t5_tokenizer() -> Any:
    """Of letters, as T5's splits where it knows no word."""
    words = ["<pad>", "</s>", "<unk>", "▁", *T5_WORDS]
    inner = Tokenizer(Unigram([(w, -float(i)) for i, w in enumerate(words)], unk_id=2))
    inner.pre_tokenizer = Metaspace()
    inner.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>",
                                   unk_token="<unk>", model_max_length=512)


def pixart(sample_size: int, **more: Any) -> Any:
    return PixArtTransformer2DModel(**{
        **HEADS, "in_channels": 4, "out_channels": 8, "num_layers": 3, "cross_attention_dim": 32,
        "sample_size": sample_size, "caption_channels": T5_WIDTH, **more})


def write_alpha(folder: Path) -> None:
    """Of 128 cells a side, which takes resolution and aspect."""
    transformer = pixart(128, num_attention_heads=3, cross_attention_dim=48)
    PixArtAlphaPipeline(t5_tokenizer(), t5(), small_vae(4), transformer,
                        DDIMScheduler()).save_pretrained(folder)


def write_sigma(folder: Path) -> None:
    PixArtSigmaPipeline(t5_tokenizer(), t5(), small_vae(4),
                        pixart(16, use_additional_conditions=False),
                        DDIMScheduler()).save_pretrained(folder)


def write_sd3(folder: Path) -> None:
    """As 3.5 medium: query and key are normed, and the first block attends twice."""
    transformer = SD3Transformer2DModel(
        **HEADS, sample_size=16, in_channels=16, out_channels=16, num_layers=3,
        joint_attention_dim=T5_WIDTH + WIDTH + WIDTH, caption_projection_dim=32,
        pooled_projection_dim=2 * POOLED, pos_embed_max_size=24, dual_attention_layers=(0,),
        qk_norm="rms_norm")
    wide = T5EncoderModel(T5Config(vocab_size=40, d_model=T5_WIDTH + WIDTH + WIDTH, d_kv=8, d_ff=32,
                                   num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"))
    StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0),
        small_vae(16, scaling_factor=1.5305, shift_factor=0.0609),
        clip(CLIPTextModelWithProjection, WIDTH), tokenizer(),
        clip(CLIPTextModelWithProjection, WIDTH), tokenizer("!"), wide,
        t5_tokenizer()).save_pretrained(folder)


def write_flux(folder: Path, guided: bool = True) -> None:
    transformer = FluxTransformer2DModel(
        **HEADS, in_channels=64, num_layers=2, num_single_layers=3, joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=WIDTH, guidance_embeds=guided, axes_dims_rope=(4, 6, 6))
    FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        small_vae(16, scaling_factor=0.3611, shift_factor=0.1159), clip(CLIPTextModel, WIDTH),
        tokenizer(), t5(), t5_tokenizer(), transformer).save_pretrained(folder)


def write_schnell(folder: Path) -> None:
    write_flux(folder, guided=False)


def write_lumina(folder: Path) -> None:
    """Two queries to a key."""
    gemma = Gemma2Model(Gemma2Config(
        vocab_size=40, hidden_size=T5_WIDTH, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1))
    transformer = Lumina2Transformer2DModel(
        sample_size=16, in_channels=16, hidden_size=64, num_layers=3, num_refiner_layers=1,
        num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 16, 16), cap_feat_dim=T5_WIDTH)
    Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0),
                    small_vae(16, scaling_factor=0.3611, shift_factor=0.1159), gemma,
                    t5_tokenizer()).save_pretrained(folder)


WRITERS = {"alpha": write_alpha, "sigma": write_sigma, "sd3": write_sd3, "flux": write_flux,
           "schnell": write_schnell, "lumina": write_lumina}


def write_transformer(name: str, folder: Path) -> None:
    """Write a model with random weights, the same each time."""
    torch.manual_seed(0)
    WRITERS[name](folder)
