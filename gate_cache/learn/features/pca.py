"""Feature maps as colours, by the first principal components of some of their positions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

Maps = npt.NDArray[np.float32]
PIXELS = 4096
"""Positions that the components are found from, about."""
_RANGE = (1.0, 99.0)


class ColourPCA:
    """The first three principal components of maps, as red, green and blue.

    Parameters
    ----------
    values : (C, h, w), from which they are found: of several maps, to compare them
    """

    def __init__(self, values: Maps) -> None:
        flat = values.reshape(len(values), -1).T
        pixels = np.asarray(flat[::max(len(flat) // PIXELS, 1)], np.float64)  # spread evenly
        self._pca = PCA(min(3, *pixels.shape), svd_solver="full")
        with np.errstate(invalid="ignore", divide="ignore"):  # shares of no variance at all
            kept = self._pca.fit_transform(pixels)
        self._low, self._high = np.percentile(kept, _RANGE, axis=0)

    def __call__(self, values: Maps) -> npt.NDArray[np.uint8]:
        """(C, h, w) to (h, w, 3); what lies beyond 98 % of the values is clipped."""
        c, h, w = values.shape
        components = self._pca.transform(values.reshape(c, -1).T.astype(np.float64))
        scale = np.where(self._high > self._low, self._high - self._low, 1)
        shares = np.clip((components - self._low) / scale, 0, 1)
        colours = np.full((h * w, 3), 0.5)
        colours[:, : shares.shape[1]] = shares
        return np.asarray((colours * 255).round().astype(np.uint8).reshape(h, w, 3))
