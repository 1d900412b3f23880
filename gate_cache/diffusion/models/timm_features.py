"""Models of timm: what their ``features_only`` offers. timm is an extra, ``gate-cache[timm]``.

A folder as on the hub: config.json with ``architecture`` and ``pretrained_cfg``, and the weights as
safetensors. Maps have the names of timm's modules: ``layer3``, ``stages.2``, ``blocks.11``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from gate_cache.core.errors import ModelError, did_you_mean
from gate_cache.core.features import Family, MapSpec
from gate_cache.diffusion.files.timm_hub import library
from gate_cache.diffusion.models.encoders import usual_layers


def created(config: Mapping[str, Any], **more: Any) -> tuple[Any, bool]:
    """A model with features alone, and whether it takes inputs of any size."""
    given, name, timm = config.get("model_args") or {}, str(config["architecture"]), library()
    # A prefix (hf-hub:, local-dir:) or an argument of create_model itself would read other files.
    own = inspect.signature(timm.create_model).parameters.keys() & dict(given).keys()
    if own or not timm.is_model(name):
        raise ModelError(f"model_args: {', '.join(sorted(own))}: not an architecture's" if own else
                         f"architecture: timm {timm.__version__} has no '{name}'"
                         f"{did_you_mean(name, timm.list_models())}")
    arguments = {"features_only": True, **given, **more}
    try:
        try:
            net = timm.create_model(name, dynamic_img_size=True, **arguments)
        except TypeError:  # an argument of ViTs alone
            net = timm.create_model(name, **arguments)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"timm {timm.__version__} makes no features of '{name}': {reason}"
                         ) from error
    free = not config["pretrained_cfg"].get("fixed_input_size")
    return net, free or any(getattr(m, "dynamic_img_size", False) for m in net.modules())


def family(config: Mapping[str, Any], _vae: Mapping[str, Any] | None = None) -> Family:
    """The maps of ``features_only``; by default the last one, and that at two thirds of them.

    Raises
    ------
    ModelError
        timm is not installed, or makes none; or the cells of one are not of whole pixels.
    """
    import torch

    match config["pretrained_cfg"].get("input_size"):
        case [3, *_, int(side)]:
            pass
        case other:
            raise ModelError(f"pretrained_cfg.input_size: {other!r} is not that of RGB images")
    with torch.device("meta"):
        net, free = created(config)
    layers = [MapSpec(f["module"], "conv", f["num_chs"], f["reduction"], (f"feature{i}",))
              for i, f in enumerate(net.feature_info.info)]
    multiple = max(m.stride for m in layers)
    side = side // multiple * multiple
    found = net.eval()(torch.zeros(1, 3, side, side, device="meta"))
    for i, values in zip(net.feature_info.out_indices, found, strict=True):
        if values.numel() != math.prod(layers[i].shape(side)):
            raise ModelError(f"'{config['architecture']}' of timm gives {layers[i].name} as"
                             f" {'×'.join(map(str, values.shape[1:]))} of {side} pixels, not one"
                             f" cell for each {layers[i].stride}; not read")
    usual = usual_layers(layers)
    return Family(
        maps=usual, more=tuple(m for m in layers if m not in usual), latent_channels=3,
        latent_stride=1, default_size=side, text=False, largest=None if free else side,
        size_multiple=multiple if free else side)
