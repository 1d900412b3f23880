"""Turning layers into pixels.

A unit coordinate u lies at pixel u * size - 0.5, so that pixel centres are whole numbers: the
centre of the top left pixel is (0, 0), and the picture reaches from -0.5 to size - 0.5.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gate_cache.toyworld.canvas import Paint, Points, Shape

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Contour = npt.NDArray[np.int32]

SUPERSAMPLING = 4  # edges are drawn hard, so that labels fit them, and smoothed by averaging
_SHIFT = 4  # cv2 takes points as integers with so many bits behind the binary point


def to_pixels(points: Points, size: int) -> Points:
    """Unit coordinates (..., 2) as pixel coordinates of a picture of this size."""
    return points * size - 0.5


class Raster:
    """A supersampled picture with part labels.

    Attributes
    ----------
    image : uint8 (W, W, 3), RGB, W = size * SUPERSAMPLING
    labels : uint8 (W, W)
    """

    def __init__(self, size: int, light: tuple[float, float], ink: float) -> None:
        self.width = size * SUPERSAMPLING
        self.image: Image = np.zeros((self.width, self.width, 3), np.uint8)
        self.labels: Image = np.zeros((self.width, self.width), np.uint8)
        self._ink = round(2 * ink * self.width)
        x, y = light
        self._ramp = np.array([[x + y, y - x], [x - y, -x - y]])[:, :, None]

    def paint(self, shapes: list[Shape]) -> None:
        """Draw shapes over what is there."""
        for shape in shapes:
            pieces, paint = [self._fixed(p) for p in shape.pieces], shape.paint
            if paint.ink and self._ink:
                edge = tuple(c * 0.38 for c in paint.colour)  # under the fill: half of it shows
                cv2.polylines(self.image, pieces, True, edge, self._ink, cv2.LINE_8, _SHIFT)
            if shape.label >= 0:
                _fill(self.labels, pieces, (shape.label,))
            if paint.flat:
                _fill(self.image, pieces, paint.colour)
            else:
                self._blend(paint, pieces)

    def _fixed(self, points: Points) -> Contour:
        return np.rint(to_pixels(points, self.width) * (1 << _SHIFT)).astype(np.int32)

    def _corners(self, paint: Paint) -> Image:
        """Colours at the corners of a shape's bounding box, (2, 2, 3)."""
        rows = np.array((paint.colour, paint.fade or paint.colour))
        corners: Image = np.clip(rows[:, None] * (1 + paint.shade * self._ramp), 0, 255).astype(
            np.uint8)
        return corners

    def _blend(self, paint: Paint, pieces: list[Contour]) -> None:
        margin = int(2 * paint.soft * self.width) + 1
        points = np.concatenate(pieces) >> _SHIFT
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        x0, y0 = max(x0 - margin, 0), max(y0 - margin, 0)
        x1, y1 = min(x1 + margin + 1, self.width), min(y1 + margin + 1, self.width)
        if x0 >= x1 or y0 >= y1:
            return
        offset = np.array([x0, y0], np.int32) << _SHIFT
        roi = self.image[y0:y1, x0:x1]
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        _fill(mask, [p - offset for p in pieces], (255,))
        # a gradient over the whole shape, interpolated between its four corners
        colour: Any = cv2.resize(self._corners(paint), (x1 - x0, y1 - y0),
                                 interpolation=cv2.INTER_LINEAR)
        for patch, shade in paint.decor:
            _fill(colour, [self._fixed(patch) - offset], shade)
        if paint.soft:
            k = 2 * (margin // 2) + 1  # odd; two box blurs are near a Gaussian one, and quicker
            weight = cv2.blur(cv2.blur(mask, (k, k)), (k, k)).astype(np.float32)
            weight *= paint.alpha / 255
            below = roi.astype(np.float32)
            roi[:] = (below + (colour - below) * weight[:, :, None]).astype(np.uint8)
            return
        if paint.alpha < 1:
            colour = cv2.addWeighted(colour, paint.alpha, roi, 1 - paint.alpha, 0)
        cv2.copyTo(colour, mask, roi)


def _fill(target: Image, pieces: list[Contour], value: tuple[float, ...]) -> None:
    for piece in pieces:  # one by one: in one call, what two of them cover would be left out
        cv2.fillPoly(target, [piece], value, cv2.LINE_8, _SHIFT)


def reduce(image: Image, size: int) -> Image:
    """Average a supersampled image down to `size`."""
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def reduce_labels(labels: Image, cover: Image) -> Image:
    """One label per pixel: that of its middle, or of a thin part that covers much of it.

    `labels` is uint8 (W, W), `cover` the coverage of labels above 0, uint8 (size, size).
    """
    size, n = len(cover), SUPERSAMPLING
    middle = labels[n // 2 :: n, n // 2 :: n]
    highest = labels.reshape(size, n, size, n).max(axis=(1, 3))
    # A leg or a mast may miss the middle of a pixel that it fills for the most part: 30 % count.
    return np.where((middle == 0) & (cover > 76), highest, middle)


def pillow(image: Image, mask: Image, light: tuple[float, float], strength: float) -> Image:
    """Shade the masked object as if its middle were nearer than its rim.

    `image` is uint8 (size, size, 3), `mask` the object's coverage, uint8 (size, size).
    """
    size = len(mask)
    cover = mask.astype(np.float32) * (1 / 255)
    soft = cv2.GaussianBlur(cover, (0, 0), 0.055 * size)
    step = 0.04 * size
    shift = np.array([[1, 0, step * light[0]], [0, 1, step * light[1]]], np.float32)
    moved = cv2.warpAffine(soft, shift, (size, size), borderMode=cv2.BORDER_REPLICATE)
    gain = 1 + strength * cover * (soft - moved)
    shaded: Image = np.clip(image * gain[:, :, None], 0, 255).astype(np.uint8)
    return shaded


def grade(image: Image, tint: tuple[float, float, float], seed: int) -> Image:
    """Colour the light of the scene and lay a soft paper texture over it."""
    size = len(image)
    grain = np.random.default_rng(seed).standard_normal((32, 32), np.float32)
    paper = cv2.resize(grain, (size, size), interpolation=cv2.INTER_CUBIC)
    light = np.asarray(tint, np.float32) * (1 + 0.012 * paper[:, :, None])
    graded: Image = np.clip(image * light, 0, 255).astype(np.uint8)
    return graded


def dusk(image: Image) -> Image:
    """A finished picture in low light: violet above, a warm glow below the middle, low contrast."""
    height = np.linspace(0, 1, len(image), dtype=np.float32)[:, None, None]
    glow = np.exp(-(((height - 0.6) / 0.2) ** 2))
    tint = (1 - glow) * np.array([0.45, 0.38, 0.68], np.float32)
    tint = tint + glow * np.array([1.0, 0.6, 0.42], np.float32)
    light = (image / np.float32(255)) ** np.float32(1.2) * tint * 0.85
    light += np.array([0.05, 0.02, 0.09], np.float32)
    return np.asarray(np.clip(255 * light, 0, 255), np.uint8)


def box_of(mask: npt.NDArray[np.bool_], size: int) -> Floats:
    """Tight box float32 (4,) of a supersampled mask, in pixel coordinates of the picture."""
    scale = size / len(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return np.zeros(4, np.float32)
    ends: Floats = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    box: Floats = ends * np.float32(scale) - np.float32(0.5)
    return box
