"""The device that computes."""

from __future__ import annotations

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
