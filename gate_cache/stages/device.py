"""The device that computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gate_cache.errors import UserError


def choose_device(name: str | None) -> torch.device:
    """The device named, or a CUDA GPU where there is one, else the CPU.

    Raises
    ------
    UserError
        No such device here.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {chosen}: not to be used here ({reason})") from None
    return device


@contextmanager
def out_of_memory(way_out: str) -> Iterator[None]:
    """Turn the device's out-of-memory error into one line.

    Raises
    ------
    UserError
        The memory is full; `way_out` says what to make smaller.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device's memory is full: use {way_out}; what is done is kept"
                        ) from error
