"""Files of named tensors (safetensors): whole or not there, and the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gate_cache.core.replacing import replacing


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor],
                  metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under another name, then rename it.

    Parameters
    ----------
    tensors : contiguous, on the CPU
    """
    data = memoryview(save(dict(tensors), dict(metadata)))
    end = 8 + int.from_bytes(data[:8], "little")
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(_sorted_header(bytes(data[8:end])))
        file.write(data[end:])


def _sorted_header(header: bytes) -> bytes:
    """A header with its keys in order: the library writes metadata in a random one."""
    text = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file; none where it is not such a file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
