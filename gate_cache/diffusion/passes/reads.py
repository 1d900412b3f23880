"""What can be read of a module's run as a map: its output, or attention computed beside it.

Attention is softmax(QKᵀ/√d), averaged over heads (paper, section 3), computed a second time beside
the model's own, so that the model's output is the same to the bit.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb

from gate_cache.core.errors import ModelError

MASSIVE = 50
"""Times the median channel's magnitude, beyond which a channel is massive: decided here."""


class Run(NamedTuple):
    """A module that has run: itself, what it was given, what it gave."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    def given(self, name: str) -> Any:
        """An argument by name; the first one is ``hidden_states``, as in diffusers."""
        if self.args and name != "hidden_states" and name not in self.kwargs:
            names = inspect.signature(self.module.forward).parameters
            return dict(zip(names, self.args, strict=False)).get(name)
        return self.args[0] if self.args and name == "hidden_states" else self.kwargs.get(name)

    def image(self, tokens: torch.Tensor) -> torch.Tensor:
        """The image's of (B, n, C) tokens, where text is packed before them in one sequence."""
        packing: Packing | None = getattr(self.module, "packing", None)
        return tokens if packing is None else torch.stack([
            of_one[at.image : at.image + packing.cells]
            for of_one, at in zip(tokens, packing.places, strict=True)])


class Packing(NamedTuple):
    """How a pass's tokens lie in sequences of text and image.

    Attributes
    ----------
    texts : tokens of each text
    cells : tokens of each image
    most : tokens that a text has at most
    multiple : that image and text, in this order, are filled up to; 0: the text comes first
    """

    texts: list[int]
    cells: int
    most: int
    multiple: int = 0

    @property
    def places(self) -> list[PackedPlace]:
        """Of each sequence."""
        if not self.multiple:
            return [PackedPlace(n, 0, n + self.cells) for n in self.texts]
        text, *rest = (-(-n // self.multiple) * self.multiple for n in (self.cells, *self.texts))
        return [PackedPlace(0, text, text + n) for n in rest]


class PackedPlace(NamedTuple):
    """Where an image's and a text's tokens begin, and where what is attended to ends."""

    image: int
    text: int
    end: int


def _output(run: Run) -> torch.Tensor:
    output = run.output[0] if isinstance(run.output, tuple) else run.output  # down blocks' skips
    return torch.as_tensor(output.detach())


def _image(run: Run) -> torch.Tensor:
    """Tokens of the image, behind those of the text where a block gives both."""
    output = run.output[-1] if isinstance(run.output, tuple) else run.output
    return run.image(output.detach())


def _modulated(run: Run) -> torch.Tensor:
    """What a block makes of its input by AdaLN, without the input's massive channels."""
    block, raw, temb = run.module, run.given("hidden_states"), run.given("temb")
    if hasattr(block, "img_mod"):  # Qwen-Image's
        part = block.img_mod(temb).chunk(2, -1)[0]
        return without_massive(block._modulate(block.img_norm1(raw), part)[0], raw)
    if hasattr(block, "adaLN_modulation"):  # Z-Image's
        scale = block.adaLN_modulation(run.given("adaln_input"))[:, None, :raw.shape[-1]]
        return without_massive(run.image(block.attention_norm1(raw) * (1 + scale)), run.image(raw))
    if temb is not None:
        norm = block.norm1 if hasattr(block, "norm1") else block.norm
        return without_massive(run.image(norm(raw, emb=temb)[0]), run.image(raw))
    table = block.scale_shift_table[None] + run.given("timestep").reshape(len(raw), 6, -1)
    shift, scale = table[:, :1], table[:, 1:2]  # PixArt's and Sana's: the attention's come first
    return without_massive(block.norm1(raw) * (1 + scale) + shift, raw)


def without_massive(values: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Zero the channels of an image in which its raw tokens are massive.

    A channel is massive whose mean magnitude over the image's tokens is more than `MASSIVE` times
    the median channel's.

    Parameters
    ----------
    values, raw : (B, hw, C)
    """
    size = raw.float().abs().mean(1)
    massive = size > MASSIVE * size.median(-1, keepdim=True).values
    return torch.as_tensor(values.detach().masked_fill(massive[:, None], 0))


def _joint(run: Run) -> torch.Tensor:
    """Attention of the image's tokens to the text's, in a block that has both in one sequence."""
    layer, image = run.module, run.given("hidden_states")
    text = layer.add_k_proj(run.given("encoder_hidden_states")), layer.norm_added_k
    return _beside(layer, image, text, run.given("image_rotary_emb"))


def _single(run: Run) -> torch.Tensor:
    """The same of FLUX's later blocks, which norm and project both alike."""
    block, temb, layer = run.module, run.given("temb"), run.module.attn
    image, text = (block.norm(run.given(name), emb=temb)[0]
                   for name in ("hidden_states", "encoder_hidden_states"))
    return _beside(layer, image, (layer.to_k(text), layer.norm_k), run.given("image_rotary_emb"))


def _beside(layer: Any, image: torch.Tensor, text: tuple[torch.Tensor, Any],
            rotary: Any) -> torch.Tensor:
    """(B, hw, T) float32: the text's share of the image's attention to both, mean over heads."""
    def heads(values: torch.Tensor, norm: Any) -> torch.Tensor:
        split = values.reshape(*values.shape[:-1], layer.heads, -1)
        return split if norm is None else torch.as_tensor(norm(split))

    query, key = heads(layer.to_q(image), layer.norm_q), heads(layer.to_k(image), layer.norm_k)
    of_text = heads(*text)
    count, keys = of_text.shape[1], torch.cat([of_text, key], 1)
    if rotary is not None and rotary[0].is_complex():  # Qwen-Image's, of image and text
        turns = torch.cat(rotary[::-1])[None]
        query = apply_rotary_emb(query, turns[:, count:], use_real=False)
        keys = apply_rotary_emb(keys, turns, use_real=False)
    elif rotary is not None:  # by place in text and image, in this order
        query = apply_rotary_emb(query, tuple(r[count:] for r in rotary), sequence_dim=1)
        keys = apply_rotary_emb(keys, rotary, sequence_dim=1)
    query, keys = (z.transpose(1, 2).float() for z in (query, keys))
    packing: Packing | None = getattr(layer, "packing", None)
    unseen = None if packing is None else F.pad(torch.arange(count) >= torch.tensor(
        packing.texts)[:, None], (0, key.shape[1])).to(query.device)[:, None]
    total = torch.zeros(*query.shape[:1], query.shape[2], count, device=query.device)
    for i in range(layer.heads):  # one by one: all at once are gigabytes an image
        scores = query[:, i] @ keys[:, i].mT * query.shape[-1] ** -0.5
        if unseen is not None:
            scores = scores.masked_fill(unseen, -math.inf)
        total += scores.softmax(-1)[..., :count]
    return F.pad(total / layer.heads, (0, packing.most - count if packing else 0))


def _packed(run: Run) -> torch.Tensor:
    """The text's share in a layer whose sequence is text and image; a key may have many queries."""
    layer, hidden, packing = run.module, run.given("hidden_states"), run.module.packing
    turns = run.given("image_rotary_emb")
    turns = run.given("freqs_cis") if turns is None else turns

    def turned(values: torch.Tensor, norm: Any) -> torch.Tensor:
        split = values.reshape(*values.shape[:2], -1, layer.to_q.out_features // layer.heads)
        split = split if norm is None else norm(split)
        return torch.as_tensor(apply_rotary_emb(split, turns, use_real=False)).float()

    query, key = turned(layer.to_q(hidden), layer.norm_q), turned(layer.to_k(hidden), layer.norm_k)
    total = torch.zeros(len(hidden), packing.cells, packing.most, device=hidden.device)
    for i, (count, at) in enumerate(zip(packing.texts, packing.places, strict=True)):
        for head in range(layer.heads):
            keys = key[i, :at.end, head * key.shape[2] // layer.heads]
            scores = query[i, at.image : at.image + packing.cells, head] @ keys.T * layer.scale
            total[i, :, :count] += scores.softmax(-1)[:, at.text : at.text + count]
    return torch.as_tensor(total / layer.heads)


def _to_text(run: Run) -> torch.Tensor:
    text = run.given("encoder_hidden_states")
    text = text[0] if isinstance(text, tuple) else text  # IP-Adapter's are (text, images)
    if run.module.norm_cross:
        text = run.module.norm_encoder_hidden_states(text)
    return attention(run.module, run.given("hidden_states"), text, run.given("attention_mask"))


def _to_itself(run: Run) -> torch.Tensor:
    return attention(run.module, run.given("hidden_states"), run.given("hidden_states"))


READS: dict[str, Callable[[Run], torch.Tensor]] = {
    "output": _output, "text": _to_text, "self": _to_itself,
    "image": _image, "modulated": _modulated, "joint": _joint, "single": _single,
    "packed": _packed}
"""By `MapSpec.what`: from a run to (B, C, h, w), or to tokens (B, hw, C)."""


def attention(layer: Any, hidden: torch.Tensor, context: torch.Tensor,
              bias: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(QKᵀ/√d) averaged over heads, in float32.

    Parameters
    ----------
    layer : diffusers ``Attention`` layer
    hidden : (B, hw, C) queries' input
    context : (B, T, D) keys' input
    bias : (B, 1, T) to add to the scores: far below 0 where a token is padding

    Returns
    -------
    (B, hw, T) float32 tensor; sums to 1 over T
    """
    query, key = layer.to_q(hidden), layer.to_k(context)
    if getattr(layer, "norm_q", None) is not None:  # of Sana 1.5, across heads
        query, key = layer.norm_q(query), layer.norm_k(key)
    query, key = (z.unflatten(-1, (layer.heads, -1)).transpose(1, 2).float() for z in (query, key))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias[:, None]
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
        raise ModelError(f"{count} tokens are not a map of an image of {aspect:g} times the width"
                         " in height")
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, count // height)
