"""Stored maps to values on the training device: `gate_cache.store.format.codes` in torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from gate_cache.store.format.encodings import SCALE, Encoding, Part


def part_dtype(part: Part) -> torch.dtype:
    """Of the memory that a stored array is read into."""
    dtype = getattr(torch, part.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def decode(encoding: Encoding, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The values of stored rows, on the device that they are on.

    Parameters
    ----------
    parts : suffix to rows of each stored array (`gate_cache.store.format.maps.MapView.parts`)

    Returns
    -------
    (…, C, h, w) float16, float32 or bfloat16 as stored (a view); float32 of int8
    """
    if encoding.dtype == "int8":
        return parts[""] * parts[SCALE][..., None, None]
    return parts[""].view(torch.bfloat16) if encoding.dtype == "bfloat16" else parts[""]
