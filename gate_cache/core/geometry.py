"""Where an image lies in the model's input: squashed to fill it, or whole, with padding.

Under ``keep`` the input has one of several shapes, and an image lies in it as under ``pad``.

Points are (…, 2) arrays of x and y as shares of the sides of an image, of the input or of a
window: (0, 0) is the corner of the top left pixel, (1, 1) the opposite corner. Under ``squash``
every conversion here is the identity, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.size import Area, Fit, Shapes, Sides, Size, nearest_shape

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The model's input.

    Attributes
    ----------
    size : in pixels; one number is made the size of a square
    fit : ``squash``: the image fills it, whatever its aspect; ``pad``: the image keeps its aspect,
        is as large as it can be, and padding is the rest; ``keep``: so, in the nearest of `shapes`
    shapes : of ``keep``, of which `size` is the square; without them the input has `size`
    """

    size: Size
    fit: Fit
    shapes: Shapes = ()

    def __init__(self, size: Sides, fit: Fit, shapes: Shapes = ()) -> None:
        object.__setattr__(self, "size", Size.of(size))
        object.__setattr__(self, "fit", fit)
        object.__setattr__(self, "shapes", shapes)

    def place(self, height: int, width: int) -> Placement:
        """Where an image of this many pixels lies.

        Unless it is squashed it is centred; the side that does not reach the borders is rounded to
        whole pixels, at least one.
        """
        size = nearest_shape(self.shapes, height, width) if self.shapes else self.size
        if self.fit == "squash":
            return Placement(size, 0, 0, *size)
        # as long as the input along one side: `times` of `of` is its scale
        times, of = (size.height, height) if height * size.width > width * size.height else \
            (size.width, width)
        high, wide = (max(1, (2 * side * times + of) // (2 * of)) for side in (height, width))
        return Placement(size, (size.height - high) // 2, (size.width - wide) // 2, high, wide)


@dataclass(frozen=True)
class Placement:
    """The area of one image in the model's input, in the input's pixels.

    Attributes
    ----------
    size : of the input
    top, left : of the area
    height, width : of the area
    """

    size: Size
    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> Area:
        """Rows and columns of the input that are the image's."""
        return (slice(self.top, self.top + self.height), slice(self.left, self.left + self.width))

    def to_frame(self, points: Points) -> Points:
        """Shares of the image's sides to shares of the input's."""
        return points * self._extent + self._origin

    def to_image(self, points: Points) -> Points:
        """Shares of the input's sides to shares of the image's; outside [0, 1] in the padding."""
        return (points - self._origin) / self._extent

    @property
    def _origin(self) -> Points:
        return np.asarray(np.array([self.left, self.top]) / self.size[::-1])

    @property
    def _extent(self) -> Points:
        return np.asarray(np.array([self.width, self.height]) / self.size[::-1])

    def window(self, resolution: Sides) -> Window:
        """The cells of a map of this size that show any of the image."""
        cells = Size.of(resolution)
        rows, columns = (slice(s.start * count // side, -(-s.stop * count // side))
                         for s, count, side in zip(self.area, cells, self.size, strict=True))
        return Window(self, cells, rows, columns)

    def mask(self, resolution: Sides) -> npt.NDArray[np.bool_]:
        """(h, w) bool of a map of this size: the cells that show any of the image."""
        window = self.window(resolution)
        mask = np.zeros(window.resolution, bool)
        mask[window.rows, window.columns] = True
        return mask

    def labels_to_frame(self, labels: npt.NDArray[Any], padding: int) -> npt.NDArray[Any]:
        """Bring a label map into the input by nearest neighbour (pixel centres).

        Parameters
        ----------
        labels : (height, width) of the original image, integers
        padding : label of what is not the image; the map's dtype must hold it

        Returns
        -------
        (H, W) of the input, of the same dtype
        """
        frame = np.full(self.size, padding, labels.dtype)
        # of `side` cells over `length` pixels: the pixel at the centre of each
        rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side) for length, side in
                         zip(labels.shape, (self.height, self.width), strict=True))
        frame[self.area] = labels[np.ix_(rows, columns)]
        return frame


@dataclass(frozen=True)
class Window:
    """The rectangle of a map's cells that show one image; whole cells, so it may show padding too.

    Attributes
    ----------
    resolution : of the map, in cells
    rows, columns : of the map
    """

    placement: Placement
    resolution: Size
    rows: slice
    columns: slice

    def cut(self, maps: Any) -> Any:
        """The window of (…, h, w) maps, numpy or torch: a view."""
        return maps[..., self.rows, self.columns]

    def enter(self, points: Points) -> Points:
        """Shares of the image's sides to shares of the window's."""
        return (self.placement.to_frame(points) - self._origin) / self._extent

    def leave(self, points: Points) -> Points:
        """Shares of the window's sides to shares of the image's, moved into the image."""
        return self.placement.to_image(points * self._extent + self._origin).clip(0, 1)

    @property
    def _origin(self) -> Points:
        return np.asarray(np.array([self.columns.start, self.rows.start]) / self.resolution[::-1])

    @property
    def _extent(self) -> Points:
        extent = [s.stop - s.start for s in (self.columns, self.rows)]
        return np.asarray(np.array(extent) / self.resolution[::-1])
