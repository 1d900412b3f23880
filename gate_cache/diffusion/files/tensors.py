"""Tensors of a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gate_cache.core.errors import ModelError


def read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    """All tensors of a file.

    Raises
    ------
    ModelError
        Not a safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
