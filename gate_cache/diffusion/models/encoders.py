"""Vision encoders: which transformers of images are read, and their maps. No torch.

A map ``layer3`` is what the fourth block gives at each patch; that of the last block is the model's
last hidden state, behind its final normalisation where it has one (CLIP normalises its class token
alone). ``cls`` is the class token there, as one cell. Registers are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate_cache.core.errors import ModelError, did_you_mean
from gate_cache.core.features import Family, MapSpec
from gate_cache.core.headers import read_config
from gate_cache.diffusion.models.fields import is_number
from gate_cache.diffusion.models.layouts import PROCESSOR


@dataclass(frozen=True)
class EncoderType:
    """One of transformers' vision encoders.

    Attributes
    ----------
    cls : its class
    class_token : whether the first token is one
    resizes : whether its positions are interpolated only where it is asked for
    hidden, patch, registers : what a configuration means that does not say
    """

    cls: str
    class_token: bool = True
    resizes: bool = True
    hidden: int = 768
    patch: int = 16
    registers: int = 0


TYPES = {
    "dinov2": EncoderType("Dinov2Model", resizes=False, patch=14),
    "dinov2_with_registers": EncoderType("Dinov2WithRegistersModel", resizes=False, registers=4),
    "dinov3_vit": EncoderType("DINOv3ViTModel", resizes=False, hidden=384),
    "vit": EncoderType("ViTModel"),
    "vit_mae": EncoderType("ViTMAEModel"),
    "clip_vision_model": EncoderType("CLIPVisionModel", patch=32),
    "siglip_vision_model": EncoderType("SiglipVisionModel", class_token=False),
    "ijepa": EncoderType("IJepaModel", class_token=False),
}
"""By ``model_type``; of a pair of encoders, such as ``clip``, its ``vision_config`` counts."""
LAYERS, SIDE = 12, 224
"""Blocks and input of all these, where a configuration does not say."""


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the encoder itself, with its ``model_type``."""
    inner = config.get("vision_config")
    if not isinstance(inner, Mapping):
        return config
    return {"model_type": f"{config.get('model_type')}_vision_model", **inner}


def encoder_type(config: Mapping[str, Any]) -> EncoderType:
    """What a configuration is of; `ModelError` where that is not read."""
    name = str(vision_config(config).get("model_type"))
    if name not in TYPES:
        raise ModelError(f"a '{name}' of transformers is no vision encoder that is read"
                         f"{did_you_mean(name, TYPES)}; read are {', '.join(TYPES)}")
    return TYPES[name]


def prefix_tokens(config: Mapping[str, Any]) -> int:
    """Tokens before those of the patches: the class token, and registers."""
    kind = encoder_type(config)
    return kind.class_token + _number(config, "num_register_tokens", kind.registers)


def family(config: Mapping[str, Any], _vae: Mapping[str, Any] | None = None) -> Family:
    """The maps of an encoder; by default the last block's, and that at two thirds of the depth.

    Raises
    ------
    ModelError
        It is not one that is read, or takes other than RGB images.
    """
    kind = encoder_type(config)
    width, patch = _number(config, "hidden_size", kind.hidden), _number(
        config, "patch_size", kind.patch)
    count = _number(config, "num_hidden_layers", LAYERS)
    if _number(config, "num_channels", 3) != 3 or not width or not patch or not count:
        raise ModelError("config.json: not that of an encoder of RGB images")
    layers = [MapSpec(f"layer{i}", "conv", width, patch, (f"layer{i}",)) for i in range(count)]
    usual = usual_layers(layers)
    pooled = [MapSpec("cls", "conv", width, patch, ("cls",), grid=1)] if kind.class_token else []
    return Family(
        maps=usual, latent_channels=3, latent_stride=1,
        default_size=_number(config, "image_size", SIDE) // patch * patch,  # SigLIP's 384 by 14
        size_multiple=patch, text=False,
        more=(*(m for m in layers if m not in usual), *pooled))


def usual_layers(layers: Sequence[MapSpec]) -> tuple[MapSpec, ...]:
    """The last one, and that at two thirds of the depth."""
    return tuple(dict.fromkeys((layers[max(2 * len(layers) // 3 - 1, 0)], layers[-1])))


def _number(config: Mapping[str, Any], field: str, usual: int) -> int:
    value = vision_config(config).get(field, usual)
    value = value[0] if isinstance(value, list) and value else value
    if type(value) is not int or value < 0:
        raise ModelError(f"config.json: {field}: {value!r} is not a number")
    return value


def normalisation(folder: Path) -> dict[str, Any]:
    """What a processor makes of levels 0 … 255: times ``scale``, less ``mean``, by ``std``.

    Its resizing and cropping are not read: a manifest's ``model`` says how images become its input.

    Raises
    ------
    ModelError
        There is none, or its numbers are none.
    """
    if "pretrained_cfg" in (own := read_config(folder / "config.json")):  # timm's
        cfg = own["pretrained_cfg"]
        config = {"image_mean": cfg.get("mean"), "image_std": cfg.get("std")}
    else:
        config = read_config(folder / PROCESSOR, "a vision encoder needs its processor's file")
    scale = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    used = config if config.get("do_normalize", True) else plain
    mean, std = (v if isinstance(v, list) else [] for v in map(used.get, plain))
    if not len(mean) == len(std) == 3 or not all(map(is_number, [scale, *mean, *std])) or 0 in std:
        raise ModelError(f"{folder / PROCESSOR}: image_mean, image_std and rescale_factor should"
                         " be three numbers, three that are not 0, and one")
    return {"scale": scale, "mean": mean, "std": std}
