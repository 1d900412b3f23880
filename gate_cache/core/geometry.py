"""Where an image lies in the model's square: squashed to fill it, or whole, with padding.

Points are (…, 2) arrays of x and y as shares of the sides of an image, of the square or of a
window: (0, 0) is the corner of the top left pixel, (1, 1) the opposite corner. Under ``squash``
every conversion here is the identity, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gate_cache.core.preprocessing import Fit

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Square:
    """The model's input.

    Attributes
    ----------
    size : its side in pixels
    fit : ``squash``: the image fills it, whatever its aspect; ``pad``: the image keeps its aspect,
        its longer side fills the square, and padding the rest
    """

    size: int
    fit: Fit

    def place(self, height: int, width: int) -> Placement:
        """Where an image of this many pixels lies.

        Under ``pad`` it is centred; its shorter side is rounded to whole pixels, at least one.
        """
        if self.fit == "squash":
            return Placement(self.size, 0, 0, self.size, self.size)
        longer = max(height, width)
        high, wide = (max(1, (2 * side * self.size + longer) // (2 * longer))
                      for side in (height, width))
        return Placement(self.size, (self.size - high) // 2, (self.size - wide) // 2, high, wide)


@dataclass(frozen=True)
class Placement:
    """The area of one image in the square, in the square's pixels.

    Attributes
    ----------
    size : the square's side
    top, left : of the area
    height, width : of the area
    """

    size: int
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the square that are the image's."""
        return (slice(self.top, self.top + self.height), slice(self.left, self.left + self.width))

    def to_square(self, points: Points) -> Points:
        """Shares of the image's sides to shares of the square's."""
        return points * self._extent + self._origin

    def to_image(self, points: Points) -> Points:
        """Shares of the square's sides to shares of the image's; outside [0, 1] in the padding."""
        return (points - self._origin) / self._extent

    @property
    def _origin(self) -> Points:
        return np.array([self.left, self.top]) / self.size

    @property
    def _extent(self) -> Points:
        return np.array([self.width, self.height]) / self.size

    def window(self, resolution: int) -> Window:
        """The cells of a resolution × resolution map that show any of the image."""
        rows, columns = (slice(s.start * resolution // self.size,
                               -(-s.stop * resolution // self.size)) for s in self.area)
        return Window(self, resolution, rows, columns)

    def mask(self, resolution: int) -> npt.NDArray[np.bool_]:
        """(resolution, resolution) bool: the cells that show any of the image."""
        window = self.window(resolution)
        mask = np.zeros((resolution, resolution), bool)
        mask[window.rows, window.columns] = True
        return mask

    def labels_to_square(self, labels: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
        """Bring a label map into the square by nearest neighbour (pixel centres).

        Parameters
        ----------
        labels : (height, width) of the original image, integers
        padding : label of what is not the image; the map's dtype must hold it

        Returns
        -------
        (size, size) of the same dtype
        """
        square = np.full((self.size, self.size), padding, labels.dtype)
        # of `side` cells over `length` pixels: the pixel at the centre of each
        rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side) for length, side in
                         zip(labels.shape, (self.height, self.width), strict=True))
        square[self.area] = labels[np.ix_(rows, columns)]
        return square


@dataclass(frozen=True)
class Window:
    """The rectangle of a map's cells that show one image; whole cells, so it may show padding too.

    Attributes
    ----------
    resolution : side of the map in cells
    rows, columns : of the map
    """

    placement: Placement
    resolution: int
    rows: slice
    columns: slice

    def cut(self, maps: Any) -> Any:
        """The window of (…, resolution, resolution) maps, numpy or torch: a view."""
        return maps[..., self.rows, self.columns]

    def enter(self, points: Points) -> Points:
        """Shares of the image's sides to shares of the window's."""
        return (self.placement.to_square(points) - self._origin) / self._extent

    def leave(self, points: Points) -> Points:
        """Shares of the window's sides to shares of the image's, moved into the image."""
        return self.placement.to_image(points * self._extent + self._origin).clip(0, 1)

    @property
    def _origin(self) -> Points:
        return np.array([self.columns.start, self.rows.start]) / self.resolution

    @property
    def _extent(self) -> Points:
        return np.array([self.columns.stop - self.columns.start,
                         self.rows.stop - self.rows.start]) / self.resolution
