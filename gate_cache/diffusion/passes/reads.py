"""What can be read of a module's run as a map: its output, or attention computed beside it.

Attention is softmax(QKᵀ/√d), averaged over heads (paper, section 3), computed a second time beside
the model's own, so that the model's output is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gate_cache.core.errors import ModelError


class Run(NamedTuple):
    """A module that has run: itself, what it was given, what it gave."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    def given(self, name: str) -> Any:
        """An argument by name; the first one is ``hidden_states``, as in diffusers."""
        return self.args[0] if self.args and name == "hidden_states" else self.kwargs.get(name)


def _output(run: Run) -> torch.Tensor:
    output = run.output[0] if isinstance(run.output, tuple) else run.output  # down blocks' skips
    return torch.as_tensor(output.detach())


def _to_text(run: Run) -> torch.Tensor:
    text = run.given("encoder_hidden_states")
    text = text[0] if isinstance(text, tuple) else text  # IP-Adapter's are (text, images)
    if run.module.norm_cross:
        text = run.module.norm_encoder_hidden_states(text)
    return attention(run.module, run.given("hidden_states"), text)


def _to_itself(run: Run) -> torch.Tensor:
    return attention(run.module, run.given("hidden_states"), run.given("hidden_states"))


READS: dict[str, Callable[[Run], torch.Tensor]] = {
    "output": _output, "text": _to_text, "self": _to_itself}
"""By `MapSpec.what`: from a run to (B, C, h, w), or to tokens (B, hw, C)."""


def attention(layer: Any, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d) averaged over heads, in float32.

    Parameters
    ----------
    layer : diffusers ``Attention`` layer
    hidden : (B, hw, C) queries' input
    context : (B, T, D) keys' input

    Returns
    -------
    (B, hw, T) float32 tensor; sums to 1 over T
    """
    query = layer.to_q(hidden).unflatten(-1, (layer.heads, -1)).transpose(1, 2).float()
    key = layer.to_k(context).unflatten(-1, (layer.heads, -1)).transpose(1, 2).float()
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.as_tensor(scores.softmax(-1).mean(1))


def laid_out(tokens: torch.Tensor, aspect: float) -> torch.Tensor:
    """Tokens (B, hw, C), row by row, as (B, C, h, w); a map as it is.

    Parameters
    ----------
    aspect : height of the input by its width
    """
    if tokens.dim() == 4:
        return tokens
    count = tokens.shape[1]
    height = max(round(math.sqrt(count * aspect)), 1)
    if count % height:
        raise ModelError(f"{count} tokens are no map of an image of {aspect:g} times the width in"
                         " height")
    return tokens.transpose(1, 2).unflatten(2, (height, count // height))
