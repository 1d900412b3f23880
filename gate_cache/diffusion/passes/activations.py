"""What a UNet's blocks give along one pass (paper, Figure 4): hooks that are always taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from gate_cache.core.errors import ModelError


@contextmanager
def watched(unet: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Keep the output of every level of passes inside the ``with`` block.

    Yields
    ------
    ``down0`` …, ``mid``, ``up0`` … to (B, C, h, w) float32 of the latest pass, as they have run. A
    level's output is that behind its down- or up-sampler.
    """
    outputs: dict[str, torch.Tensor] = {}
    with ExitStack() as undo:
        for name, block in _levels(unet):
            undo.callback(block.register_forward_hook(_keep(outputs, name)).remove)
        yield outputs


def _levels(unet: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(unet, "down_blocks"):
        raise ModelError("activations are those of a UNet's levels, which a transformer has not;"
                         " show its maps instead")
    yield from ((f"down{i}", block) for i, block in enumerate(unet.down_blocks))
    if unet.mid_block is not None:
        yield "mid", unet.mid_block
    yield from ((f"up{i}", block) for i, block in enumerate(unet.up_blocks))


def _keep(outputs: dict[str, torch.Tensor], name: str) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output  # down blocks give skips too
        outputs.pop(name, None)
        outputs[name] = first.detach().float()
    return hook
