"""Pixel ensembles on all pixels of an image: linear layers first, at the maps' own cells.

The first layers of assigners and MLPs are linear, and so is bilinear interpolation: both orders
give the same values but for rounding. A map of a few thousand cells is multiplied instead of tens
of thousands of pixels, and each pixel then reads 4 cells a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from gate_cache.learn.features.pixel_grid import Taps, centres, read_at, taps, tiles
from gate_cache.learn.mixing.amalgamator import FixedWeights
from gate_cache.learn.mixing.vectors import VectorAmalgamator, VectorModel, Vectors
from gate_cache.learn.modules.pixel_mlp import FirstLayer, PixelMLPs
from gate_cache.learn.modules.probes import Probe
from gate_cache.learn.tasks.task import Output

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement, Points
    from gate_cache.learn.features.native import Native, NativeMaps

TILE_BYTES = 2**25
"""Hidden units of pixels, in float32, that are held at once."""
PIXELS = 4096
"""Of which features are read at once."""
Levels = Sequence[torch.Tensor]
"""One combo's maps, (C_l, h_l, w_l) each."""


def project(levels: Levels, weight: torch.Tensor) -> torch.Tensor:
    """Maps times a linear layer's (C, D) weight: a table of (cells, D)."""
    parts, start = [], 0
    for level in levels:
        parts.append(level.flatten(1).T @ weight[start:start + len(level)])
        start += len(level)
    return torch.cat(parts)


class WholeImage:
    """One image, read once, for any number of models.

    Parameters
    ----------
    maps : of all combos that any model uses
    size : (height, width) of the image, whose pixels are counted along the rows
    """

    def __init__(self, maps: NativeMaps, sample_id: str, size: tuple[int, int]) -> None:
        self._native: Native = maps(sample_id)
        self._maps, self._id = maps, sample_id
        self._size, self._device = size, maps.device
        self._place = maps.place(sample_id)
        self._extra_places = maps.extra_places(sample_id)

    @torch.inference_mode()
    def outputs(self, model: VectorModel, pixels: slice) -> Iterator[Output]:
        """Values (M, P, K) and weights (M, P, n, b) of some pixels, by tiles."""
        points, head = centres(self._size, pixels), model.head
        if isinstance(head, Probe):
            yield self._by_cells(model, head, points)
            return
        # what weighs channels, or projects them, must do so before anything is multiplied
        by_channel = getattr(model.mixer, "by_channel", False)
        if not isinstance(head, PixelMLPs) or by_channel or model.projection:
            yield from self._one_by_one(model, points)
            return
        mixed = self._mixed(model, points)
        n = mixed.shares.shape[2]
        first = head.first_layer(n * sum(map(len, mixed.combos[0])))
        reads = self._taps(mixed.combos[0], points)
        tables = [project(levels, first.maps(n)) for levels in mixed.combos]
        rest = [*self._rest(model, first, points)]
        for part in tiles(len(points), _at_once(len(tables) * tables[0].shape[1])):
            hidden, tile = first.bias, reads.of(part)
            for number, table in enumerate(tables):
                values = tile.read(table).view(-1, len(first.bias), n, first.units)
                hidden = hidden + torch.einsum("mpn,pmnh->mph",
                                               mixed.shares[:, part, :, number], values)
            for table, at in rest:
                values = at.of(part).read(table).view(-1, len(first.bias), first.units)
                hidden = hidden + values.transpose(0, 1)
            yield Output(head.after_first(hidden), mixed.weights[:, part])

    def _one_by_one(self, model: VectorModel, points: Points) -> Iterator[Output]:
        """The same for any head, and weights of channels: features are read at every pixel."""
        mixer, at_once = model.mixer, PIXELS
        if isinstance(mixer, VectorAmalgamator) and mixer.by_channel:
            at_once = min(PIXELS, _at_once(mixer.bias.numel() * len(self._maps.spec.combos)))
        for part in tiles(len(points), at_once):
            output = model(self._maps.at(self._native, self._id, points[part]))
            yield Output(output.values, output.weights.unflatten(0, (-1, len(points[part]))))

    def _by_cells(self, model: VectorModel, head: Probe, points: Points) -> Output:
        """A probe's values at the finest map's cells, interpolated at pixels as DINOv2 does it."""
        output, size = model(self._cells), self._maps.resolution_of(self._id)
        values = output.values[0].exp() if head.votes else output.values[0]
        grid = torch.cat([values, output.weights.flatten(1)], 1).T.reshape(1, -1, *size)
        at, count = read_at(grid, self._place, points)[:, 0], head.classes
        return Output((at[:, :count].log() if head.votes else at[:, :count])[None],
                      at[:, count:].reshape(1, len(points), *output.weights.shape[1:]))

    @cached_property
    def _cells(self) -> Vectors:
        """Features at the centres of all cells of the finest map."""
        places = self._place.to_image(centres(self._maps.resolution_of(self._id)))
        return self._maps.at(self._native, self._id, places)

    def _taps(self, levels: Levels, points: Points, place: Placement | None = None) -> Taps:
        return taps(place or self._place, [m.shape[-2:] for m in levels], points, self._device)

    def _mixed(self, model: VectorModel, points: Points) -> _Mixed:
        chosen = [model.of_bucket(level[None])[0] for level in self._native.levels]
        if model.attention == "bucket":  # mixed as further levels
            chosen += [m.expand(len(chosen[0]), *m.shape) for m in self._native.attention]
        mixer = model.mixer
        if isinstance(mixer, FixedWeights):
            # the same weights at every pixel: mixed first, one table is read in place of b
            sums = [torch.einsum("k,kchw->chw", mixer.weights, level) for level in chosen]
            one = torch.ones(1, 1, 1, 1, device=self._device)
            return _Mixed([sums], one.expand(-1, len(points), -1, -1),
                          mixer.weights.expand(1, len(points), 1, -1))
        combos = list(zip(*chosen, strict=True))
        shares = self._weigh(cast(VectorAmalgamator, mixer), combos, points)
        return _Mixed(combos, shares, shares)

    def _weigh(self, mixer: VectorAmalgamator, combos: Sequence[Levels],
               points: Points) -> torch.Tensor:
        """(M, P, n, b) weights: logits a combo at a time, then softmax over combos (Eq. 3)."""
        reads, first, logits = self._taps(combos[0], points), mixer.first, []
        for levels in combos:
            table = project(levels, first.weight.T)
            logits.append(torch.cat([mixer.logits(reads.of(part).read(table) + first.bias)
                                     for part in tiles(len(points), _at_once(table.shape[1]))]))
        return mixer.shares(torch.stack(logits, 1))

    def _rest(self, model: VectorModel, first: FirstLayer,
              points: Points) -> Iterator[tuple[torch.Tensor, Taps]]:
        """Tables of what is not amalgamated, attention and extra combos, with their taps."""
        if first.attention is not None:
            maps = self._native.attention
            yield project(maps, first.attention), self._taps(maps, points)
        start = 0
        for maps, place in zip(self._native.extra, self._extra_places, strict=True):
            assert first.extra is not None
            weight = first.extra[start:(start := start + sum(map(len, maps)))]
            yield project(maps, weight), self._taps(maps, points, place)


class _Mixed(NamedTuple):
    """What is summed: maps of each combo with shares (M or 1, P, n, b'), and the mixer's weights.

    A fixed mixture is summed before: then b' is 1, and the weights are not the shares.
    """

    combos: Sequence[Levels]
    shares: torch.Tensor
    weights: torch.Tensor


def _at_once(units: int) -> int:
    """Pixels of a tile."""
    return max(64, TILE_BYTES // (4 * units))
