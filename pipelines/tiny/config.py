"""Architecture of ``tiny``, the embedded model: data only.

The same classes as Stable Diffusion 1.x (CLIPTextModel, AutoencoderKL, UNet2DConditionModel with
four up levels and cross-attention in three, ControlNet), at 64 pixels and 16×16 latents.
"""

from __future__ import annotations

from typing import Any

_CHANNELS = (32, 64, 96, 128)
_TEXT_WIDTH = 64

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": _CHANNELS,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": _TEXT_WIDTH,
    "norm_num_groups": 16,
}
CONTROLNET: dict[str, Any] = {
    "in_channels": 4,
    "down_block_types": UNET["down_block_types"],
    "block_out_channels": _CHANNELS,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": _TEXT_WIDTH,
    "norm_num_groups": 16,
    "conditioning_embedding_out_channels": (8, 16, 32),
}
VAE: dict[str, Any] = {
    "block_out_channels": (16, 48, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
}
TEXT: dict[str, Any] = {
    "hidden_size": _TEXT_WIDTH,
    "intermediate_size": 4 * _TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": _TEXT_WIDTH,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
