"""Reading feature maps off a UNet: forward hooks and attention processors, always taken back.

Convolutional maps are the outputs of the up-sampling levels; attention maps are
softmax(QKᵀ/√d) of the cross-attention layers, averaged over heads and the level's layers
(paper, section 3). Attention is computed a second time beside the model's own, so that the
UNet's output is the same to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import ModelError

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec


class _AllSeen(Exception):
    """Ends a pass behind the last map that is wanted."""


class Hooks:
    """Maps read during the latest pass."""

    def __init__(self, specs: Sequence[MapSpec]) -> None:
        self._specs = specs
        self._conv: dict[str, torch.Tensor] = {}
        self._attention: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._sides: dict[str, tuple[int, int]] = {}
        self._stops = False

    def read(self, run: Callable[[], object]) -> dict[str, torch.Tensor]:
        """Run a pass no further than the last map, and take its maps."""
        self._stops = True
        try:
            with suppress(_AllSeen):
                run()
        finally:
            self._stops = False
        return self.take()

    def take(self) -> dict[str, torch.Tensor]:
        """Maps of the latest pass, each (B, C, h, w) as computed; forgets them.

        Raises
        ------
        ModelError
            A map was not seen: the model does not call what was tapped.
        """
        features = {}
        for spec in self._specs:
            if spec.name in self._conv:
                features[spec.name] = self._conv.pop(spec.name)
            elif self._attention[spec.name]:
                maps = torch.stack(self._attention.pop(spec.name)).mean(0)  # (B, hw, T)
                side = self._sides[spec.name]
                features[spec.name] = maps.transpose(1, 2).reshape(len(maps), -1, *side)
            else:
                raise ModelError(f"the model did not run what '{spec.name}' is read from; is its"
                                 " attention replaced or compiled?")
        return features

    def conv_hook(self, name: str) -> Any:
        """Forward hook that keeps a level's output."""
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            self._conv[name] = output.detach()
        return hook

    def side_hook(self, name: str) -> Any:
        """Forward pre-hook that notes the (h, w) of an attention level's input."""
        def hook(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
            self._sides[name] = (int(args[0].shape[-2]), int(args[0].shape[-1]))
        return hook

    def stop_hook(self) -> Any:
        """Forward hook that ends the passes of `read`."""
        def hook(_module: Any, _args: Any, _output: Any) -> None:
            if self._stops:
                raise _AllSeen
        return hook

    def add_attention(self, name: str, probabilities: torch.Tensor) -> None:
        """Keep one layer's attention, (B, hw, T), averaged over heads."""
        self._attention[name].append(probabilities)


class _Recorder:
    """Attention processor that lets the original one work and computes its map beside it."""

    def __init__(self, inner: Any, taps: Hooks, name: str) -> None:
        self._inner = inner
        self._taps = taps
        self._name = name

    def __call__(self, attn: Any, hidden_states: torch.Tensor,
                 encoder_hidden_states: torch.Tensor | None = None, *args: Any,
                 **kwargs: Any) -> Any:
        output = self._inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        if encoder_hidden_states is not None:
            text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) \
                else encoder_hidden_states  # IP-Adapter's are (text, images)
            attention = cross_attention(attn, hidden_states, text)
            self._taps.add_attention(self._name, attention)
        return output


def cross_attention(attn: Any, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d) averaged over heads, in float32.

    Parameters
    ----------
    attn : diffusers ``Attention`` layer
    hidden : (B, hw, C) queries' input
    context : (B, T, D) keys' input

    Returns
    -------
    (B, hw, T) float32 tensor; sums to 1 over T
    """
    if attn.norm_cross:
        context = attn.norm_encoder_hidden_states(context)
    query = attn.to_q(hidden).unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
    key = attn.to_k(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.as_tensor(scores.softmax(-1).mean(1))


@contextmanager
def tapped(unet: Any, specs: Sequence[MapSpec]) -> Iterator[Hooks]:
    """Read `specs` off every pass inside the ``with`` block; the model is restored after it."""
    taps = Hooks(specs)
    with ExitStack() as undo:
        for spec in specs:
            block = unet.up_blocks[spec.level]
            if spec.kind == "conv":
                undo.callback(block.register_forward_hook(taps.conv_hook(spec.name)).remove)
            else:
                _tap_attention(block, spec.name, taps, undo)
        last = max(specs, key=lambda s: (s.level, s.kind == "conv"))
        block = unet.up_blocks[last.level]
        ends = block if last.kind == "conv" else block.attentions[-1]
        undo.callback(ends.register_forward_hook(taps.stop_hook()).remove)
        yield taps


def _tap_attention(block: Any, name: str, taps: Hooks, undo: ExitStack) -> None:
    handle = block.attentions[0].register_forward_pre_hook(taps.side_hook(name))
    undo.callback(handle.remove)
    for transformer in block.attentions:
        for layer in transformer.transformer_blocks:
            attn, inner = layer.attn2, layer.attn2.processor
            undo.callback(attn.set_processor, inner)
            attn.set_processor(_Recorder(inner, taps, name))
