"""Which class runs which kind of model."""

from __future__ import annotations

from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.ddpm import DDPMBackbone
from gate_cache.diffusion.models.layouts import DDPM, SD, SDXL, Kind
from gate_cache.diffusion.models.sdxl import SDXLBackbone

FAMILIES: dict[Kind, type[Backbone]] = {SD: Backbone, SDXL: SDXLBackbone, DDPM: DDPMBackbone}
