"""How one sample's stored arrays lie in memory: one piece, so that it is copied at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from gate_cache.store.format.encodings import SCALE, Encoding, Part

if TYPE_CHECKING:
    from gate_cache.store.format.maps import MapView
    from gate_cache.store.reader import FeatureStore

Maps = dict[str, dict[str, torch.Tensor]]
"""Combo name to map name to one image's map, (C, h, w)."""
Views = Mapping[str, Sequence["MapView"]]
"""Combo name to its maps that are read."""
_ALIGN = 64


def views_of(store: FeatureStore, combos: Iterable[str] | Mapping[str, Iterable[str] | None],
             ) -> dict[str, list[MapView]]:
    """The maps of combos, all of them where they are not named."""
    selection = combos if isinstance(combos, Mapping) else dict.fromkeys(combos)
    return {name: [store[name][m] for m in maps or store[name].maps]
            for name, maps in selection.items()}


class _Map(NamedTuple):
    combo: str
    view: MapView
    parts: Sequence[tuple[Part, int]]
    """Each with where it begins; where images differ in shape, the largest."""


class Layout:
    """How the stored arrays of one sample lie in one piece of memory.

    Attributes
    ----------
    nbytes : of a sample
    """

    def __init__(self, views: Views) -> None:
        self.nbytes = 0
        self.views, self._maps = views, []
        for combo, maps in views.items():
            for view in maps:
                parts = []
                for part in view.parts.values():
                    parts.append((part, self.nbytes))
                    self.nbytes += -(-part.nbytes // _ALIGN) * _ALIGN
                self._maps.append(_Map(combo, view, parts))
        self.one_view = all(m.view.encoding.dtype != "int8" and not m.view.combo.shaped
                            for m in self._maps)
        """Whether every sample's values are the same view of the memory."""

    def maps(self, memory: torch.Tensor, row: int) -> Maps:
        """A row's values, on the device that the memory is on; a view of it, unless it is int8."""
        decoded: Maps = {}
        for combo, view, parts in self._maps:
            own = view.parts_of(row)
            stored = {s: memory[at : at + p.nbytes].view(part_dtype(p)).view(p.shape)
                      for s, p, at in ((p.suffix, own[p.suffix], at) for p, at in parts)}
            decoded.setdefault(combo, {})[view.name] = decode(view.encoding, stored)
        return decoded

    def reads(self, memory: torch.Tensor) -> list[tuple[MapView, dict[str, memoryview]]]:
        """Each map with the bytes that its arrays are read into."""
        raw = memoryview(memory.numpy().data)
        views = [view for maps in self.views.values() for view in maps]
        return [(view, {p.suffix: raw[at : at + p.nbytes] for p, at in entry.parts})
                for view, entry in zip(views, self._maps, strict=True)]


def part_dtype(part: Part) -> torch.dtype:
    """Of the memory that a stored array is read into."""
    dtype = getattr(torch, part.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def decode(encoding: Encoding, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The values of stored rows, on the device that they are on.

    Parameters
    ----------
    parts : suffix to rows of each stored array (`gate_cache.store.format.maps.MapView.parts`)

    Returns
    -------
    (…, C, h, w) float16, float32 or bfloat16 as stored (a view); float32 of int8
    """
    if encoding.dtype == "int8":
        return parts[""] * parts[SCALE][..., None, None]
    return parts[""].view(torch.bfloat16) if encoding.dtype == "bfloat16" else parts[""]
