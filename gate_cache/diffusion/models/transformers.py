"""What diffusers' diffusion transformers offer, read from configurations alone (section 3).

Names are the model's own terms: ``transformer.12.img``, the image's tokens behind a block of
``transformer_blocks`` (of Lumina 2 and Z-Image: of ``layers``), and ``single.3.img``, behind one
of FLUX's ``single_transformer_blocks``.
``.modulated`` are the same tokens as the next block sees them, normed, scaled and shifted by its
AdaLN, without massive channels: raw tokens are useless for matching (DiTF, Gan et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gate_cache.core.errors import ModelError
from gate_cache.core.features import Family, MapSpec
from gate_cache.diffusion.models.layouts import class_of
from gate_cache.diffusion.models.unets import latent_of, side_of

PATCH = 2
"""Cells of the latent a side that make a token, in every family that is read but Sana."""
_ATTENTION = {"PixArtTransformer2DModel": ("attn2", "text", "attn1"),
              "SanaTransformer2DModel": ("attn2", "text", "attn1"),
              "SD3Transformer2DModel": ("attn", "joint", "attn"),
              "FluxTransformer2DModel": ("attn", "joint", "attn"),
              "QwenImageTransformer2DModel": ("attn", "joint", "attn"),
              "Lumina2Transformer2DModel": ("attn", "packed", "attn"),
              "ZImageTransformer2DModel": ("attention", "packed", "attention")}
"""Of a block: the module that attends to text, how that is read, and the image's projections."""
_FOLDED = ("FluxTransformer2DModel", "QwenImageTransformer2DModel")
"""Whose pipelines give a token's cells as channels."""
_NAMES = {"n_layers": "num_layers", "n_heads": "num_attention_heads", "dim": "hidden_size"}
"""Z-Image's own names of fields."""


class _Block(NamedTuple):
    name: str
    path: str
    maps: list[MapSpec]


def family(config: Mapping[str, Any], vae: Mapping[str, Any] | None) -> Family:
    """Read the layout off a transformer's and an AutoencoderKL's configuration.

    Without names a combo has the maps of the middle block.

    Raises
    ------
    ModelError
        Fields are missing, or it takes other latents than an image's.
    """
    name = class_of(config)
    config, packed = {_NAMES.get(k, k): v for k, v in config.items()}, _is_packed(name)
    counts = ("num_layers", "num_attention_heads", "in_channels",
              "hidden_size" if packed else "attention_head_dim")
    if lacking := [f for f in counts if type(config.get(f)) is not int or config[f] < 1]:
        raise ModelError(f"a transformer's configuration without a number of '{lacking[0]}'")
    stride, channels = latent_of(vae)
    side = 1 if name == "SanaTransformer2DModel" else PATCH
    folded = name in _FOLDED
    taken = config["in_channels"] // PATCH**2 if folded else config["in_channels"]
    patch = PATCH if folded else config.get("patch_size", side)
    if (taken, patch) != (channels, side):
        raise ModelError(f"a transformer that takes {taken} channels in patches of {patch} where an"
                         f" image gives {channels} in patches of {side}: made for filling in or"
                         " control, or with another autoencoder; not read")
    blocks = list(_blocks(name, config, stride * side))
    middle = blocks[len(blocks) // 2]
    usual = [m for m in (*middle.maps, *_modulated(blocks, len(blocks) // 2))
             if m.what in ("modulated", "text", "joint", "single", "packed")]
    every = [m for i, block in enumerate(blocks) for m in (*block.maps, *_modulated(blocks, i))]
    most = min(config["axes_lens"][1:]) if packed and config.get("axes_lens") else \
        config.get("pos_embed_max_size")
    return Family(
        maps=tuple(usual), more=tuple(m for m in every if m not in usual),
        latent_channels=channels, latent_stride=stride,
        default_size=side_of(config.get("sample_size") or 1024 // stride) * stride,
        size_multiple=stride * side, largest=most and most * side * stride)


def _is_packed(name: str) -> bool:
    """Whether text and image are one sequence throughout."""
    return _ATTENTION[name][1] == "packed"


def blocks_of(name: str) -> str:
    """The modules that a class's blocks are in."""
    return "layers" if _is_packed(name) else "transformer_blocks"


def _blocks(name: str, config: Mapping[str, Any], stride: int) -> Iterator[_Block]:
    heads = config["num_attention_heads"]
    width = config.get("hidden_size") or heads * config["attention_head_dim"]
    shared = (config.get("num_kv_heads") or heads) * width // heads  # by several queries each
    (attention, what, own), home = _ATTENTION[name], blocks_of(name)

    def conv(name: str, path: str, channels: int = width) -> MapSpec:
        return MapSpec(name, "conv", channels, stride, (path,), "image")

    for i in range(config["num_layers"]):
        name, path = f"transformer.{i}", f"{home}.{i}"
        yield _Block(name, path, [
            *(conv(f"{name}.img.{kind}", f"{path}.{own}.to_{kind}", channels)
              for kind, channels in (("q", width), ("k", shared), ("v", shared))),
            MapSpec(f"{name}.text", "attention", 0, stride, (f"{path}.{attention}",), what),
            conv(f"{name}.img", path)])
    for i in range(config.get("num_single_layers") or 0):
        name, path = f"single.{i}", f"single_transformer_blocks.{i}"
        yield _Block(name, path, [
            MapSpec(f"{name}.text", "attention", 0, stride, (path,), "single"),
            conv(f"{name}.img", path)])


def _modulated(blocks: list[_Block], i: int) -> Iterator[MapSpec]:
    """What the next block sees of a block's tokens; the last one has none."""
    if i + 1 < len(blocks):
        image = blocks[i].maps[-1]
        yield MapSpec(f"{image.name}.modulated", "conv", image.channels, image.stride,
                      (blocks[i + 1].path,), "modulated")
