"""A ControlNet's tensors, of diffusers' layout or the original one: what they tell of it. No torch.

Of a single file without a configuration, that is the UNet's own, whose copy a ControlNet begins as
(Zhang et al. 2023, section 3.2), with the condition's layers as in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gate_cache.core.errors import listed
from gate_cache.diffusion.files.unread import SINGLE_FILE
from gate_cache.diffusion.models import fields

CONTROL = "control_model."
BESIDE = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.",
          "conditioner.embedders.")
_PARTS = ("conv_in", "time_embedding", "add_embedding", "controlnet_cond_embedding", "down_blocks",
          "mid_block", "controlnet_down_blocks", "controlnet_mid_block",  # diffusers
          "time_embed", "label_emb", "input_blocks", "zero_convs", "input_hint_block",
          "middle_block", "middle_block_out")
_ZERO = re.compile(r"(controlnet_down_blocks\.(\d+)|zero_convs\.(\d+)\.0)\.weight")
_HINTS = re.compile(r"(controlnet_cond_embedding\.blocks|input_hint_block)\.(\d+)\.weight")
Shapes = Mapping[str, tuple[int, ...]]


def plain_names(shapes: Shapes) -> Shapes:
    """Without the prefix of the original layout, and the model beside it."""
    if not any(k.startswith(CONTROL) for k in shapes):
        return shapes
    return {k.removeprefix(CONTROL): v for k, v in shapes.items() if not k.startswith(BESIDE)}


def inferred_config(shapes: Shapes, unet: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a ControlNet that was made for a UNet; `shapes` by `plain_names`."""
    taken = fields.CONTROLNET.built | fields.CONTROLNET.only.keys()
    config = {k: v for k, v in unet.items() if k in taken and v is not None}
    hints = {int(m[2]): shapes[m[0]] for m in map(_HINTS.fullmatch, shapes) if m}
    if "input_hint_block.0.weight" in shapes:  # 0, 2, …, of which the last one is the output
        first, *between, _last = (hints[i] for i in sorted(hints))
    else:
        first = shapes.get("controlnet_cond_embedding.conv_in.weight", (0, 0))
        between = [hints[i] for i in sorted(hints)]
    return {**config, "conditioning_channels": first[1],
            "conditioning_embedding_out_channels": [first[0], *(s[0] for s in between[1::2])]}


def shape_problems(place: str, shapes: Shapes, unet: Mapping[str, Any]) -> Iterator[str]:
    """One line for tensors of something else, or for a ControlNet of another UNet."""
    strange = [k for k in shapes if (k.split(".")[0] not in _PARTS or ".lora" in k)
               and not SINGLE_FILE.fullmatch(k)]
    zeros = {int(m[2] or m[3]): shapes[m[0]][0] for m in map(_ZERO.fullmatch, shapes) if m}
    if strange or not zeros:
        what = f" ({listed(strange, 3)})" if strange else ""
        yield (f"{place}: not a plain ControlNet: {len(strange)} of its {len(shapes)} tensors are"
               f" none of one's{what}; ControlNet Union, LLLite, T2I adapters and LoRAs are not"
               " read as such")
        return
    taken, added = _residuals(unet), [zeros[i] for i in sorted(zeros)]
    text = {v[1] for k, v in shapes.items() if k.endswith("attn2.to_k.weight")}
    width = unet.get("cross_attention_dim", 1280)
    if added != taken:
        yield (f"{place}: this ControlNet is for another model (it adds {len(added)} maps of"
               f" {min(added)} to {max(added)} channels, the UNet takes {len(taken)} of"
               f" {min(taken)} to {max(taken)})")
    elif text - {width} and isinstance(width, int):
        yield (f"{place}: this ControlNet is for another model (text width {max(text)}, the UNet's"
               f" is {width})")


def _residuals(unet: Mapping[str, Any]) -> list[int]:
    """Channels of a UNet's skip connections, in order."""
    channels = list(unet["block_out_channels"])
    counts = fields.by_block(unet.get("layers_per_block", 2), len(channels))
    skips = [channels[0]]
    for i, (width, count) in enumerate(zip(channels, counts, strict=True)):
        skips += [width] * (count + (i < len(channels) - 1))  # and one of each downsampling
    return skips
