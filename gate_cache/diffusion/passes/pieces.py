"""What combos read from a pass: some of its images, some of its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from gate_cache.core.size import Size

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec
    from gate_cache.diffusion.passes.schedule import Item, PassGroup, Tail
    from gate_cache.diffusion.techniques.base import Inputs


class Piece(NamedTuple):
    """Maps of some rows of a combo: name to (N, C, h, w) as computed, on the device."""

    combo: str
    rows: list[int]
    maps: dict[str, torch.Tensor]


class Ready(NamedTuple):
    """A pass that is about to run.

    Attributes
    ----------
    tail : of its lane
    items : its images, behind which the batch is filled up
    x : (B, 4, h, w) float32, noised and, where the lane's walk has steps, denoised
    run : the pass; gives what the UNet predicts, (B, 4, h, w)
    inputs : what it was made from
    """

    tail: Tail
    items: Sequence[Item]
    x: torch.Tensor
    run: Callable[[], torch.Tensor]
    inputs: Inputs


def pooled(maps: dict[str, torch.Tensor], specs: Sequence[MapSpec]) -> dict[str, torch.Tensor]:
    """Maps of one combo, those made smaller that it wants so, in float32.

    Torch's adaptive pooling: cell (i, j) of a grid of g rows is of the values from ⌊i·h/g⌋ to
    ⌈(i+1)·h/g⌉, and so in the other direction.
    """
    kinds: dict[str, Callable[..., torch.Tensor]] = {
        "mean": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}
    return {s.name: kinds[s.pool](maps[s.name].float(), Size.of(s.grid)) if s.grid else maps[s.name]
            for s in specs}


def pieces(lane: PassGroup, tail: Tail, items: Sequence[Item],
           maps: dict[str, torch.Tensor]) -> Iterator[Piece]:
    """What each combo reads from the maps of some images.

    Parameters
    ----------
    lane : whose passes yielded the maps
    tail : techniques of the passes' last part
    items : B images with their noises, in the batch's order
    maps : name to (B, C, h, w)
    """
    for half in dict.fromkeys(item.half for item in items):
        for reader in lane.readers[half, tail]:
            places = [i for i, item in enumerate(items)
                      if item.half == half and item.row in reader.rows]
            if places:
                yield Piece(reader.combo.name, [items[i].row for i in places], {
                    s.name: _taken(maps[s.name], places) for s in reader.combo.specs})


def _taken(values: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Some of a batch by slices: a list as an index would be copied to the device first."""
    parts = [values[run.start : run.stop] for run in runs(places)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def runs(numbers: Sequence[int]) -> Iterator[range]:
    """Numbers in as few ranges, in their order."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield range(numbers[start], numbers[end - 1] + 1)
            start = end
