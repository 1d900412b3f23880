"""An image's descriptors, and where they are found again in another image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.core.geometry import Points, Window
from gate_cache.learn.tasks.correspondence import nearest, sample


class Found(NamedTuple):
    """Where points were found.

    Attributes
    ----------
    points : (K, 2) shares of the image's sides
    similarity : (K,) cosine of the most similar cell
    """

    points: Points
    similarity: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Described:
    """One image's descriptors.

    Attributes
    ----------
    values : (D, h, w) of unit length over D, of the cells that show the image
    window : these cells
    """

    values: torch.Tensor
    window: Window

    def at(self, points: Points) -> torch.Tensor:
        """(K, D) descriptors at (K, 2) shares of the image's sides."""
        return sample(self.values, torch.from_numpy(self.window.enter(points)).to(self.values))

    def find(self, wanted: torch.Tensor) -> Found:
        """Where (K, D) descriptors are most similar: cosine nearest neighbour (paper, C.1)."""
        where = nearest(wanted, self.values).cpu().double()
        best = self.similarity(wanted).reshape(len(wanted), -1).max(1)
        return Found(self.window.leave(np.asarray(where)), best)

    def similarity(self, wanted: torch.Tensor) -> npt.NDArray[np.float32]:
        """(K, h, w) cosines of (K, D) descriptors with every cell."""
        found = torch.einsum("kd,dhw->khw", wanted, self.values)
        return np.asarray(found.float().cpu().numpy())


def match(source: Described, target: Described, points: Points) -> Found:
    """Where (K, 2) points of the source are found in the target."""
    return target.find(source.at(points))


def comes_back(source: Described, target: Described, points: Points,
               within: float) -> npt.NDArray[np.bool_]:
    """(K,) whether a point's match in the target is matched to near the point itself.

    Parameters
    ----------
    within : as a share of the source's sides
    """
    there = match(source, target, points).points
    back = match(target, source, there).points
    return np.asarray(np.hypot(*(back - points).T) <= within)
