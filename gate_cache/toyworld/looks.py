"""Colours and textures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gate_cache.toyworld.canvas import RGB, Decor, Paint, Rng, oval, spline
from gate_cache.toyworld.names import WORLD

COLOURS: dict[str, RGB] = {name: (r, g, b) for name, (r, g, b) in WORLD["colours"].items()}
INK: RGB = (44, 38, 48)
WHITE: RGB = (250, 248, 244)


def tint(colour: RGB, factor: float) -> RGB:
    """The colour, darker (factor < 1) or lighter (factor > 1, towards white)."""
    if factor <= 1:
        return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
    return mix(colour, WHITE, 1 - 1 / factor)


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Colour at `t` of the way from `a` to `b`."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def vary(rng: Rng, colour: RGB, amount: float = 12.0) -> RGB:
    """The colour, slightly off."""
    a, b, c, light = (rng.random(4) * (2 * amount) - amount).tolist()
    red, green, blue = colour
    return (_limit(red + a + light), _limit(green + b + light), _limit(blue + c + light))


def _limit(value: float) -> float:
    return min(max(value, 12.0), 252.0)


def pick(rng: Rng, names: Sequence[str]) -> str:
    """One of the names."""
    return names[int(rng.integers(len(names)))]


@dataclass(frozen=True, slots=True)
class Look:
    """Colours and texture of one object.

    Attributes
    ----------
    name : the word for the main colour
    base, accent : main and second colour, RGB 0 to 255
    pattern : "plain", "striped", "spotted" or "patched"
    """

    name: str
    base: RGB
    accent: RGB
    pattern: str

    def main(self, part: str, shade: float = 0.16, decor: tuple[Decor, ...] = ()) -> Paint:
        """Paint of the near side."""
        return Paint(self.base, part, shade, ink=True, decor=decor)

    def behind(self, part: str) -> Paint:
        """Paint of the far side, in shadow."""
        return Paint(tint(self.base, 0.72), part, 0.1, ink=True)

    def second(self, part: str, shade: float = 0.16) -> Paint:
        """Paint in the second colour."""
        return Paint(self.accent, part, shade, ink=True)

    def texture(self, rng: Rng, x0: float, y0: float, x1: float, y1: float) -> tuple[Decor, ...]:
        """The pattern over a rectangle, in the accent colour."""
        draw = _PATTERNS.get(self.pattern)
        return draw(rng, self.accent, (x0, y0, x1 - x0, y1 - y0)) if draw else ()


Rect = tuple[float, float, float, float]


def _stripes(rng: Rng, colour: RGB, rect: Rect) -> tuple[Decor, ...]:
    x, y, w, h = rect
    count = int(rng.integers(4, 8))
    slant, thick = rng.uniform(-0.2, 0.2) * h, rng.uniform(0.35, 0.55) * w / count
    bend = rng.uniform(-0.6, 0.6) * w / count
    bands = []
    for i in range(count):
        a = x + (i + 0.3) * w / count
        left = [(a, y), (a + bend + slant / 2, y + h / 2), (a + slant, y + h)]
        right = [(px + thick, py) for px, py in reversed(left)]
        bands.append(Decor(np.array(left + right), colour))
    return tuple(bands)


def _spots(rng: Rng, colour: RGB, rect: Rect) -> tuple[Decor, ...]:
    x, y, w, h = rect
    r = 0.085 * np.sqrt(w * h) * rng.uniform(0.8, 1.2)
    nx, ny = max(2, round(w / (3.0 * r))), max(2, round(h / (3.0 * r)))
    spots = []
    for i in range(min(nx * ny, 32)):  # every other row moved by half a step
        jitter = rng.uniform(-0.25, 0.25, 2)
        cx = x + (i % nx + 0.5 + 0.5 * (i // nx % 2) + jitter[0]) * w / nx
        cy = y + (i // nx + 0.5 + jitter[1]) * h / ny
        spots.append(Decor(oval((cx, cy), (r, r)), colour))
    return tuple(spots)


def _patches(rng: Rng, colour: RGB, rect: Rect) -> tuple[Decor, ...]:
    x, y, w, h = rect
    angles = np.arange(7) * (2 * np.pi / 7)
    patches = []
    for _ in range(int(rng.integers(3, 6))):
        centre = (x + rng.uniform(0, 1) * w, y + rng.uniform(0, 1) * h)
        r = rng.uniform(0.12, 0.28, 7) * np.sqrt(w * h)
        ring = np.stack([np.cos(angles) * r, np.sin(angles) * r], axis=1)
        patches.append(Decor(spline(ring + np.array(centre), samples=4), colour))
    return tuple(patches)


_PATTERNS: dict[str, Callable[[Rng, RGB, Rect], tuple[Decor, ...]]] = {
    "striped": _stripes, "spotted": _spots, "patched": _patches}
