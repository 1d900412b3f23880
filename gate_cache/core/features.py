"""What a model family offers: names, channels and strides of its feature maps (paper, section 3).

Read from the published configurations alone, so that a plan needs neither weights nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gate_cache.core.errors import ModelError, did_you_mean

TOKENS_PER_PIECE = 77
Kind = Literal["conv", "attention"]
Pool = Literal["mean", "max"]
Pooling = Mapping[str, Mapping[str, Any]]
"""Map name to ``{"grid", "pool"}``: the maps that are made smaller as they are extracted."""
MANTISSA_BITS = {"float16": 10, "float32": 23}
"""Of the dtypes in which numpy and Zarr hold maps as they are."""


@dataclass(frozen=True)
class MapSpec:
    """One feature map of one image.

    Attributes
    ----------
    level : up-sampling level it is read from, 0 for the coarsest
    channels : number of channels, or 0 where it is the number of prompt tokens
    stride : input pixels per cell, before it is made smaller
    grid : cells a side that it is made smaller to, 0 for none
    pool : what is kept of each: the mean or the largest value
    """

    kind: Kind
    level: int
    channels: int
    stride: int
    grid: int = 0
    pool: Pool = "mean"

    @property
    def name(self) -> str:
        """``up0`` … (output of a level) or ``attn1`` … (its cross-attention)."""
        return f"{'up' if self.kind == 'conv' else 'attn'}{self.level}"

    def shape(self, size: int, tokens: int = 0) -> tuple[int, int, int]:
        """(C, h, w) for a square input of `size` pixels and a prompt of `tokens` tokens.

        Raises
        ------
        ModelError
            The map has fewer cells than it is to be made smaller to.
        """
        side = size // self.stride
        if self.grid > side:
            raise ModelError(f"maps: {self.name}: a grid of {self.grid} cells a side, but the map"
                             f" has {side} at {size} pixels")
        side = self.grid or side
        return (self.channels or tokens, side, side)


@dataclass(frozen=True)
class Family:
    """The layout of one diffusion model: its maps, its latents and its sizes.

    Attributes
    ----------
    text : whether it takes prompts
    """

    maps: tuple[MapSpec, ...]
    latent_channels: int
    latent_stride: int
    default_size: int
    size_multiple: int
    text: bool = True

    def select(self, kind: Kind, names: Collection[str] | None,
               pooling: Pooling | None = None) -> tuple[MapSpec, ...]:
        """The maps of one kind, those named or by default; order is the model's.

        By default all, but of attention those of at most half the latent's side, as the released
        code keeps them (16² and 32² of Stable Diffusion 1.5 at 512 pixels); where a model attends
        to its text at the latent's own resolution alone, those.

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
        coarse = {m.name for m in offered.values() if m.stride > self.latent_stride}
        wanted = names or (kind == "attention" and coarse) or offered
        return tuple(replace(m, **(pooling or {}).get(m.name, {})) for m in offered.values()
                     if m.name in wanted)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent (or pixels) for a square input of `size` pixels."""
        side = size // self.latent_stride
        return (self.latent_channels, side, side)

    def check_size(self, size: int, place: str) -> int:
        """Return `size`, or say which sizes the model allows."""
        if size % self.size_multiple:
            near = max(round(size / self.size_multiple), 1) * self.size_multiple
            raise ModelError(f"{place}: {size} is no multiple of {self.size_multiple}, which this"
                             f" model needs; try {near}")
        return size


def family(unet: Mapping[str, Any], vae: Mapping[str, Any] | None) -> Family:
    """Read the layout off a UNet's and an AutoencoderKL's configuration.

    Parameters
    ----------
    vae : None for an unconditional model on pixels (DDPM)

    Raises
    ------
    ModelError
        A configuration without the fields that such models have, or with inputs that no image of
        a data set is.
    """
    _need_lists(unet, "block_out_channels", "up_block_types")
    stride, latent_channels = 1, 3
    if vae is not None:
        _need_lists(vae, "block_out_channels")
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        latent_channels = int(vae.get("latent_channels", 4))
    if unet.get("in_channels", latent_channels) != latent_channels:
        raise ModelError(f"a UNet that takes {unet['in_channels']} channels where an image gives"
                         f" {latent_channels}: made for inpainting, depth or upscaling, or with"
                         " another autoencoder; not read")
    levels = len(unet["block_out_channels"])
    return Family(
        maps=tuple(_maps(unet, stride)),
        latent_channels=latent_channels,
        latent_stride=stride,
        default_size=_side(unet.get("sample_size")) * stride,
        size_multiple=stride * 2 ** (levels - 1),
        text=vae is not None,
    )


def _need_lists(config: Mapping[str, Any], *fields: str) -> None:
    for field in fields:
        if not isinstance(config.get(field), list | tuple):
            raise ModelError(f"a model configuration without '{field}': not a Stable Diffusion"
                             " UNet with its VAE, nor a DDPM")


def _side(sample: Any) -> int:
    """The published input's side, in cells of the latent."""
    return int((max(sample) if isinstance(sample, list | tuple) else sample) or 64)


def _maps(unet: Mapping[str, Any], stride: int) -> Iterator[MapSpec]:
    channels = list(reversed(unet["block_out_channels"]))
    levels = len(channels)
    for i, c in enumerate(channels):
        yield MapSpec("conv", i, c, stride * 2 ** max(levels - 2 - i, 0))
    for i, block in enumerate(unet["up_block_types"]):
        if "CrossAttn" in block:
            yield MapSpec("attention", i, 0, stride * 2 ** (levels - 1 - i))


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of one array of `shape`; `dtype` is a numpy name such as ``float16``."""
    return math.prod(shape) * int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
