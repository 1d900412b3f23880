"""Tensors of a safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gate_cache.core.errors import ModelError


def read_safetensors(path: Path, *prefixes: str) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file (else `ModelError`), or those whose names begin so."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()  # noqa: SIM118
                    if name.startswith(prefixes or ("",))}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
