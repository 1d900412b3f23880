"""What diffusers' UNets offer: their maps in the order in which they are computed (section 3).

Read from configurations alone. Names are the UNet's own terms, numbered from the input on: levels
``down0`` …, ``mid`` and ``up0`` …, in them residual blocks ``up1.res0`` and transformers
``up1.attn0``, in these the layers' queries, keys and values, feed-forwards and self-attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gate_cache.core.errors import ModelError
from gate_cache.core.features import CELLS, Family, MapSpec
from gate_cache.diffusion.models.fields import by_block


@dataclass(frozen=True)
class _Level:
    """One level of a UNet, or its mid block.

    Attributes
    ----------
    path : of its module
    channels, stride : of its residual blocks
    residual, attentions : how many of each it has
    depth : layers of each of its transformers; empty where they are plain self-attention on pixels
    out : stride of what it gives, behind its down- or up-sampler
    """

    name: str
    path: str
    channels: int
    stride: int
    residual: int
    attentions: int
    depth: tuple[int, ...]
    out: int

    @property
    def output(self) -> MapSpec:
        return MapSpec(self.name, "conv", self.channels, self.out, (self.path,))

    def layers(self) -> Iterator[tuple[str, str]]:
        """Name and path of each layer of its transformers."""
        for i, depth in enumerate(self.depth):
            for k in range(depth):
                inner = f".layer{k}" if depth > 1 else ""
                yield (f"{self.name}.attn{i}{inner}",
                       f"{self.path}.attentions.{i}.transformer_blocks.{k}")

    def inner(self) -> Iterator[MapSpec]:
        """All maps but what it gives, as they are computed."""
        for i in range(self.residual):
            yield self._map(f"{self.name}.res{i}", f"{self.path}.resnets.{i}")
            at = i - 1 if self.name == "mid" else i  # whose attention is between two of them
            if not 0 <= at < self.attentions:
                continue
            name, path = f"{self.name}.attn{at}", f"{self.path}.attentions.{at}"
            if not self.depth:
                yield from self._projected(f"{name}.self", path, "qkv")
            for layer, below in self.layers():
                if below.startswith(f"{path}."):
                    yield from self._layer(layer, below)
            yield self._map(name, path)

    def _layer(self, name: str, path: str) -> Iterator[MapSpec]:
        yield from self._projected(f"{name}.self", f"{path}.attn1", "qkv")
        yield MapSpec(f"{name}.self.map", "conv", CELLS, self.stride, (f"{path}.attn1",), "self")
        yield from self._projected(f"{name}.cross", f"{path}.attn2", "q")
        yield self._map(f"{name}.ff", f"{path}.ff")

    def _projected(self, name: str, path: str, kinds: str) -> Iterator[MapSpec]:
        for kind in kinds:
            yield self._map(f"{name}.{kind}", f"{path}.to_{kind}")

    def _map(self, name: str, path: str) -> MapSpec:
        return MapSpec(name, "conv", self.channels, self.stride, (path,))


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
    stride, latent_channels = latent_of(vae)
    if unet.get("in_channels", latent_channels) != latent_channels:
        raise ModelError(f"a UNet that takes {unet['in_channels']} channels where an image gives"
                         f" {latent_channels}: made for inpainting, depth or upscaling, or with"
                         " another autoencoder; not read")
    levels = list(_levels(unet, stride))
    attention = (_attention(i, level) for i, level in enumerate(_ups(levels)) if level.depth)
    return Family(
        maps=(*(level.output for level in _ups(levels)), *attention),
        more=tuple(m for level in levels for m in (*level.inner(), level.output)
                   if m.name not in {up.name for up in _ups(levels)}),
        latent_channels=latent_channels,
        latent_stride=stride,
        default_size=side_of(unet.get("sample_size")) * stride,
        size_multiple=stride * 2 ** (len(unet["block_out_channels"]) - 1),
        text=vae is not None,
    )


def latent_of(vae: Mapping[str, Any] | None) -> tuple[int, int]:
    """Pixels per cell and channels of an autoencoder's latents, or of pixels without one."""
    if vae is None:
        return 1, 3
    if vae.get("_class_name") == "AutoencoderKLQwenImage":
        _need_lists(vae, "temperal_downsample")
        return 2 ** len(vae["temperal_downsample"]), int(vae.get("z_dim", 16))
    deep = vae.get("_class_name") == "AutoencoderDC"
    blocks = "encoder_block_out_channels" if deep else "block_out_channels"
    _need_lists(vae, blocks)
    return 2 ** (len(vae[blocks]) - 1), int(vae.get("latent_channels", 32 if deep else 4))


def _need_lists(config: Mapping[str, Any], *fields: str) -> None:
    for field in fields:
        if not isinstance(config.get(field), list | tuple):
            raise ModelError(f"a model configuration without '{field}': not a Stable Diffusion"
                             " UNet with its VAE, nor a DDPM")


def side_of(sample: Any) -> int:
    """The published input's side, in cells of the latent."""
    return int((max(sample) if isinstance(sample, list | tuple) else sample) or 64)


def _ups(levels: list[_Level]) -> list[_Level]:
    return [level for level in levels if level.name.startswith("up")]


def _attention(i: int, level: _Level) -> MapSpec:
    """Attention to the text, the mean over a level's layers."""
    return MapSpec(f"attn{i}", "attention", 0, level.stride,
                   tuple(f"{path}.attn2" for _, path in level.layers()), "text")


def cross_attentions(unet: Mapping[str, Any]) -> list[int]:
    """Channels of a UNet's cross-attention layers, in its own order: down, up, mid."""
    levels = sorted(_levels(unet, 1), key=lambda level: level.name == "mid")
    return [level.channels for level in levels for _ in level.layers()]


def _levels(unet: Mapping[str, Any], stride: int) -> Iterator[_Level]:
    """In the order in which they run; as of diffusers' classes where a field is not given."""
    channels = list(unet["block_out_channels"])
    count = len(channels)
    ups, downs = unet["up_block_types"], unet.get("down_block_types", ())
    counts = by_block(unet.get("layers_per_block") or 2, count)
    deep = by_block(unet.get("transformer_layers_per_block") or 1, count)
    deep_up = unet.get("reverse_transformer_layers_per_block") or deep[::-1]
    for i, kind in enumerate(downs):
        out = stride * 2 ** min(i + 1, count - 1)
        yield _level(f"down{i}", f"down_blocks.{i}", kind, channels[i],
                     (stride * 2**i, out), counts[i], deep[i])
    text = unet.get("_class_name") != "UNet2DModel"
    mid = unet.get("mid_block_type", "UNetMidBlock2DCrossAttn" if text else "UNetMidBlock2D")
    if mid:
        attends = mid == "UNetMidBlock2DCrossAttn" if text else unet.get("add_attention", True)
        coarsest = stride * 2 ** (count - 1)
        level = _level("mid", "mid_block", (mid if text else "Attn") * bool(attends), channels[-1],
                       (coarsest, coarsest), 1, deep[-1])
        # diffusers builds the plain one of a text model with a single residual block
        yield replace(level, residual=1 if text and mid == "UNetMidBlock2D" else 2)
    for i, kind in enumerate(ups):
        yield _level(f"up{i}", f"up_blocks.{i}", kind, channels[count - 1 - i],
                     (stride * 2 ** (count - 1 - i), stride * 2 ** max(count - 2 - i, 0)),
                     counts[count - 1 - i] + 1, deep_up[i])


def _level(name: str, path: str, kind: str, channels: int, strides: tuple[int, int], count: int,
           deep: Any) -> _Level:
    attentions = count * ("Attn" in kind)
    depth = tuple(by_block(deep, attentions)) if "CrossAttn" in kind else ()
    return _Level(name, path, channels, strides[0], count, attentions, depth, strides[1])
