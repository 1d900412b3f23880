"""The UNet's down and mid blocks, run once for passes that differ only behind them.

ControlNet's residuals are added to what these blocks give after all of them have run (and so, to
the bit, do not change it). Used by lanes with more than one tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def shared_half(unet: Any) -> Iterator[None]:
    """Passes inside the ``with`` block have the same input, times and text.

    The first one runs the down and mid blocks, the others are given what it found. The blocks are
    restored at the end.
    """
    outputs: dict[int, Any] = {}
    with ExitStack() as undo:
        mid = getattr(unet, "mid_block", None)  # distilled ones have none, transformers no half
        for i, block in enumerate([*getattr(unet, "down_blocks", ()), *filter(None, [mid])]):
            undo.enter_context(_remembered(block, i, outputs))
        yield


@contextmanager
def _remembered(block: Any, key: int, outputs: dict[int, Any]) -> Iterator[None]:
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if key not in outputs:
            outputs[key] = inner(*args, **kwargs)
        return outputs[key]

    block.forward = forward
    try:
        yield
    finally:
        del block.forward
