"""Adaptive pose alignment: a source is matched as it is or mirrored (GeoAware-SC, section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.learn.features.pairs import PairPoints, shares
from gate_cache.learn.features.pixel_grid import centres

if TYPE_CHECKING:
    from gate_cache.learn.features.bucket import Buckets
    from gate_cache.learn.metrics.pck import Points

PLACES = centres((16, 16))
"""Where a source is compared with a target as a whole, as shares of its sides."""
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])")


class SourceDescriptors(NamedTuple):
    """Of one source, for one pair.

    Attributes
    ----------
    points : (K, D) of unit length
    places : (P, D) of unit length; None where nothing is aligned
    """

    points: torch.Tensor
    places: torch.Tensor | None


@dataclass(frozen=True)
class MirroredPose:
    """Sources as the model sees them mirrored.

    Attributes
    ----------
    buckets : of the mirrored twins of all combos; their maps lie as the image itself does
    partners : category to (K,) number of the point that each one is in the mirror
    """

    buckets: Buckets
    partners: Mapping[str, npt.NDArray[np.int64]]

    def points(self, pair: PairPoints) -> tuple[Points, npt.NDArray[np.bool_]]:
        """(K', 2) where the source shows what looks like each shared point when it is mirrored.

        And (K',) whether it does show that; where not, the places are the points' own.
        """
        partners = self.partners[pair.pair.category][pair.shared]
        shown = pair.source.visible[partners]
        return np.where(shown[:, None], shares(pair.source)[partners], pair.source_shares), shown

    def aligned(self, pair: PairPoints, plain: SourceDescriptors, mirrored: SourceDescriptors,
                target: torch.Tensor) -> torch.Tensor:
        """(K', D) descriptors of the pose that is nearer to a (D, h, w) target of unit descriptors.

        A point whose partner the source does not show keeps its own descriptor, so that the same
        points are judged whatever the pose.
        """
        if distance(mirrored, target) >= distance(plain, target):
            return plain.points
        shown = torch.from_numpy(self.points(pair)[1]).to(target.device, non_blocking=True)
        return torch.where(shown[:, None], mirrored.points, plain.points)


def distance(source: SourceDescriptors, target: torch.Tensor) -> float:
    """Instance matching distance: mean distance of the source's places to their nearest cells."""
    assert source.places is not None
    cosines = (source.places @ target.flatten(1)).amax(1)
    return float((2 - 2 * cosines).clamp_min(0).sqrt().mean())  # of unit vectors; ≥ 0 but rounded


def partners_of(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(K,) number of each point's mirror image: the one whose name has left and right exchanged.

    A point without such a partner is its own.
    """
    numbers = {name.lower(): number for number, name in enumerate(names)}
    other = {"left": "right", "right": "left"}
    return np.array([numbers.get(_SIDE.sub(lambda m: other[m[0]], name.lower()), number)
                     for number, name in enumerate(names)], np.int64)
