"""Which class runs which kind of model."""

from __future__ import annotations

from gate_cache.diffusion.backbone import Backbone
from gate_cache.diffusion.families.ddpm import DDPMBackbone
from gate_cache.diffusion.families.sdxl import SDXLBackbone
from gate_cache.diffusion.layouts import DDPM, SD, SDXL, Kind

FAMILIES: dict[Kind, type[Backbone]] = {SD: Backbone, SDXL: SDXLBackbone, DDPM: DDPMBackbone}
