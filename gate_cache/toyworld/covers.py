"""Things in front of the object, and the foam at a boat's hull."""

import numpy as np

from gate_cache.toyworld import clutter
from gate_cache.toyworld.backgrounds import Scenery
from gate_cache.toyworld.canvas import COVER, Layer, Paint, Rng, box
from gate_cache.toyworld.looks import COLOURS, WHITE, pick, tint, vary


def _fence(layer: Layer, rng: Rng, x: float, y: float, h: float) -> None:
    paint = Paint(vary(rng, (196, 156, 112)), COVER, 0.1)
    gap = rng.uniform(0.13, 0.18)
    planks = clutter.pickets(np.arange(x - 5 * gap, x + 5 * gap, gap), y, y - h, y - h - 0.025)
    rails = [box(-0.1, y - t * h, 1.2, 0.025) for t in (0.35, 0.8)]
    layer.add([*rails, *planks], paint)


def _pole(layer: Layer, rng: Rng, x: float, y: float) -> None:
    w = rng.uniform(0.03, 0.06)
    colour = vary(rng, COLOURS[pick(rng, ("grey", "brown", "red", "black"))])
    layer.rect(x - w / 2, -0.1, w, 1.2, Paint(colour, COVER, 0.15))
    for at in np.arange(0.05, 1.1, 0.22):
        layer.rect(x - w / 2, at, w, 0.035, Paint(tint(colour, 1.3)))


def _crate(layer: Layer, rng: Rng, x: float, y: float, r: float) -> None:
    wood = vary(rng, (198, 150, 98))
    layer.rect(x - r, y - 2 * r, 2 * r, 2 * r, Paint(wood, COVER, 0.12))
    dark = Paint(tint(wood, 0.72))
    for end in ((x + r, y - 2 * r), (x - r, y - 2 * r)):
        layer.limb([(2 * x - end[0], y), end], (0.08 * r,), dark)
    for t in (0.0, 1.86):
        layer.rect(x - r, y - 2 * r + t * r, 2 * r, 0.14 * r, dark)


def add(layer: Layer, rng: Rng, thing: Layer, place: Scenery, floating: bool) -> str:
    """Draw something that hides a part of the object; answer what."""
    low, high = thing.extent()
    w, h = high - low
    names: tuple[str, ...] = ("bush", "fence", "pole", "box", "rock")
    if floating:
        names = ("cloud", "cloud", "pole")  # twice as often
    elif place.indoors:
        names = ("box", "pole")
    elif place.water:
        names = ("rock", "pole")
    name = pick(rng, names)
    x = float(low[0] + w * (rng.uniform(0.08, 0.35) if rng.random() < 0.5
                            else rng.uniform(0.65, 0.92)))
    y = min(float(high[1]) + 0.03, 1.02)
    r = rng.uniform(0.17, 0.27) * float(max(w, h))
    if name == "cloud":
        clutter.cloud(layer, rng, x, float(low[1] + 0.7 * h), 0.6 * r, COVER)
    elif name == "bush":
        clutter.bush(layer, rng, x, y, r)
    elif name == "fence":
        _fence(layer, rng, x, y + 0.02, float(h) * rng.uniform(0.2, 0.32))
    elif name == "pole":
        _pole(layer, rng, x, y)
    elif name == "box":
        _crate(layer, rng, x, y, 0.8 * r)
    else:
        clutter.rock(layer, rng, x, y + 0.02, 1.1 * r, COVER)
    return name


def foam(layer: Layer, rng: Rng, thing: Layer, bottom: float) -> None:
    """Draw small waves along the waterline."""
    low, high = thing.extent()
    for t in np.linspace(0.08, 0.92, 6):
        x = float(low[0] + (high[0] - low[0]) * t)
        layer.ellipse((x, bottom + rng.uniform(-0.004, 0.012)), (0.06, 0.011),
                      Paint(WHITE, alpha=0.75))
