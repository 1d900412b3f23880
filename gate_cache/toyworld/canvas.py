"""Layers of shapes: the drawing primitives, their part labels and key points.

A `Layer` is a display list. It knows nothing about pixels: every point is a float in whatever
coordinates its author likes, and `Layer.placed` maps the whole layer with a 3x3 homography.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
RGB = tuple[float, float, float]
Points = npt.NDArray[np.float64]
PointLike = Points | Sequence[float]
PointsLike = Points | Sequence[PointLike]

COVER = "background"
"""Part name of shapes that hide what lies below them (label 0)."""

_NEAR = 0.015  # about a pixel at 64 px


class Decor(NamedTuple):
    """A patch of colour clipped to the shape it decorates."""

    points: Points
    colour: RGB


class Paint(NamedTuple):
    """How a shape is filled.

    Attributes
    ----------
    colour : RGB, 0 to 255
    part : to label; "" leaves the labels below as they are (eyes, highlights …)
    shade : strength of the light gradient over the shape; 0 is flat
    alpha : opacity
    soft : radius of the blurred edge, in picture units
    ink : whether the scene's contour line, if it has one, is drawn around the shape
    decor : texture, clipped to the shape
    fade : colour at the bottom of the shape, when it runs from `colour` at the top
    """

    colour: RGB
    part: str = ""
    shade: float = 0.0
    alpha: float = 1.0
    soft: float = 0.0
    ink: bool = False
    decor: tuple[Decor, ...] = ()
    fade: RGB | None = None

    @property
    def flat(self) -> bool:
        """Whether the shape has a single opaque colour."""
        plain = not self.shade and not self.decor and self.fade is None
        return plain and self.alpha >= 1 and not self.soft


@dataclass(slots=True)
class Shape:
    """The union of simple polygons, filled with one paint; `label` < 0 leaves the labels alone."""

    pieces: list[Points]
    paint: Paint
    label: int


@cache
def _spline_basis(samples: int) -> Points:
    t = np.arange(samples) / samples
    powers = np.stack([np.ones_like(t), t, t**2, t**3], axis=1)
    catmull_rom = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    basis: Points = powers @ catmull_rom
    return basis


@cache
def _circle(samples: int) -> Points:
    t = np.arange(samples) * (2 * np.pi / samples)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def xy(x: float, y: float) -> Points:
    """A point or an offset (2,)."""
    return np.array([x, y], dtype=np.float64)


def spline(points: PointsLike, *, closed: bool = True, samples: int = 6) -> Points:
    """Catmull-Rom curve through points (N, 2), as a polyline."""
    p = np.asarray(points, dtype=np.float64)
    n = len(p)
    if closed:
        q = np.concatenate([p[-1:], p, p[:2]])
        count = n
    else:
        q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])  # mirrored at the ends
        count = n - 1
    windows = np.stack([q[i : i + count] for i in range(4)], axis=1)
    curve: Points = (_spline_basis(samples) @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def box(x: float, y: float, w: float, h: float) -> Points:
    """Corners (4, 2) of an upright rectangle whose top left one is (x, y)."""
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], dtype=np.float64)


def oval(centre: PointLike, radii: tuple[float, float], angle: float = 0.0) -> Points:
    """Polygon (20, 2) of an ellipse; `angle` in radians, clockwise on the screen."""
    p = _circle(20) * radii
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        p = p @ np.array([[c, s], [-s, c]])
    moved: Points = p + centre
    return moved


def ray(start: PointLike, angle: float, length: float) -> Points:
    """Point (2,) at `length` from `start`; angle 0 points down, positive angles to the right."""
    return np.asarray(start, dtype=np.float64) + length * xy(np.sin(angle), np.cos(angle))


def _capsule(a: Points, b: Points, ra: float, rb: float) -> Points:
    # the hull of a circle at each end; of the floats, cv2 takes 32 bits only
    outline = np.concatenate([_circle(14) * ra + a, _circle(14) * rb + b]).astype(np.float32)
    return cv2.convexHull(outline)[:, 0].astype(np.float64)


def map_points(matrix: Points, points: Points) -> Points:
    """Points (N, 2) through a homography (3, 3)."""
    q = points @ matrix[:, :2].T + matrix[:, 2]
    mapped: Points = q[:, :2] / q[:, 2:]
    return mapped


@dataclass(slots=True)
class Layer:
    """Shapes from back to front, and named key points.

    A key point counts as hidden once a later shape with a part label covers it, so a key point
    is set right after the part on which it should be seen.
    """

    parts: Sequence[str] = ()
    shapes: list[Shape] = field(default_factory=list)
    keys: dict[str, Points] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)

    def add(self, pieces: Iterable[Points], paint: Paint) -> None:
        """Put the union of simple polygons on top."""
        label = -1
        if paint.part:
            label = 0 if paint.part == COVER else self.parts.index(paint.part) + 1
        self.shapes.append(Shape(list(pieces), paint, label))

    def polygon(self, points: PointsLike, paint: Paint) -> None:
        self.add([np.asarray(points, dtype=np.float64)], paint)

    def blob(self, points: PointsLike, paint: Paint) -> None:
        """Add a smooth closed shape through points."""
        self.add([spline(points)], paint)

    def ellipse(self, centre: PointLike, radii: tuple[float, float], paint: Paint,
                angle: float = 0.0) -> None:
        self.add([oval(centre, radii, angle)], paint)

    def rect(self, x: float, y: float, w: float, h: float, paint: Paint) -> None:
        """Add an upright rectangle with its top left corner at (x, y)."""
        self.add([box(x, y, w, h)], paint)

    def limb(self, points: PointsLike, radii: Sequence[float], paint: Paint) -> None:
        """Add a chain of round-ended, tapering segments with one radius per point."""
        p = np.asarray(points, dtype=np.float64)
        last = len(p) - 1
        r = np.interp(np.arange(last + 1) / last, np.linspace(0, 1, len(radii)), radii)
        self.add([_capsule(p[i], p[i + 1], r[i], r[i + 1]) for i in range(last)], paint)

    def key(self, name: str, point: PointLike, *, seen: bool = True) -> None:
        """Set a key point on what has been drawn so far; `seen=False` if this one lacks it."""
        self.keys[name] = np.asarray(point, dtype=np.float64)
        self.depth[name] = len(self.shapes) if seen else -1

    def hidden(self, front: "Layer") -> set[str]:
        """Names of key points that are missing or covered by a later shape, here or in front.

        A shape in front covers a little more than itself, so that no key point is left on a
        sliver of the object.
        """
        owned = [(p, i, 0.0) for i, s in enumerate(self.shapes) if s.label >= 0 for p in s.pieces]
        last = len(self.shapes)
        owned += [(p, last, _NEAR) for s in front.shapes if s.label >= 0 for p in s.pieces]
        low = np.array([p.min(axis=0) for p, _, _ in owned])
        high = np.array([p.max(axis=0) for p, _, _ in owned])
        order = np.array([i for _, i, _ in owned])
        names = set()
        for name, at in self.keys.items():
            close = ((low - _NEAR < at) & (at < high + _NEAR)).all(axis=1)
            above = ((order >= self.depth[name]) & close).nonzero()[0]
            if self.depth[name] < 0 or any(_covers(owned[i][0], at, owned[i][2]) for i in above):
                names.add(name)
        return names

    def extent(self, matrix: Points | None = None) -> tuple[Points, Points]:
        """Lowest and highest x, y over the labelled shapes, after a homography if one is given."""
        everything = np.concatenate([p for s in self.shapes if s.label >= 0 for p in s.pieces])
        if matrix is not None:
            everything = map_points(matrix, everything)
        return everything.min(axis=0), everything.max(axis=0)

    def placed(self, matrix: Points) -> "Layer":
        """A copy of the layer with every point mapped by a homography (3, 3)."""
        shapes = []
        for s in self.shapes:
            decor = tuple(Decor(map_points(matrix, d.points), d.colour) for d in s.paint.decor)
            shapes.append(Shape([map_points(matrix, p) for p in s.pieces],
                                s.paint._replace(decor=decor), s.label))
        spots = map_points(matrix, np.array(list(self.keys.values())).reshape(-1, 2))
        keys = dict(zip(self.keys, spots, strict=True))
        return Layer(self.parts, shapes, keys, dict(self.depth))


def _covers(piece: Points, at: Points, margin: float) -> bool:
    spot = (float(at[0]), float(at[1]))
    return cv2.pointPolygonTest(piece.astype(np.float32), spot, True) > -margin
