"""What a model family offers: names, channels and strides of its feature maps (paper, section 3).

Read from the published configurations alone, so that a plan needs neither weights nor torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gate_cache.core.errors import ModelError, did_you_mean
from gate_cache.core.size import Sides, Size

TOKENS_PER_PIECE = 77  # positions of CLIP's text encoder, begin and end included
Kind = Literal["conv", "attention"]
Pool = Literal["mean", "max"]
Pooling = Mapping[str, Mapping[str, Any]]
"""Map name to ``{"grid", "pool"}``: the maps that are made smaller as they are extracted."""
CELLS, MOST_CELLS = -1, 4096
"""For `MapSpec.channels`: a channel for each of the map's cells; and how many such there may be."""
MANTISSA_BITS = {"float16": 10, "float32": 23}
"""Of the dtypes in which numpy and Zarr hold maps as they are."""


@dataclass(frozen=True)
class MapSpec:
    """One feature map of one image: its name, where a model has it, and its shape.

    Attributes
    ----------
    name : in the model's terms
    kind : the section of a manifest that offers it
    channels : number of channels; 0 where it is the number of prompt tokens, `CELLS` where it is
        that of the map's cells
    stride : input pixels per cell, before it is made smaller
    modules : dotted paths of the modules it is read from; of several, the mean
    what : of each module's run: a key of `gate_cache.diffusion.passes.reads.READS`
    grid : cells that it is made smaller to, of a square or (height, width); 0 for none
    pool : what is kept of each: the mean or the largest value
    """

    name: str
    kind: Kind
    channels: int
    stride: int
    modules: tuple[str, ...] = ()
    what: str = "output"
    grid: Sides = 0
    pool: Pool = "mean"

    def shape(self, size: Sides, tokens: int = 0) -> tuple[int, int, int]:
        """(C, h, w) for an input of `size` pixels and a prompt of `tokens` tokens.

        Raises
        ------
        ModelError
            The map has fewer cells than it is to be made smaller to, or so many that a channel for
            each of them is too much.
        """
        pixels, cells = Size.of(size), Size.of(size).cells(self.stride)
        channels = cells.area if self.channels == CELLS else self.channels or tokens
        if not self.is_small(size):
            raise ModelError(f"maps: {self.name}: {cells.height}×{cells.width} cells that attend to"
                             f" as many are more than {MOST_CELLS} channels at {pixels} pixels;"
                             " name one of a coarser level, or give a smaller model.size")
        if not self.grid:
            return (channels, *cells)
        grid = Size.of(self.grid)
        if grid.height > cells.height or grid.width > cells.width:
            raise ModelError(f"maps: {self.name}: a grid of {grid} cells a side, but the map"
                             f" has {cells} at {pixels} pixels")
        return (channels, *grid)

    def is_small(self, size: Sides) -> bool:
        """Whether it has no channel for each cell, or few cells at `size` pixels."""
        return self.channels != CELLS or Size.of(size).cells(self.stride).area <= MOST_CELLS


@dataclass(frozen=True)
class Family:
    """The layout of one model: its maps, its latents and its sizes.

    Attributes
    ----------
    maps : of which a combo takes some where it names none
    text : whether it takes prompts
    default_size : side of the square that the model was made for, in pixels
    size_multiple : every side that it takes is one of it
    largest : longest side that it takes, in pixels; None for no end
    more : maps that only a combo which names them has, in the order in which they are computed
    """

    maps: tuple[MapSpec, ...]
    latent_channels: int
    latent_stride: int
    default_size: int
    size_multiple: int
    text: bool = True
    largest: int | None = None
    more: tuple[MapSpec, ...] = ()

    @property
    def levels(self) -> list[MapSpec]:
        """What each level, or block of a transformer, gives, in the order of a pass."""
        return [m for m in (*self.more, *self.maps) if m.kind == "conv" and re.fullmatch(
            r"(down|up)\d+|mid|(transformer|single)\.\d+\.img", m.name)]

    def select(self, kind: Kind, names: Collection[str] | None,
               pooling: Pooling | None = None) -> tuple[MapSpec, ...]:
        """The maps of one kind, those named or by default; order is the model's.

        By default all, but of attention those of at most half the latent's side, as the released
        code keeps them (16² and 32² of Stable Diffusion 1.5 at 512 pixels); where a model attends
        to its text at the latent's own resolution alone, those.

        Raises
        ------
        ModelError
            A name the model does not offer.
        """
        usual = {m.name: m for m in self.maps if m.kind == kind}
        offered = usual | {m.name: m for m in self.more if m.kind == kind}
        if unknown := next((name for name in names or () if name not in offered), None):
            more = " and more ('gate-cache layers --all')" if len(offered) > len(usual) else ""
            raise ModelError(f"this model has no map '{unknown}'{did_you_mean(unknown, offered)};"
                             f" it offers: {', '.join(usual)}{more}")
        coarse = {m.name for m in usual.values() if m.stride > self.latent_stride}
        wanted = names or (kind == "attention" and coarse) or usual
        return tuple(replace(m, **(pooling or {}).get(m.name, {})) for m in offered.values()
                     if m.name in wanted)

    def latent_shape(self, size: Sides) -> tuple[int, int, int]:
        """(C, h, w) of the latent (or pixels) for an input of `size` pixels."""
        return (self.latent_channels, *Size.of(size).cells(self.latent_stride))

    def check_size(self, size: Sides, place: str) -> Size:
        """Return `size`, or say which sizes the model allows."""
        if self.largest and max(Size.of(size)) > self.largest:
            raise ModelError(f"{place}: {max(Size.of(size))} is more than the {self.largest} pixels"
                             " that this model has positions for")
        return self.check_multiple(size, place)

    def check_multiple(self, size: Sides, place: str) -> Size:
        """As `check_size`, whatever the length of its sides."""
        for side in Size.of(size):
            if side % self.size_multiple:
                near = max(round(side / self.size_multiple), 1) * self.size_multiple
                raise ModelError(f"{place}: {side} is not a multiple of {self.size_multiple}, which"
                                 f" this model needs; try {near}")
        return Size.of(size)


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of one array of `shape`; `dtype` is a numpy name such as ``float16``, or bfloat16."""
    return math.prod(shape) * int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
