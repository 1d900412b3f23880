"""Modules from a single file in the original (latent-diffusion) layout, by diffusers' tables.

Every weight must be there and fit, and every tensor of the part be taken. Where a file has averaged
(EMA) weights of the UNet beside the trained ones, those are taken, as in the published diffusers
folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import single_file_utils as tables

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.files.control_file import BESIDE, CONTROL
from gate_cache.diffusion.files.tensors import read_safetensors
from gate_cache.diffusion.files.unread import SINGLE_FILE, check_read

State = dict[str, torch.Tensor]
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
    component : ``unet``, ``vae``, ``controlnet``, else a text encoder
    config : its configuration

    Raises
    ------
    ModelError
        Its weights and the file's tensors are not the same, or do not fit the configuration.
    """
    try:
        module = _without_weights(cls, config)
        source, state = _converted(file, component, module, config)
        state = {k: v for k, v in state.items() if v is not None}
        weights = module.state_dict().keys()
        check_read(file, cls.__name__, weights - state.keys(),
                   [*(state.keys() - weights), *_unused(source, state)])
        module.load_state_dict(state, strict=False, assign=True)
    except ModelError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: cannot be loaded as {cls.__name__}: {reason}") from error
    return module


def _unused(source: State, state: State) -> list[str]:
    """Tensors that diffusers' tables have passed over: no weight lies in their memory."""
    # the tables rename, cut and reshape tensors, so names cannot be compared; memory is shared
    used = {v.untyped_storage().data_ptr() for v in state.values()}
    averaged = {k for k in source if k.startswith("model_ema.")}
    return [k for k, v in source.items()
            if v.untyped_storage().data_ptr() not in used and not SINGLE_FILE.fullmatch(k)
            and "model_ema." + "".join(k.split(".")[1:]) not in averaged]


def _without_weights(cls: Any, config: dict[str, Any]) -> Any:
    if not hasattr(cls, "from_config"):  # transformers' text encoders
        return cls(cls.config_class.from_dict(config))
    with torch.device("meta"):
        return cls.from_config(config)


def _converted(file: Path, component: str, module: Any,
               config: dict[str, Any]) -> tuple[State, State]:
    """A component's tensors as in the file, and by the names of diffusers or transformers."""
    if component == "unet":
        if source := read_safetensors(file, "model.diffusion_model.", "model_ema."):
            return source, tables.convert_ldm_unet_checkpoint(source, config, extract_ema=True)
        source = read_safetensors(file)  # a UNet alone, in diffusers' own names
        return source, dict(source)
    if component == "vae":
        source = read_safetensors(file, "first_stage_model.")
        return source, tables.convert_ldm_vae_checkpoint(source, config)
    if component == "controlnet":
        return _converted_controlnet(file, config)
    return _converted_text(file, module)


def _converted_controlnet(file: Path, config: dict[str, Any]) -> tuple[State, State]:
    """Of the original layout, as published or without its prefix, or of diffusers' own."""
    source = read_safetensors(file)
    if any(k.startswith(CONTROL) for k in source):  # the model it was trained beside may be there
        source = {k: v for k, v in source.items() if not k.startswith(BESIDE)}
    state = tables.convert_controlnet_checkpoint(source, {"layers_per_block": 2, **config})
    plain = {k.removeprefix(CONTROL): v for k, v in source.items()}
    return source, state | {ours: plain[theirs] for ours, theirs in _OF_XL.items()
                            if theirs in plain}  # which diffusers' table lacks


def _converted_text(file: Path, module: Any) -> tuple[State, State]:
    """The first text encoder of 1.x and XL is CLIP's, that of 2.x and XL's second OpenCLIP's."""
    projected = hasattr(module, "text_projection")
    source = {} if projected else read_safetensors(file, *_CLIP)
    if source:
        state = tables.convert_ldm_clip_checkpoint(source)
    else:
        prefix = _OPEN_CLIP[projected]
        source = read_safetensors(file, prefix)
        state = tables.convert_open_clip_checkpoint(module, source, prefix=prefix)
        source = {k: v for k, v in source.items()
                  if not k.endswith(_COPIED) and k not in tables.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE}
    if hasattr(module, "text_model"):
        return source, dict(state)
    return source, {k.removeprefix("text_model."): v for k, v in state.items()}
