"""What a pass is conditioned on: texts as a UNet takes them, and what techniques add to a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch


@dataclass(frozen=True)
class Text:
    """Prompts as the UNet takes them.

    Attributes
    ----------
    states : (B, T, D) text encoder states
    added : tensors by name, each (B, …), for ``added_cond_kwargs``
    """

    states: torch.Tensor
    added: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def joined(cls, texts: Sequence[Text]) -> Text:
        """Several batches as one."""
        added = {k: torch.cat([text.added[k] for text in texts]) for k in texts[0].added}
        return cls(torch.cat([text.states for text in texts]), added)


class Call(NamedTuple):
    """One pass that is about to run.

    Attributes
    ----------
    x : (B, 4, h, w) tensor, the noised latents
    t : () tensor, the timestep
    text : the prompts' embeddings
    """

    x: torch.Tensor
    t: torch.Tensor
    text: Text


Extra = Callable[[Call], Mapping[str, Any]]
"""From a pass to more keyword arguments of the UNet; those of ``added_cond_kwargs`` are joined."""
