"""Modules of diffusers and transformers from files: every tensor is read, none drawn at random."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.files.original import read_original
from gate_cache.diffusion.files.unread import check_read

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.sources import ModelFiles


def component(cls: Any, files: ModelFiles, name: str) -> Any:
    """Load one module of a model."""
    if file := files.alone(name):
        module = read_original(cls, file, name, files.config(name))
        need_finite(file, module.named_parameters())
        return module
    return pretrained(cls, files.folder(name), files.variant)


def need_finite(place: Path, weights: Iterable[tuple[str, Any]]) -> None:
    """Raise `ModelError` if weights are not finite: attention may hide that, but maps differ."""
    for name, weight in weights:
        if weight.numel() and not all(map(math.isfinite, weight.detach().float().aminmax())):
            raise ModelError(f"{place}: '{name}' holds NaN or infinity; get the file again")


def pretrained(cls: Any, place: Path, variant: str | None, **more: Any) -> Any:
    """Load one module from its folder: every tensor is read, and none is drawn at random.

    Parameters
    ----------
    cls, place, variant : its class, its folder, and which of the weights there
    **more : arguments of the class itself

    Raises
    ------
    ModelError
        It cannot be loaded, or file and model do not hold the same tensors.
    """
    try:
        module, info = cls.from_pretrained(
            place, variant=variant, use_safetensors=True, local_files_only=True,
            ignore_mismatched_sizes=True, output_loading_info=True, **more)  # refused below
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{place}: cannot be loaded as {cls.__name__}: {reason}") from error
    if info["mismatched_keys"]:
        name, got, expected = sorted(info["mismatched_keys"])[0]
        raise ModelError(f"{place}: {len(info['mismatched_keys'])} weights are not of the shapes"
                         f" that the configuration of {cls.__name__} says: '{name}' is"
                         f" {'×'.join(map(str, got))}, not {'×'.join(map(str, expected))}")
    check_read(place, cls.__name__, info["missing_keys"], info["unexpected_keys"])
    need_finite(place, module.named_parameters())
    return module


def load_controlnet(place: Path, backbone: Backbone, config: dict[str, Any] | None = None,
                    variant: str | None = None) -> Any:
    """Load a ControlNet onto a backbone's device, in its dtype.

    Parameters
    ----------
    place : its folder in diffusers layout, or a single file, which needs `config`
    backbone : the loaded model
    config : the ControlNet's configuration; of a folder, that in it is read
    variant : of the weight files in the folder, such as ``fp16``
    """
    if place.is_file():
        net = read_original(backbone.controlnet, place, "controlnet", config or {})
        need_finite(place, net.named_parameters())
    else:
        net = pretrained(backbone.controlnet, place, variant)
    return net.to(device=backbone.device, dtype=backbone.dtype).requires_grad_(False).eval()
