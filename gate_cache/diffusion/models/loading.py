"""Loading a model: which class runs which kind, its modules on a device, what makes them faster."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.ddpm import DDPMBackbone
from gate_cache.diffusion.models.fitting import check_parts
from gate_cache.diffusion.models.layouts import DDPM, ENCODER, SD, SDXL, TIMM, Kind
from gate_cache.diffusion.models.sdxl import StableDiffusionXL
from gate_cache.diffusion.models.stable_diffusion import StableDiffusion
from gate_cache.diffusion.models.vision import TimmEncoder, VisionEncoder

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.manifest.specs import ModelSpec

FAMILIES: dict[Kind, type[Backbone]] = {
    SD: StableDiffusion, SDXL: StableDiffusionXL, DDPM: DDPMBackbone, ENCODER: VisionEncoder,
    TIMM: TimmEncoder}


def load(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load a model's modules, in evaluation mode.

    Raises
    ------
    ModelError
        Weights missing or not fitting the configuration.
    """
    for logging in (diffusers_logging, transformers_logging):  # their advice and progress bars
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    check_parts(files)
    kind = files.kind
    family = kind.backbone() if kind.backbone else FAMILIES.get(kind) or _transformer(kind)
    parts = family.parts(files)
    vae_dtype = getattr(torch, files.latents_dtype(str(dtype).removeprefix("torch.")))
    for name, module in parts.items():
        if isinstance(module, torch.nn.Module):
            module.to(device=device, dtype=vae_dtype if name == "vae" else dtype)
            module.requires_grad_(False).eval()
    schedule = _schedule(files, device) if kind.noised else {
        "alphas_cumprod": torch.ones(1, device=device), "prediction_type": "sample"}
    return family(**parts, **schedule, device=device, dtype=dtype)


def _transformer(kind: Kind) -> type[Backbone]:
    """The class of a transformer; its libraries are imported for it alone."""
    from gate_cache.diffusion.models import dit, dit_language, layouts

    named = {layouts.SD3: dit.StableDiffusion3, layouts.LUMINA2: dit_language.Lumina2,
             layouts.SANA: dit_language.Sana, layouts.QWEN_IMAGE: dit_language.QwenImage,
             layouts.Z_IMAGE: dit_language.ZImage}
    return named.get(kind) or (dit.Flux if kind.flow else dit.PixArt)


def _schedule(files: ModelFiles, device: torch.device) -> dict[str, Any]:
    """ᾱ, or σ of flow matching, and what is predicted."""
    if files.kind.flow:
        from gate_cache.diffusion.models.dit import sigmas_of

        return {"sigmas": sigmas_of(files.schedule()).to(device), "prediction_type": "flow"}
    try:
        scheduler: Any = DDIMScheduler(**files.schedule())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"{files.source}: a schedule that is not read"
                         f" ({' '.join(str(error).split())[:200]})") from None
    return {"alphas_cumprod": scheduler.alphas_cumprod.to(device),
            "prediction_type": str(scheduler.config.prediction_type)}


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
