"""Bottle and chair."""

import numpy as np

from gate_cache.toyworld.canvas import Layer, Paint, Points, PointsLike, Rng, spline
from gate_cache.toyworld.looks import WHITE, Look, mix, tint


def _label(layer: Layer, rng: Rng, look: Look, wide: float, y0: float, y1: float) -> None:
    paper = mix(WHITE, look.accent, 0.12)
    decor = look.texture(rng, -wide, y0, wide, y1)
    bulge = 0.035
    edge = [(-wide, y0), (0.0, y0 + bulge), (wide, y0)]
    low = [(wide, y1), (0.0, y1 + bulge), (-wide, y1)]
    layer.polygon([*spline(edge, closed=False), *spline(low, closed=False)],
                  Paint(paper, "label", 0.1, decor=decor))
    middle = (y0 + y1) / 2 + bulge
    r = 0.26 * (y1 - y0)
    if rng.random() < 0.6:
        layer.ellipse((0.0, middle), (r, r), Paint(look.accent))
        layer.ellipse((0.0, middle), (r * 0.5, r * 0.5), Paint(paper))
    else:
        for k in (-0.6, 0.2):
            layer.limb([(-wide * 0.6, middle + k * r), (wide * 0.6, middle + k * r)], (0.03,),
                       Paint(look.accent))
    layer.key("label centre", (0.0, middle))


def bottle(layer: Layer, rng: Rng, look: Look) -> str:
    """Draw an upright bottle; left and right are those of the viewer in front of it."""
    wide, thin = rng.uniform(0.24, 0.4), rng.uniform(0.085, 0.13)
    shoulder, mouth, slope = rng.uniform(-0.35, 0.05), -0.82, rng.uniform(0.1, 0.4)
    neck = max(shoulder - slope, mouth + 0.14)
    waist = wide * rng.uniform(0.84, 1.05)
    half = [(waist, 0.93), (waist, (shoulder + 0.95) / 2), (wide, shoulder + 0.04),
            (thin + 0.55 * (wide - thin), (shoulder + neck) / 2), (thin, neck)]
    side = spline([(waist, 0.97), *half], closed=False)
    left = side * (-1, 1)
    glass = look.main("body", 0.3)
    layer.rect(-thin, mouth, 2 * thin, neck - mouth + 0.02, glass._replace(part="neck"))
    layer.key("neck middle", (0.0, (mouth + 0.1 + neck) / 2))
    floor = spline([(-waist, 0.95), (0.0, 0.985), (waist, 0.95)], closed=False)
    layer.polygon([*floor, *side, *left[::-1]], glass)
    if rng.random() < 0.6:
        level = rng.uniform(shoulder - 0.02, shoulder + 0.4)
        w = (waist if level > shoulder + 0.1 else wide) - 0.045
        layer.polygon([(-w, level), (w, level), (waist - 0.045, 0.92), (0.045 - waist, 0.92)],
                      Paint(tint(look.base, 0.72), shade=0.2))
    for sign, name in ((-1.0, "left"), (1.0, "right")):
        layer.key(f"{name} shoulder", (sign * (wide - 0.015), shoulder + 0.04))
        layer.key(f"{name} base", (sign * (waist - 0.02), 0.94))
    y0 = shoulder + rng.uniform(0.16, 0.26)
    _label(layer, rng, look, waist * 0.985, y0, min(y0 + rng.uniform(0.36, 0.5), 0.84))
    shine = -0.62 * waist
    layer.limb([(shine, shoulder + 0.06), (shine, 0.82)], (0.026, 0.034), Paint(WHITE, alpha=0.55))
    layer.limb([(-thin * 0.5, mouth + 0.2), (-thin * 0.5, neck)], (0.018,), Paint(WHITE, alpha=0.5))
    tall = rng.uniform(0.1, 0.2)
    cap = thin + rng.uniform(0.015, 0.04)
    layer.rect(-cap, mouth - tall + 0.08, 2 * cap, tall, look.second("cap", 0.25))
    layer.limb([(-cap, mouth + 0.08), (cap, mouth + 0.08)], (0.014,), Paint(tint(look.accent, 0.6)))
    layer.key("cap top", (0.0, mouth - tall + 0.095))
    layer.key("cap base", (0.0, mouth + 0.07))
    return ""


class _View:
    """Parallel projection of points (x right of the sitter's front view, y up, z to the front)."""

    def __init__(self, yaw: float, height: float) -> None:
        self.c, self.s, self.h = np.cos(yaw), np.sin(yaw), height

    def __call__(self, x: float, y: float, z: float) -> Points:
        depth = z * self.c - x * self.s
        return np.array([x * self.c + z * self.s, -y + depth * self.h])

    def many(self, points: PointsLike) -> list[Points]:
        return [self(float(p[0]), float(p[1]), float(p[2])) for p in points]


def _slab(layer: Layer, view: _View, low: tuple[float, float, float],
          high: tuple[float, float, float], paint: Paint) -> None:
    """Draw the faces of a box that are turned to the viewer."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    side = x1 if view.s < 0 else x0
    front = z1 if view.c > 0 else z0
    faces = (
        (0.68, [(side, y0, z0), (side, y1, z0), (side, y1, z1), (side, y0, z1)]),
        (0.86, [(x0, y0, front), (x0, y1, front), (x1, y1, front), (x1, y0, front)]),
        (1.0, [(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)]))
    for light, corners in faces:
        decor = paint.decor if light > 0.7 else ()
        layer.polygon(view.many(corners),
                      paint._replace(colour=tint(paint.colour, light), decor=decor))


def _chair_back(layer: Layer, rng: Rng, look: Look, view: _View, size: Points) -> None:
    w, d, seat, top = size
    wood = look.main("back", 0.12)
    lean = -rng.uniform(0.0, 0.12)
    style = int(rng.integers(3))
    corners = [(-w, seat, -d), (w, seat, -d), (w, top, -d + lean), (-w, top, -d + lean)]
    posts = view.many(corners)
    if style == 0:
        points = np.array(posts)
        decor = look.texture(rng, *points.min(axis=0), *points.max(axis=0))
        layer.polygon(posts, wood._replace(decor=decor))
    else:
        bars = np.linspace(0.1, 0.9, 4) if style == 1 else np.linspace(0.3, 0.85, 3)
        for t in bars:
            ends = ((posts[0] + t * (posts[1] - posts[0]), posts[3] + t * (posts[2] - posts[3]))
                    if style == 1 else
                    (posts[0] + t * (posts[3] - posts[0]), posts[1] + t * (posts[2] - posts[1])))
            layer.limb(ends, (0.03 if style == 1 else 0.05,), wood)
    for a, b in ((0, 3), (1, 2), (3, 2)):
        layer.limb([posts[a], posts[b]], (0.045,), wood)
    layer.key("back top right", posts[3])
    layer.key("back top left", posts[2])


def _cushion(layer: Layer, rng: Rng, look: Look, view: _View, size: Points) -> None:
    w, d, seat = (size - 0.05)[:3].tolist()
    seat += 0.05
    corners = np.array(view.many([(x, seat, z) for x in (-w, w) for z in (-d, d)]))
    decor = look.texture(rng, *corners.min(axis=0), *corners.max(axis=0))
    decor = tuple(p._replace(colour=look.base) for p in decor)
    plush = Paint(mix(look.accent, WHITE, 0.15), "cushion", 0.12, ink=True, decor=decor)
    _slab(layer, view, (-w, seat, -d), (w, seat + 0.07, d), plush)


def _chair_legs(layer: Layer, look: Look, view: _View, size: Points, end: str,
                splay: float) -> None:
    w, d, seat, _ = size
    z = d if end == "front" else -d
    far = (z * view.c < 0) or (end == "back" and view.c > 0)
    for side, name in ((-1.0, "right"), (1.0, "left")):
        top = view(side * (w - 0.05), seat, z * 0.9)
        foot = view(side * (w - 0.05 + splay), 0.0, z * (0.9 + splay))
        paint = look.behind("leg") if far else look.main("leg", 0.08)
        layer.limb([top, foot], (0.05, 0.036), paint)
        layer.key(f"{end} {name} foot", foot)


def _chair_arms(layer: Layer, look: Look, view: _View, size: Points, side: float) -> None:
    w, d, seat, _ = size
    high = seat + 0.3
    wood = look.main("arm", 0.1)
    x = side * w
    layer.limb([view(x, seat, d * 0.8), view(x, high, d * 0.8)], (0.035,), wood)
    layer.limb([view(x, high, -d), view(x, high, d * 0.95)], (0.045,), wood)


def chair(layer: Layer, rng: Rng, look: Look) -> str:
    """Draw a chair in three dimensions; left and right are the sitter's."""
    behind = bool(rng.random() < 0.25)
    yaw = rng.uniform(0.15, 0.85) * (1 if rng.random() < 0.5 else -1)
    view = _View(yaw + (np.pi if behind else 0.0), rng.uniform(0.28, 0.5))
    w, d = rng.uniform(0.36, 0.5), rng.uniform(0.34, 0.44)
    seat = rng.uniform(0.5, 0.75)
    size = np.array([w, d, seat, seat + rng.uniform(0.6, 0.95)])
    splay, arms = rng.uniform(0.0, 0.06), bool(rng.random() < 0.4)
    for end in ("front", "back") if behind else ("back", "front"):  # what is far is drawn first
        _chair_legs(layer, look, view, size, end, splay)
    if not behind:
        _chair_back(layer, rng, look, view, size)
    far = 1.0 if view.s > 0 else -1.0
    if arms:
        _chair_arms(layer, look, view, size, far)
    _slab(layer, view, (-w, seat - 0.07, -d), (w, seat, d), look.main("seat", 0.1))
    for z, name in ((d, "front"), (-d, "back")):
        layer.key(f"seat {name} right", view(-w, seat, z))
        layer.key(f"seat {name} left", view(w, seat, z))
    if rng.random() < 0.65:
        _cushion(layer, rng, look, view, size)
    if arms:
        _chair_arms(layer, look, view, size, -far)
    if behind:
        _chair_back(layer, rng, look, view, size)
    return ""
