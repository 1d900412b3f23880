"""What a model family offers: names, channels and strides of its feature maps (paper, section 3).

Read from the published configurations alone, so that a plan needs neither weights nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gate_cache.errors import ModelError, did_you_mean

TOKENS_PER_PIECE = 77
Kind = Literal["conv", "attention"]


@dataclass(frozen=True)
class MapSpec:
    """One feature map of one image.

    Attributes
    ----------
    level : up-sampling level it is read from, 0 for the coarsest
    channels : number of channels, or 0 where it is the number of prompt tokens
    stride : input pixels per cell
    """

    kind: Kind
    level: int
    channels: int
    stride: int

    @property
    def name(self) -> str:
        """``up0`` … (output of a level) or ``attn1`` … (its cross-attention)."""
        return f"{'up' if self.kind == 'conv' else 'attn'}{self.level}"

    def shape(self, size: int, tokens: int = 0) -> tuple[int, int, int]:
        """(C, h, w) for a square input of `size` pixels and a prompt of `tokens` tokens."""
        side = size // self.stride
        return (self.channels or tokens, side, side)


@dataclass(frozen=True)
class Family:
    """The layout of one diffusion model: its maps, its latents and its sizes."""

    maps: tuple[MapSpec, ...]
    latent_channels: int
    latent_stride: int
    default_size: int
    size_multiple: int

    def select(self, kind: Kind, names: list[str] | None) -> tuple[MapSpec, ...]:
        """The maps of one kind, all or those named; order is the model's.

        Raises
        ------
        ModelError
            A name the model does not offer.
        """
        offered = {m.name: m for m in self.maps if m.kind == kind}
        for name in names or ():
            if name not in offered:
                raise ModelError(f"this model has no map '{name}'{did_you_mean(name, offered)};"
                                 f" it offers: {', '.join(offered)}")
        return tuple(m for m in offered.values() if names is None or m.name in names)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the VAE's latent for a square input of `size` pixels."""
        side = size // self.latent_stride
        return (self.latent_channels, side, side)

    def check_size(self, size: int, place: str) -> int:
        """Return `size`, or say which sizes the model allows."""
        if size % self.size_multiple:
            near = max(round(size / self.size_multiple), 1) * self.size_multiple
            raise ModelError(f"{place}: {size} is no multiple of {self.size_multiple}, which this"
                             f" model needs; try {near}")
        return size


def family(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Family:
    """Read the layout off a UNet2DConditionModel's and an AutoencoderKL's configuration.

    Raises
    ------
    ModelError
        A configuration without the fields that such models have.
    """
    for config, field in ((unet, "block_out_channels"), (unet, "up_block_types"),
                          (vae, "block_out_channels")):
        if not isinstance(config.get(field), list | tuple):
            raise ModelError(f"a model configuration without '{field}': not a Stable Diffusion"
                             " UNet with its VAE")
    channels = list(reversed(unet["block_out_channels"]))
    levels = len(channels)
    stride = 2 ** (len(vae["block_out_channels"]) - 1)
    maps = [MapSpec("conv", i, c, stride * 2 ** max(levels - 2 - i, 0))
            for i, c in enumerate(channels)]
    maps += [MapSpec("attention", i, 0, stride * 2 ** (levels - 1 - i))
             for i, block in enumerate(unet["up_block_types"]) if "CrossAttn" in block]
    return Family(
        maps=tuple(maps),
        latent_channels=int(vae.get("latent_channels", 4)),
        latent_stride=stride,
        default_size=int(unet.get("sample_size") or 64) * stride,
        size_multiple=stride * 2 ** (levels - 1),
    )


SD1_UNET: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280, 1280],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "sample_size": 64,
}
SD1_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4}


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of one array of `shape`; `dtype` is a numpy name such as ``float16``."""
    return math.prod(shape) * int(dtype.removeprefix("float")) // 8
