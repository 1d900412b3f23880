"""Feature maps as colours: one PCA over several images, so that their colours can be compared."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import IncrementalPCA

Maps = npt.NDArray[np.float32]
PIXELS = 4096
"""Positions of each map that the components are found from, at most."""
_RANGE = (1.0, 99.0)


class ColourPCA:
    """The first three principal components of maps, as red, green and blue.

    Parameters
    ----------
    maps : each (C, h, w), in any number; read once, in turn
    """

    def __init__(self, maps: Iterable[Maps]) -> None:
        pixels = [_some(m) for m in maps]
        if not pixels:
            raise ValueError("no maps to find components of")
        count = min(3, *(min(p.shape) for p in pixels))
        self._pca = IncrementalPCA(count)
        with np.errstate(invalid="ignore", divide="ignore"):  # shares of no variance at all
            for part in pixels:
                self._pca.partial_fit(part)
        kept = [self._pca.transform(part) for part in pixels]
        self._low, self._high = np.percentile(np.concatenate(kept), _RANGE, axis=0)

    def __call__(self, values: Maps) -> npt.NDArray[np.uint8]:
        """(C, h, w) to (h, w, 3); what lies beyond 98 % of the values is clipped."""
        c, h, w = values.shape
        components = self._pca.transform(values.reshape(c, -1).T.astype(np.float64))
        scale = np.where(self._high > self._low, self._high - self._low, 1)
        shares = np.clip((components - self._low) / scale, 0, 1)
        colours = np.full((h * w, 3), 0.5)
        colours[:, : shares.shape[1]] = shares
        return np.asarray((colours * 255).round().astype(np.uint8).reshape(h, w, 3))


def _some(values: Maps) -> npt.NDArray[np.float64]:
    """(n, C) positions spread evenly over a map."""
    flat = values.reshape(len(values), -1).T
    step = max(len(flat) // PIXELS, 1)
    return np.asarray(flat[::step], np.float64)
