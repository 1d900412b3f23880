"""``tiny``, the embedded model family: where its files are. Trained by ``pipelines/tiny``.

The files are what diffusers would read from any other folder; nothing here is special but the
names that manifests use.
"""

from __future__ import annotations

from pathlib import Path

TINY = "tiny"
HOME = Path(__file__).parents[1] / "data" / "tiny"
CONTROLNET = HOME / "controlnet"
LORAS = {f"{TINY}/{name}": HOME / "loras" / f"{name}.safetensors"
         for name in ("moderate", "overfit")}
"""Built-in LoRAs: names in a manifest to files."""
