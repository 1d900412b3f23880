"""What makes passes faster, where a manifest asks for it."""

from __future__ import annotations

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
    model.once("tf32", lambda: _Tf32(spec.tf32))


class _Tf32:
    """Whether float32 may be computed in TF32; `close` sets what was before."""

    def __init__(self, allowed: bool) -> None:
        self._places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        self._before = [place.allow_tf32 for place in self._places]
        for place in self._places:
            place.allow_tf32 = allowed

    def close(self) -> None:
        for place, before in zip(self._places, self._before, strict=True):
            place.allow_tf32 = before
