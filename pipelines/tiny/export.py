"""Writes the family in diffusers layout, float16 safetensors, where the package looks for it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTokenizer

from gate_cache.diffusion.models.embedded import HOME
from pipelines.tiny import config

LIMIT = 25 * 10**6


def write(unet: Any, text: Any, vae: Any, folder: Path = HOME) -> None:
    """Write text encoder, autoencoder, UNet, scheduler and index beside the tokenizer."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, unet=unet,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler(**config.SCHEDULER), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    for name in ("vae", "text_encoder", "unet"):
        save(getattr(pipeline, name), folder / name)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)


def save(module: Any, folder: Path) -> None:
    """Write one module in float16; the module itself keeps its precision."""
    shutil.rmtree(folder, ignore_errors=True)
    half = copy.deepcopy(module).to(torch.float16)
    half.to(memory_format=torch.contiguous_format).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)  # where it was loaded from on this machine
    if "dtype" in settings:  # transformers would load half precision, diffusers loads single
        settings["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)


def size(folder: Path = HOME) -> int:
    """Bytes of the family.

    Raises
    ------
    SystemExit
        More than the wheel may take.
    """
    found = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if found > LIMIT:
        raise SystemExit(f"{folder}: {found} bytes, more than the {LIMIT} that the wheel may take")
    return found
