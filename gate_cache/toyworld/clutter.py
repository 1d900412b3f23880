"""Small things that furnish backgrounds and foregrounds, in unit picture coordinates.

Each is drawn by the function of its name: it stands or lies at (x, y), `h` high or with radius `r`.
"""

from collections.abc import Iterable

import numpy as np

from gate_cache.toyworld.canvas import COVER, RGB, Layer, Paint, Points, Rng, box, oval, spline, xy
from gate_cache.toyworld.looks import COLOURS, WHITE, mix, pick, tint, vary

BRIGHT = ("red", "orange", "yellow", "teal", "blue", "purple", "pink")
LEAF: RGB = (86, 148, 78)
WOOD: RGB = (136, 96, 64)


def cloud(layer: Layer, rng: Rng, x: float, y: float, r: float, part: str = "") -> None:
    """Draw a few overlapping puffs, which let the sky through unless they have a part name."""
    puffs = [oval((x + r * dx, y - r * rng.uniform(0.0, 0.3)), (r * k, r * k * 0.62))
             for dx, k in ((-0.9, 0.6), (-0.2, 0.9), (0.5, 0.75), (1.1, 0.45))]
    layer.add(puffs, Paint(WHITE, part, 0.06, 1.0 if part else rng.uniform(0.6, 0.95)))


def tree(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    """Draw a round tree or a fir that stands at (x, y)."""
    leaf = vary(rng, LEAF, 16)
    layer.limb([(x, y), (x, y - 0.5 * h)], (0.05 * h, 0.035 * h), Paint(WOOD))
    if rng.random() < 0.5:
        for k in (0.3, 0.52, 0.74):
            w = 0.3 * h * (1.15 - k)
            layer.polygon([(x - w, y - h * (k - 0.12)), (x, y - h * (k + 0.26)),
                           (x + w, y - h * (k - 0.12))],
                          Paint(tint(leaf, 0.8 + 0.25 * k), shade=0.12))
        return
    crown = [oval((x + dx * h, y - dy * h), (r * h, r * h * 0.9))
             for dx, dy, r in ((-0.14, 0.58, 0.2), (0.15, 0.6, 0.19), (0.0, 0.78, 0.23))]
    layer.add(crown, Paint(leaf, shade=0.18))


def house(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    w = h * rng.uniform(0.35, 0.5)
    wall = vary(rng, mix(COLOURS[pick(rng, (*BRIGHT, "cream"))], WHITE, 0.55))
    layer.rect(x - w, y - 0.62 * h, 2 * w, 0.62 * h, Paint(wall, shade=0.08))
    layer.polygon([(x - w * 1.15, y - 0.6 * h), (x, y - h), (x + w * 1.15, y - 0.6 * h)],
                  Paint(vary(rng, (170, 84, 70)), shade=0.1))
    for t in (-0.55, 0.25):
        layer.rect(x + t * w, y - 0.48 * h, 0.3 * w, 0.2 * h, Paint((120, 150, 176)))


def tower(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    w = h * rng.uniform(0.14, 0.24)
    layer.rect(x - w, y - h, 2 * w, h, Paint(vary(rng, (150, 152, 168), 26), shade=0.1))
    pane = Paint((244, 226, 160) if rng.random() < 0.5 else (110, 132, 160))
    panes = [box(px, py, 0.3 * w, 0.06 * h)
             for px in (x - 0.75 * w, x - 0.15 * w, x + 0.45 * w)
             for py in (y - 0.9 * h, y - 0.74 * h, y - 0.58 * h, y - 0.42 * h)]
    layer.add(panes, pane)


def rock(layer: Layer, rng: Rng, x: float, y: float, r: float, part: str = "") -> None:
    j = rng.uniform(0.8, 1.15, 5) * r
    layer.blob([(x - j[0] * 1.2, y), (x - j[1] * 0.8, y - j[1] * 0.8), (x + 0.1 * r, y - j[2]),
                (x + j[3] * 0.9, y - j[3] * 0.6), (x + j[4] * 1.2, y)],
               Paint(vary(rng, (140, 134, 132)), part, 0.22))


def ball(layer: Layer, rng: Rng, x: float, y: float, r: float) -> None:
    colour = COLOURS[pick(rng, BRIGHT)]
    layer.ellipse((x, y - r), (r, r), Paint(colour, shade=0.2))
    layer.ellipse((x, y - r), (r * 0.42, r), Paint(WHITE, shade=0.1), rng.uniform(-1, 1))
    layer.ellipse((x - 0.3 * r, y - 1.4 * r), (r * 0.16, r * 0.12), Paint(WHITE))


def flower(layer: Layer, rng: Rng, x: float, y: float, r: float) -> None:
    colour = COLOURS[pick(rng, BRIGHT)]
    layer.limb([(x, y), (x, y - 3 * r)], (0.22 * r,), Paint(tint(LEAF, 0.8)))
    petals = [oval((x + 0.7 * r * np.sin(a), y - 3 * r - 0.7 * r * np.cos(a)), (0.55 * r, 0.55 * r))
              for a in np.arange(5) * 1.2566]  # 2π/5, rounded: exact, all flowers would change
    layer.add(petals, Paint(colour))
    layer.ellipse((x, y - 3 * r), (0.42 * r, 0.42 * r), Paint((250, 220, 110)))


def cactus(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    paint = Paint(vary(rng, (78, 140, 96)), shade=0.2)
    layer.limb([(x, y), (x, y - h)], (0.1 * h,), paint)
    for side, at in ((-1, rng.uniform(0.3, 0.5)), (1, rng.uniform(0.4, 0.6))):
        elbow = (x + side * 0.26 * h, y - at * h)
        layer.limb([(x, y - at * h), elbow, (elbow[0], y - (at + 0.28) * h)], (0.065 * h,), paint)


def pot(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    leaf = vary(rng, LEAF, 16)
    for k in np.linspace(-0.9, 0.9, 5):
        tip = (x + k * 0.36 * h, y - h * (1 - 0.25 * abs(k)))
        layer.limb([(x, y - 0.35 * h), ((x + tip[0]) / 2 + 0.03 * k * h, y - 0.7 * h), tip],
                   (0.03 * h, 0.075 * h, 0.01 * h), Paint(tint(leaf, 0.85 + 0.2 * k)))
    w = 0.2 * h
    layer.polygon([(x - w, y - 0.38 * h), (x + w, y - 0.38 * h), (x + 0.7 * w, y),
                   (x - 0.7 * w, y)], Paint(vary(rng, (196, 112, 78)), shade=0.18))


def pickets(lefts: Iterable[float], low: float, high: float, tip: float) -> list[Points]:
    """Pointed boards of a fence, from `low` up to `high` at the sides and `tip` in the middle."""
    return [np.array([(x, low), (x, high), (x + 0.02, tip), (x + 0.04, high), (x + 0.04, low)])
            for x in lefts]


def tufts(layer: Layer, rng: Rng, y0: float, y1: float, colour: RGB, count: int) -> None:
    """Scatter short blades of grass between two heights."""
    blades = []
    for x, t, lean in rng.random((count, 3)):
        y = y0 + (y1 - y0) * t
        h = 0.012 + 0.03 * t
        blades.append(np.array([(x - 0.25 * h, y), (x + (lean - 0.5) * h, y - h),
                                (x + 0.25 * h, y)]))
    layer.add(blades, Paint(colour))


def hills(layer: Layer, rng: Rng, y: float, high: float, colour: RGB, peaks: bool) -> None:
    """Draw a range of hills, or of pointed mountains, that rises to `high` above y."""
    n = int(rng.integers(4, 7))
    x = np.linspace(-0.2, 1.2, n) + rng.uniform(-0.08, 0.08, n)
    tops = y - high * rng.uniform(0.3, 1.0, n)
    if peaks:
        tops[::2] = y - 0.1 * high
    ridge = np.stack([x, tops], axis=1)
    line = ridge if peaks else spline(ridge, closed=False)
    layer.polygon([(-0.3, y + 0.1), (-0.3, y), *line, (1.3, y), (1.3, y + 0.1)],
                  Paint(colour, shade=0.1))


def bush(layer: Layer, rng: Rng, x: float, y: float, r: float, part: str = COVER) -> None:
    """Draw a bush, by default in front of the object."""
    leaf = vary(rng, tint(LEAF, 0.9), 14)
    lumps = [oval((x + dx * r, y - dy * r), (k * r, k * r))
             for dx, dy, k in ((-0.8, 0.3, 0.55), (-0.25, 0.62, 0.62), (0.4, 0.5, 0.6),
                               (0.9, 0.25, 0.5))]
    lumps.append(oval((x, y), (1.2 * r, 0.4 * r)))
    layer.add(lumps, Paint(leaf, part, 0.18))
    dots = rng.uniform((-0.8, 0.0), (0.8, 0.8), (7, 2)) * r * (1, -1) + xy(x, y)
    layer.add([oval(d, (0.07 * r, 0.07 * r)) for d in dots], Paint(tint(leaf, 1.3)))
