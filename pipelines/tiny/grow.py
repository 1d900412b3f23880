"""A deeper or wider UNet that computes the same, so that a training goes on from a smaller one.

Wider is Net2Net's widening (Chen et al., ICLR 2016) with every channel twice: a group of GroupNorm
keeps its channels, so its statistics stay.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

LAYER = re.compile(r"(down|up)(_blocks\.\d+\.(?:resnets|attentions)\.)(\d+)(\..*)")


def deeper(unet: Any) -> Any:
    """One more layer in every level, the last one going down, the second one going up.

    It adds nothing at first. The level's last output then comes twice, once for the first layer
    going up, which has it already, and once for the new one, which does not use it.
    """
    layers = unet.config.layers_per_block
    new = _built(unet, layers_per_block=layers + 1)
    old, state = unet.state_dict(), new.state_dict()
    for name, value in state.items():
        part = LAYER.fullmatch(name)
        where, index = (part[1], int(part[3])) if part else ("", 0)
        if part and index == (layers if where == "down" else 1):
            _idle(part[4], value)
        elif part and where == "up" and index > 1:
            value.copy_(old[f"{where}{part[2]}{index - 1}{part[4]}"])
        else:
            value.copy_(old[name])
    return new


def _idle(name: str, value: torch.Tensor) -> None:
    """Let a new layer give what it is given: its branch ends in zeros, its skip is ignored."""
    if name.startswith((".conv2.", ".proj_out.")) or name == ".conv_shortcut.bias":
        value.zero_()
    elif name == ".conv_shortcut.weight":
        value.copy_(torch.eye(*value.shape[:2])[:, :, None, None])


def wider(unet: Any, spread: float = 0.05) -> Any:
    """Every channel twice, and what reads it with half the weights.

    The twins' outgoing weights are moved apart by this share at random, one up and one down, which
    changes nothing yet and lets them learn different things.
    """
    widths = [2 * width for width in unet.config.block_out_channels]
    new = _built(unet, block_out_channels=widths)
    old, state = unet.state_dict(), new.state_dict()
    g = torch.Generator().manual_seed(0)
    for name, value in state.items():
        found = old[name]
        if name == "time_embedding.linear_1.weight":
            found = _of_twice_the_frequencies(found)
        elif found.ndim > 1 and value.shape[1] != found.shape[1]:
            apart = 1 + spread * (2 * torch.rand(found.shape, generator=g) - 1)
            found = torch.stack([found * apart, found * (2 - apart)], 2).flatten(1, 2) / 2
        if value.shape[0] != found.shape[0]:
            found = found.repeat_interleave(2, 0)
        if re.search(r"attn\d\.to_q\.", name):
            found = found / 2**0.5  # q·k has twice the terms, its scale is for √2 times
        value.copy_(found)
    return new


def _of_twice_the_frequencies(weight: torch.Tensor) -> torch.Tensor:
    """Cosines and sines of a time, each at f frequencies, of which the wider UNet has 2·f."""
    halves = weight.view(len(weight), 2, -1)
    return torch.stack([halves, torch.zeros_like(halves)], 3).flatten(1)


def _built(unet: Any, **changed: Any) -> Any:
    torch.manual_seed(1)
    return UNet2DConditionModel(**{**unet.config, **changed}).eval()
