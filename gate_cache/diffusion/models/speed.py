"""What makes passes faster, where a manifest asks for it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import ModelError

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.manifest.specs import ModelSpec


def faster(model: Backbone, spec: ModelSpec) -> None:
    """Have a loaded model compute as its section of the manifest says, from now on.

    Whether NVIDIA's GPUs compute float32 in TF32 is set for the whole process until the model is
    closed; torch's own default has it for convolutions.

    Raises
    ------
    ModelError
        There is nothing in the model to compile.
    """
    if spec.channels_last:
        for module in filter(None, (model.unet, model.vae)):
            module.to(memory_format=torch.channels_last)
    if spec.compile:
        if hasattr(model.unet, "transformer_blocks"):
            raise ModelError("model.compile: a transformer's maps are read within what would be"
                             " compiled; leave it out")
        if not getattr(model.unet, "_repeated_blocks", None):
            raise ModelError("model.compile: this model has no repeated blocks; leave it out")
        model.unet.compile_repeated_blocks()
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    undo: ExitStack = model.once("tf32", lambda: ExitStack())
    for place in places:
        undo.callback(setattr, place, "allow_tf32", place.allow_tf32)
        place.allow_tf32 = spec.tf32
