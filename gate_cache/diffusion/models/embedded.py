"""The embedded model families: where their files are. Trained by ``pipelines/tiny``.

``tiny`` knows toyworld, ``tiny-photos`` photographs. The files are what diffusers would read from
any other folder; nothing here is special but the names that manifests use.
"""

from __future__ import annotations

from pathlib import Path

TINY, PHOTOS = "tiny", "tiny-photos"
HOMES = {name: Path(__file__).parents[1] / "data" / name for name in (TINY, PHOTOS)}
HOME = HOMES[TINY]
CONTROLNETS = {name: home / "controlnet" for name, home in HOMES.items()}
LORAS = {f"{family}/{name}": HOMES[family] / "loras" / f"{name}.safetensors"
         for family, names in ((TINY, ("moderate", "overfit")), (PHOTOS, ("dusk", "sketch")))
         for name in names}
"""Built-in LoRAs: names in a manifest to files."""
