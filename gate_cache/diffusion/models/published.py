"""Published configurations of well-known models: what they offer is known without their files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from gate_cache.diffusion.files.timm_hub import known_config

HOME = Path(__file__).parents[1] / "data" / "published"
SD_1_5, SD_2_1, SDXL_BASE = "sd-1.5", "sd-2.1", "sdxl-base"
TIMM = "timm/"
"""Beginning of timm's hub ids, whose configurations the library knows."""
NAMES = (SD_1_5, SD_2_1, SDXL_BASE, "pixart-alpha", "pixart-sigma", "sd-3", "sd-3.5-medium",
         "sd-3.5-large", "flux-dev", "flux-schnell", "lumina-2", "sana-1.6b", "sana-0.6b",
         "sana-1.5-1.6b", "sana-1.5-4.8b", "qwen-image", "z-image", "z-image-turbo", "ddpm-256")


@cache
def _encoders() -> dict[str, dict[str, Any]]:
    """Hub id of a vision encoder to its configuration."""
    known: dict[str, dict[str, Any]] = json.loads((HOME / "encoders.json").read_text("utf-8"))
    return known


@cache
def published(name: str) -> dict[str, Any]:
    """A model's ``title``, its ``hub`` ids, and the configuration of each component."""
    if name in _encoders() or name.startswith(TIMM):
        config = _encoders().get(name) or known_config(name)
        return {"title": name.partition("/")[2], "hub": [name], "unet": config, "encoder": config}
    content: dict[str, Any] = json.loads((HOME / f"{name}.json").read_text(encoding="utf-8"))
    return content


def published_name(hub_id: str) -> str | None:
    """The model that a hub id is known to hold."""
    if hub_id in _encoders() or hub_id.startswith(TIMM):
        return hub_id
    return next((name for name in NAMES if hub_id in published(name)["hub"]), None)
