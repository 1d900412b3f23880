"""Modules from a single file in the original (latent-diffusion) layout, by diffusers' tables.

Every weight must be there and fit; none is drawn at random. Where a file has averaged (EMA) weights
of the UNet beside the trained ones, those are taken, as in the published diffusers folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open

from gate_cache.core.errors import ModelError

State = dict[str, torch.Tensor]
_UNET, _VAE = ("model.diffusion_model.", "model_ema."), ("first_stage_model.",)
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")


def read_original(cls: Any, file: Path, component: str, config: dict[str, Any]) -> Any:
    """One module of a single file.

    Parameters
    ----------
    cls : the class of diffusers or transformers
    config : its configuration

    Raises
    ------
    ModelError
        Not all of its weights are in the file, or they do not fit the configuration.
    """
    try:
        module = _MAKE.get(component, _text_encoder)(cls, config)
        state = _CONVERT.get(component, _converted_text)(file, module, config)
        if missing := sorted(module.state_dict().keys() - state.keys()):
            raise ModelError(f"{file}: {len(missing)} weights of {cls.__name__} are not in the"
                             f" file, first '{missing[0]}'; does its configuration belong to it?")
        module.load_state_dict(state, strict=False, assign=True)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: cannot be loaded as {cls.__name__}: {reason}") from error
    return module


def _tensors(file: Path, prefixes: tuple[str, ...]) -> State:
    try:
        with safe_open(file, "pt") as tensors:
            return {k: tensors.get_tensor(k) for k in tensors.keys()  # noqa: SIM118
                    if k.startswith(prefixes)}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a safetensors file ({error})") from None


def _without_weights(cls: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return cls.from_config(config)


def _text_encoder(cls: Any, config: dict[str, Any]) -> Any:
    return cls(cls.config_class.from_dict(config))


def _converted_unet(file: Path, _module: Any, config: dict[str, Any]) -> State:
    found: State = convert_ldm_unet_checkpoint(_tensors(file, _UNET), config, extract_ema=True)
    return found


def _converted_vae(file: Path, _module: Any, config: dict[str, Any]) -> State:
    found: State = convert_ldm_vae_checkpoint(_tensors(file, _VAE), config)
    return found


def _converted_text(file: Path, module: Any, _config: dict[str, Any]) -> State:
    """The first text encoder of 1.x and XL is CLIP's, that of 2.x and XL's second OpenCLIP's."""
    projected = hasattr(module, "text_projection")
    state = {} if projected else _tensors(file, _CLIP)
    if state:
        found = convert_ldm_clip_checkpoint(state)
    else:
        prefix = _OPEN_CLIP[projected]
        found = convert_open_clip_checkpoint(module, _tensors(file, (prefix,)), prefix=prefix)
    if hasattr(module, "text_model"):
        return dict(found)
    return {k.removeprefix("text_model."): v for k, v in found.items()}


_MAKE: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "unet": _without_weights, "vae": _without_weights}
_CONVERT: dict[str, Callable[[Path, Any, dict[str, Any]], State]] = {
    "unet": _converted_unet, "vae": _converted_vae}
