"""Small random diffusion transformers in the published layouts, written by diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
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
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
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


LANGUAGE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": T5_WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1}
"""Of small language models."""


def gemma() -> Any:
    return Gemma2Model(Gemma2Config(**LANGUAGE, head_dim=8))


def write_lumina(folder: Path) -> None:
    """Two queries to a key."""
    transformer = Lumina2Transformer2DModel(
        sample_size=16, in_channels=16, hidden_size=64, num_layers=3, num_refiner_layers=1,
        num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 16, 16), cap_feat_dim=T5_WIDTH)
    Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0),
                    small_vae(16, scaling_factor=0.3611, shift_factor=0.1159), gemma(),
                    t5_tokenizer()).save_pretrained(folder)


def write_sana(folder: Path) -> None:
    """As 1.5, whose queries and keys are normed, at 2 pixels a cell."""
    vae = AutoencoderDC(
        latent_channels=32, attention_head_dim=8, encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.41407)
    transformer = SanaTransformer2DModel(
        **HEADS, num_layers=3, num_cross_attention_heads=4, cross_attention_head_dim=8,
        cross_attention_dim=32, caption_channels=T5_WIDTH, sample_size=16, timestep_scale=0.5,
        qk_norm="rms_norm_across_heads")
    scheduler = DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    SanaPipeline(t5_tokenizer(), gemma(), vae, transformer, scheduler).save_pretrained(folder)


def write_qwen(folder: Path) -> None:
    text = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config={**LANGUAGE, "rope_parameters": {
            "rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1000.0}},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                       "out_hidden_size": T5_WIDTH}))
    vae = AutoencoderKLQwenImage(
        base_dim=8, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1 * i for i in range(16)], latents_std=[1 + 0.1 * i for i in range(16)])
    transformer = QwenImageTransformer2DModel(
        **HEADS, num_layers=3, joint_attention_dim=T5_WIDTH, axes_dims_rope=(4, 6, 6))
    QwenImagePipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae, text,
        t5_tokenizer(), transformer).save_pretrained(folder)


def write_z_image(folder: Path) -> None:
    tokenizer = t5_tokenizer()
    tokenizer.chat_template = (
        "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    transformer = ZImageTransformer2DModel(
        dim=48, n_layers=3, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=T5_WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[700, 16, 16])
    ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        small_vae(16, scaling_factor=0.3611, shift_factor=0.1159), Qwen3Model(Qwen3Config(
            **LANGUAGE, head_dim=8)), tokenizer, transformer).save_pretrained(folder)


WRITERS = {"alpha": write_alpha, "sigma": write_sigma, "sd3": write_sd3, "flux": write_flux,
           "schnell": write_schnell, "lumina": write_lumina, "sana": write_sana, "qwen": write_qwen,
           "z-image": write_z_image}


def write_transformer(name: str, folder: Path) -> None:
    """Write a model with random weights, the same each time."""
    torch.manual_seed(0)
    WRITERS[name](folder)
