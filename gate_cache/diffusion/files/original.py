"""Modules from a single file in the original (latent-diffusion) layout, by diffusers' tables.

Every weight must be there and fit, and every tensor of the part be taken. Where a file has averaged
(EMA) weights of the UNet beside the trained ones, those are taken, as in the published diffusers
folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SD_2_TEXT_ENCODER_KEYS_TO_IGNORE,
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.files.control_file import BESIDE, CONTROL
from gate_cache.diffusion.files.unread import SINGLE_FILE, check_read

State = dict[str, torch.Tensor]
_UNET, _VAE = ("model.diffusion_model.", "model_ema."), ("first_stage_model.",)
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
_OF_XL = {f"add_embedding.linear_{i + 1}.{what}": f"label_emb.0.{2 * i}.{what}"
          for i in range(2) for what in ("weight", "bias")}
_COPIED = ("in_proj_weight", "in_proj_bias", "text_projection")
"""OpenCLIP's tensors that are cut up or turned; the others lie where they were read."""


def read_original(cls: Any, file: Path, component: str, config: dict[str, Any]) -> Any:
    """One module of a single file.

    Parameters
    ----------
    cls : the class of diffusers or transformers
    config : its configuration

    Raises
    ------
    ModelError
        Its weights and the file's tensors are not the same, or do not fit the configuration.
    """
    try:
        module = _MAKE.get(component, _text_encoder)(cls, config)
        source, state = _CONVERT.get(component, _converted_text)(file, module, config)
        state = {k: v for k, v in state.items() if v is not None}
        wanted = module.state_dict().keys()
        check_read(file, cls.__name__, wanted - state.keys(),
                   [*(state.keys() - wanted), *_left(source, state)])
        module.load_state_dict(state, strict=False, assign=True)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: cannot be loaded as {cls.__name__}: {reason}") from error
    return module


def _left(source: State, state: State) -> list[str]:
    """Tensors that diffusers' tables have passed over: no weight lies in their memory."""
    used = {v.untyped_storage().data_ptr() for v in state.values()}
    averaged = {k for k in source if k.startswith("model_ema.")}
    return [k for k, v in source.items()
            if v.untyped_storage().data_ptr() not in used and not SINGLE_FILE.fullmatch(k)
            and _averaged_name(k) not in averaged]


def _averaged_name(key: str) -> str:
    return "model_ema." + "".join(key.split(".")[1:])


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


def _converted_unet(file: Path, _module: Any, config: dict[str, Any]) -> tuple[State, State]:
    """Of the original layout, or of a UNet alone in diffusers' own names."""
    if source := _tensors(file, _UNET):
        return source, convert_ldm_unet_checkpoint(source, config, extract_ema=True)
    alone = _tensors(file, ("",))
    return alone, dict(alone)


def _converted_vae(file: Path, _module: Any, config: dict[str, Any]) -> tuple[State, State]:
    source = _tensors(file, _VAE)
    return source, convert_ldm_vae_checkpoint(source, config)


def _converted_controlnet(file: Path, _module: Any, config: dict[str, Any]) -> tuple[State, State]:
    """Of the original layout, as published or without its prefix, or of diffusers' own."""
    source = _tensors(file, ("",))
    if any(k.startswith(CONTROL) for k in source):  # the model it was trained beside may be there
        source = {k: v for k, v in source.items() if not k.startswith(BESIDE)}
    found = convert_controlnet_checkpoint(source, {"layers_per_block": 2, **config})
    plain = {k.removeprefix(CONTROL): v for k, v in source.items()}
    return source, found | {ours: plain[theirs] for ours, theirs in _OF_XL.items()
                            if theirs in plain}  # which diffusers' table lacks


def _converted_text(file: Path, module: Any, _config: dict[str, Any]) -> tuple[State, State]:
    """The first text encoder of 1.x and XL is CLIP's, that of 2.x and XL's second OpenCLIP's."""
    projected = hasattr(module, "text_projection")
    source = {} if projected else _tensors(file, _CLIP)
    if source:
        found = convert_ldm_clip_checkpoint(source)
    else:
        prefix = _OPEN_CLIP[projected]
        source = _tensors(file, (prefix,))
        found = convert_open_clip_checkpoint(module, source, prefix=prefix)
        source = {k: v for k, v in source.items()
                  if not k.endswith(_COPIED) and k not in SD_2_TEXT_ENCODER_KEYS_TO_IGNORE}
    if hasattr(module, "text_model"):
        return source, dict(found)
    return source, {k.removeprefix("text_model."): v for k, v in found.items()}


_MAKE: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "unet": _without_weights, "vae": _without_weights, "controlnet": _without_weights}
_CONVERT: dict[str, Callable[[Path, Any, dict[str, Any]], tuple[State, State]]] = {
    "unet": _converted_unet, "vae": _converted_vae, "controlnet": _converted_controlnet}
