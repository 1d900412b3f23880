"""A model's results item by item (a pair, an image), as a file beside a run. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.replacing import replacing

Array = npt.NDArray[Any]
OWN = ("ids", "scores", "units", "masked")
"""Arrays of a file that are fields of `Items`; ``mask-0`` … are those of ``masked``, in order."""


@dataclass(frozen=True)
class Items:
    """Results over one split, item by item.

    Attributes
    ----------
    ids : (N, 1) images, or (N, 2) sources and targets
    scores : (N,) the metric that chooses, of each item alone, percent; NaN where it has none
    units : (N, …) counts: that metric over any items follows from the sum of theirs
    more : further arrays by name
    masks : predicted classes (H, W) of some images
    """

    ids: Array
    scores: npt.NDArray[np.float64]
    units: Array
    more: Mapping[str, Array] = field(default_factory=dict)
    masks: Mapping[str, Array] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a compressed ``.npz`` of plain arrays; a killed write leaves none."""
        arrays: dict[str, Array] = {
            "ids": self.ids, "scores": self.scores, "units": self.units, **self.more,
            "masked": np.array(list(self.masks), np.str_),
            **{f"mask-{i}": mask for i, mask in enumerate(self.masks.values())}}
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Items:
        """What `save` wrote; what is not a file of plain arrays raises OSError or ValueError."""
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Array] = {name: file[name] for name in file.files}
        if lacking := [name for name in OWN if name not in arrays]:
            raise ValueError(f"{path}: has no '{lacking[0]}'")
        masks = {str(name): arrays.pop(f"mask-{i}") for i, name in enumerate(arrays["masked"])}
        more = {name: array for name, array in arrays.items() if name not in OWN}
        return cls(arrays["ids"], arrays["scores"], arrays["units"], more, masks)


def extremes(scores: Sequence[float] | Array, count: int) -> tuple[list[int], list[int]]:
    """Numbers of the items with the lowest and the highest scores, the most extreme first.

    No item is in both; those without a score (NaN) are in neither.
    """
    values = np.asarray(scores, np.float64)
    scored = np.flatnonzero(~np.isnan(values))
    order = scored[np.argsort(values[scored], kind="stable")].tolist()
    few = min(count, (len(order) + 1) // 2)
    return order[:few], order[::-1][:min(count, len(order) - few)]
