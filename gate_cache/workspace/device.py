"""The device that computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gate_cache.core.errors import UserError
from gate_cache.core.memory import is_full

LOADING = "a smaller model, or float16 or bfloat16 as model.dtype"
"""What to try when a model does not fit."""


def choose_device(name: str | None) -> torch.device:
    """The device named (`UserError` where it cannot be used), or the GPU where there is one."""
    chosen = name or ("cuda" if torch.cuda.is_available() else
                      "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.empty(1, device=device)  # "cuda:9" is a device until something is put there
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {chosen}: cannot be used here ({reason})") from None
    return device


def described(device: torch.device) -> str:
    """A device for people: ``cpu``, ``cuda (NVIDIA H100)``."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


@contextmanager
def out_of_memory(way_out: str, kept: bool = True) -> Iterator[None]:
    """Turn the device's out-of-memory error into one line.

    Parameters
    ----------
    way_out : what to make smaller
    kept : whether what is done so far is kept, for the message

    Raises
    ------
    UserError
        The memory is full.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        raise UserError(f"the device's memory is full: use {way_out}"
                        f"{'; what is done is kept' if kept else ''}") from error


def smaller_than(batch: int) -> str:
    """What to try when a batch does not fit into the device's memory."""
    if batch > 1:
        return f"--batch {batch // 2}, or --batch auto"
    return "a smaller model.size, or float16 or bfloat16 as model.dtype"
