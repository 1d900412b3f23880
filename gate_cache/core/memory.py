"""A device's memory that is full: told from other errors, and met with smaller batches. Floor 1.

Torch is not imported here: where it is not, no device's memory can be full.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def is_full(error: BaseException) -> bool:
    """Whether an error says that the device's memory, or this machine's, is full."""
    # Of torch's own type for its CUDA allocator; the driver, MPS and the CPU raise others.
    return isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or any(
        text in str(error) for text in ("out of memory", "can't allocate memory")))


def free() -> None:
    """Give back what nothing refers to any more. Not within the ``except`` of an error, whose
    traceback refers to the tensors of all its frames."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def fitted(batch: int, run: Callable[[int], T],
           halved: Callable[[int], object] = lambda _: None) -> tuple[T, int]:
    """Run with batches of this size, halved for as long as the memory is full.

    Parameters
    ----------
    run : is given the size; what it has begun before an error is done anew
    halved : hears of each smaller size

    Returns
    -------
    What `run` gives, and the size that fits

    Raises
    ------
    RuntimeError
        As from `run`, when a batch of one does not fit.
    """
    while True:
        try:
            return run(batch), batch
        except RuntimeError as error:
            if batch == 1 or not is_full(error):
                raise
        batch //= 2  # out of the except block, whose error still refers to all tensors
        free()
        halved(batch)
