"""Backgrounds: where the objects are, and the light they are in.

A place is drawn by the function of its name, from the sky down to what lies on the ground below
`horizon` (unit picture coordinates, y down).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gate_cache.toyworld import clutter
from gate_cache.toyworld.canvas import RGB, Layer, Paint, Points, Rng, xy
from gate_cache.toyworld.looks import COLOURS, WHITE, mix, pick, tint, vary


@dataclass(frozen=True, slots=True)
class Mood:
    """Time of day: sky colours at the top and at the horizon, tint of the light, caption words."""

    words: str
    top: RGB
    low: RGB
    tint: RGB


MOODS = {
    "day": Mood("", (112, 176, 232), (214, 236, 246), (1.0, 1.0, 1.0)),
    "sunset": Mood("at sunset", (134, 112, 180), (255, 186, 122), (1.06, 0.93, 0.84)),
    "night": Mood("at night", (30, 36, 84), (84, 92, 150), (0.66, 0.72, 0.98))}


def _sky(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    top, low = vary(rng, mood.top, 14), vary(rng, mood.low, 10)
    # past the picture, as all that fills it: no border shows, and below the horizon comes ground
    layer.rect(-0.1, -0.05, 1.2, horizon + 0.1, Paint(top, fade=low))
    x, y, r = rng.uniform(0.08, 0.92), rng.uniform(0.08, 0.6) * horizon, rng.uniform(0.045, 0.08)
    if mood.words == "at night":
        stars = rng.random((14, 2)) * (1.0, horizon * 0.9)
        layer.add([_star(s) for s in stars], Paint((250, 244, 210)))
        layer.ellipse((x, y), (r, r), Paint((246, 238, 206)))
        layer.ellipse((x + 0.45 * r, y - 0.2 * r), (r * 0.85, r * 0.85),  # sky leaves a crescent
                      Paint(mix(top, low, y / horizon)))
    elif rng.random() < 0.6:
        layer.ellipse((x, y), (1.7 * r, 1.7 * r), Paint((255, 244, 190), alpha=0.35))
        layer.ellipse((x, y), (r, r), Paint((255, 236, 150)))
    if mood.words != "at night":
        for _ in range(int(rng.integers(1, 4))):
            clutter.cloud(layer, rng, rng.uniform(0, 1), rng.uniform(0.1, 0.8) * horizon,
                          rng.uniform(0.05, 0.1))


def _star(at: Points) -> Points:
    r = 0.006
    return np.array([at + xy(0, -r), at + xy(r, 0), at + xy(0, r), at + xy(-r, 0)])


def _ground(layer: Layer, rng: Rng, horizon: float, colour: RGB) -> RGB:
    """Fill below the horizon, darker towards the viewer; answer the colour."""
    colour = vary(rng, colour)
    paint = Paint(tint(colour, 1.1), fade=tint(colour, 0.8))
    layer.rect(-0.1, horizon, 1.2, 1.05 - horizon, paint)
    return colour


def sky(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, 1.0)
    for _ in range(3):
        clutter.cloud(layer, rng, rng.uniform(0, 1), rng.uniform(0.5, 1.0), rng.uniform(0.08, 0.16))


def meadow(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.hills(layer, rng, horizon, rng.uniform(0.08, 0.2), vary(rng, (128, 176, 146)),
                  bool(rng.random() < 0.3))
    for _ in range(int(rng.integers(1, 4))):
        clutter.tree(layer, rng, rng.uniform(0, 1), horizon + 0.02, rng.uniform(0.12, 0.26))
    green = _ground(layer, rng, horizon, (140, 192, 98))
    clutter.tufts(layer, rng, horizon + 0.02, 1.0, tint(green, 0.78), 34)
    for x, y in rng.uniform((0, horizon + 0.1), (1, 1), (int(rng.integers(2, 7)), 2)):
        clutter.flower(layer, rng, x, y, 0.012)


def forest(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.hills(layer, rng, horizon, 0.16, (96, 142, 112), False)
    for x in np.linspace(0.0, 1.0, 6) + rng.uniform(-0.08, 0.08, 6):
        clutter.tree(layer, rng, x, horizon + rng.uniform(0.0, 0.05), rng.uniform(0.28, 0.5))
    green = _ground(layer, rng, horizon + 0.04, (112, 152, 84))
    clutter.tufts(layer, rng, horizon + 0.06, 1.0, tint(green, 0.75), 26)
    clutter.rock(layer, rng, rng.uniform(0, 1), rng.uniform(horizon + 0.1, 0.95), 0.05)


def desert(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.hills(layer, rng, horizon, rng.uniform(0.08, 0.2), vary(rng, (206, 146, 110)),
                  bool(rng.random() < 0.5))
    _ground(layer, rng, horizon, (234, 196, 132))
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, 1), horizon + rng.uniform(0.02, 0.2)
        clutter.cactus(layer, rng, x, y, rng.uniform(0.1, 0.24))
    for _ in range(2):
        clutter.rock(layer, rng, rng.uniform(0, 1), rng.uniform(horizon + 0.06, 1), 0.04)


def snow(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.hills(layer, rng, horizon, rng.uniform(0.2, 0.34), vary(rng, (168, 184, 212)), True)
    for _ in range(int(rng.integers(2, 5))):
        clutter.tree(layer, rng, rng.uniform(0, 1), horizon + 0.03, rng.uniform(0.14, 0.26))
    _ground(layer, rng, horizon, (226, 234, 244))
    flakes = rng.random((16, 2))
    layer.add([_star(f) for f in flakes], Paint(WHITE))


def _water(layer: Layer, rng: Rng, y: float, colour: RGB) -> None:
    blue = _ground(layer, rng, y, colour)
    crest = Paint(tint(blue, 1.35))
    for x, t in rng.random((14, 2)):
        at = y + (1 - y) * (0.06 + 0.9 * t)
        w = 0.03 + 0.05 * t
        layer.limb([(x - w, at), (x, at - 0.1 * w), (x + w, at)], (0.003 + 0.003 * t,), crest)


def sea(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    if rng.random() < 0.4:
        clutter.hills(layer, rng, horizon, 0.1, vary(rng, (120, 150, 150)), False)
    _water(layer, rng, horizon, (64, 140, 190))


def harbour(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    for x in np.linspace(0.02, 0.98, 6):
        clutter.house(layer, rng, x, horizon + 0.01, rng.uniform(0.16, 0.3))
    layer.rect(-0.1, horizon, 1.2, 0.05, Paint((150, 138, 128)))
    _water(layer, rng, horizon + 0.04, (70, 138, 160))


def lake(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.hills(layer, rng, horizon, 0.28, vary(rng, (132, 150, 176)), True)
    for x in rng.uniform(0, 1, 5):
        clutter.tree(layer, rng, x, horizon + 0.02, rng.uniform(0.1, 0.22))
    _water(layer, rng, horizon, (88, 166, 178))


def beach(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    shore = horizon + rng.uniform(0.08, 0.16)
    _water(layer, rng, horizon, (74, 164, 196))
    sand = vary(rng, (240, 214, 156))
    edge = [(x, shore + rng.uniform(-0.015, 0.015)) for x in np.linspace(-0.1, 1.1, 6)]
    for lift, colour in ((0.018, WHITE), (0.0, sand)):
        layer.polygon([*[(x, y - lift) for x, y in edge], (1.1, 1.1), (-0.1, 1.1)],
                      Paint(colour, shade=0.06))
    clutter.ball(layer, rng, rng.uniform(0, 1), rng.uniform(shore + 0.1, 0.95), 0.05)
    if rng.random() < 0.5:
        clutter.rock(layer, rng, rng.uniform(0, 1), rng.uniform(shore + 0.06, 0.9), 0.05)


def street(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    building = clutter.house if rng.random() < 0.5 else clutter.tower
    for x in np.linspace(0.05, 0.95, 5) + rng.uniform(-0.04, 0.04, 5):
        building(layer, rng, x, horizon + 0.02, rng.uniform(0.28, 0.5))
    layer.rect(-0.1, horizon, 1.2, 0.12, Paint(vary(rng, (196, 188, 178)), shade=0.06))
    if rng.random() < 0.6:
        clutter.tree(layer, rng, rng.uniform(0, 1), horizon + 0.08, rng.uniform(0.24, 0.36))
    kerb = horizon + 0.1
    _ground(layer, rng, kerb, (122, 122, 134))
    y, x = (kerb + 1.04) / 2, rng.uniform(0, 0.2)
    for i in range(-1, 5):
        layer.rect(x + 0.24 * i, y, 0.12, 0.018, Paint((236, 226, 190)))


def garden(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _sky(layer, rng, mood, horizon)
    clutter.house(layer, rng, rng.uniform(0.1, 0.9), horizon, rng.uniform(0.3, 0.45))
    for x in rng.uniform(0, 1, 3):
        clutter.bush(layer, rng, x, horizon + 0.02, rng.uniform(0.08, 0.13), "")
    white = vary(rng, (236, 226, 208))
    layer.add(clutter.pickets(np.arange(-0.02, 1.0, 0.075), horizon + 0.04, horizon - 0.07,
                              horizon - 0.1), Paint(white))
    green = _ground(layer, rng, horizon + 0.03, (132, 186, 100))
    clutter.tufts(layer, rng, horizon + 0.06, 1.0, tint(green, 0.8), 24)
    for x, y in rng.uniform((0, horizon + 0.12), (1, 1), (int(rng.integers(3, 8)), 2)):
        clutter.flower(layer, rng, x, y, 0.014)


def _picture(layer: Layer, rng: Rng, x: float, y: float) -> None:
    w, h = rng.uniform(0.1, 0.16), rng.uniform(0.1, 0.16)
    layer.rect(x, y, w, h, Paint((120, 88, 62)))
    layer.rect(x + 0.015, y + 0.015, w - 0.03, h - 0.03,
               Paint(vary(rng, COLOURS[pick(rng, clutter.BRIGHT)]), shade=0.3))


def _window(layer: Layer, rng: Rng, mood: Mood, x: float, y: float) -> None:
    w, h = rng.uniform(0.2, 0.28), rng.uniform(0.2, 0.26)
    layer.rect(x - 0.015, y - 0.015, w + 0.03, h + 0.03, Paint((246, 240, 228)))
    layer.rect(x, y, w, h, Paint(mix(mood.top, mood.low, 0.4), shade=0.1))
    for bar in ((x + w / 2 - 0.006, y, 0.012, h), (x, y + h / 2 - 0.006, w, 0.012)):
        layer.rect(*bar, Paint((246, 240, 228)))


def _wall(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    tone = COLOURS[pick(rng, ("cream", "pink", "teal", "blue", "yellow", "green", "grey"))]
    wall = vary(rng, mix(tone, (240, 232, 222), 0.62))
    layer.rect(-0.1, -0.1, 1.2, horizon + 0.2, Paint(wall, shade=0.05))
    if rng.random() < 0.5:
        for x in np.arange(-0.02, 1.0, 0.13):
            layer.rect(x, -0.1, 0.055, horizon + 0.1, Paint(tint(wall, 0.95)))
    _window(layer, rng, mood, rng.uniform(0.02, 0.75), rng.uniform(0.04, 0.14))
    if rng.random() < 0.7:
        _picture(layer, rng, rng.uniform(0.02, 0.85), rng.uniform(0.05, 0.25))


def room(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _wall(layer, rng, mood, horizon)
    floor = _ground(layer, rng, horizon, (190, 146, 104))
    layer.rect(-0.1, horizon - 0.02, 1.2, 0.03, Paint((244, 238, 228)))
    for y in (0.2, 0.45, 0.75):
        at = horizon + (1 - horizon) * y
        layer.rect(-0.1, at, 1.2, 0.006, Paint(tint(floor, 0.82)))
    if rng.random() < 0.7:
        rug = COLOURS[pick(rng, clutter.BRIGHT)]
        spot, wide = (rng.uniform(0.3, 0.7), (horizon + 1) / 2 + 0.04), rng.uniform(0.3, 0.45)
        layer.ellipse(spot, (wide, 0.13), Paint(mix(rug, WHITE, 0.25)))
        layer.ellipse(spot, (wide * 0.82, 0.1), Paint(mix(rug, WHITE, 0.5)))
    if rng.random() < 0.6:
        clutter.pot(layer, rng, rng.uniform(0, 1), horizon + 0.06, rng.uniform(0.24, 0.4))
    if rng.random() < 0.4:
        clutter.ball(layer, rng, rng.uniform(0, 1), rng.uniform(horizon + 0.1, 0.98), 0.045)


def table(layer: Layer, rng: Rng, mood: Mood, horizon: float) -> None:
    _wall(layer, rng, mood, horizon)
    cloth = vary(rng, mix(COLOURS[pick(rng, (*clutter.BRIGHT, "brown"))], WHITE, 0.3))
    _ground(layer, rng, horizon, cloth)
    if rng.random() < 0.6:
        stripe = Paint(tint(cloth, 1.25))
        for x in np.linspace(-0.6, 1.6, 9):
            c = 0.5 + (x - 0.5) * 0.6
            layer.polygon([(c - 0.02, horizon), (c + 0.02, horizon), (x + 0.04, 1.1),
                           (x - 0.04, 1.1)], stripe)
    if rng.random() < 0.5:
        clutter.pot(layer, rng, rng.uniform(0, 1), horizon + 0.05, rng.uniform(0.2, 0.3))
    for _ in range(int(rng.integers(0, 3))):
        clutter.ball(layer, rng, rng.uniform(0, 1), rng.uniform(horizon + 0.06, 0.98), 0.04)


@dataclass(frozen=True, slots=True)
class Scenery:
    """A background: how to draw it, its words in a caption, whether it is indoors."""

    words: str
    draw: Callable[[Layer, Rng, Mood, float], None]
    indoors: bool = False
    water: bool = False

    @property
    def above(self) -> str:
        """The words for something that flies there."""
        if self.indoors or self.draw is sky:
            return self.words
        return "over " + self.words.split(" ", 1)[1]


PLACES = {
    "sky": Scenery("in the sky", sky),
    "meadow": Scenery("on a meadow", meadow),
    "forest": Scenery("in a forest", forest),
    "desert": Scenery("in a desert", desert),
    "snow": Scenery("in the snow", snow),
    "sea": Scenery("on the sea", sea, water=True),
    "harbour": Scenery("in a harbour", harbour, water=True),
    "lake": Scenery("on a lake", lake, water=True),
    "beach": Scenery("on a beach", beach),
    "street": Scenery("on a street", street),
    "garden": Scenery("in a garden", garden),
    "room": Scenery("in a room", room, indoors=True),
    "table": Scenery("on a table", table, indoors=True),
}
