"""Aeroplane, boat and car."""

import numpy as np

from gate_cache.toyworld.canvas import Layer, Paint, PointLike, Points, Rng, spline, xy
from gate_cache.toyworld.looks import INK, WHITE, Look, mix, tint

GLASS = (150, 200, 226)


def _engine(layer: Layer, at: Points, colour: tuple[float, float, float], propeller: bool) -> None:
    layer.limb([at + xy(-0.1, 0.0), at + xy(0.1, 0.0)], (0.05, 0.075),
               Paint(colour, "engine", 0.22, ink=True))
    if propeller:
        layer.ellipse(at + xy(0.19, 0.0), (0.02, 0.19), Paint(INK, "engine"))
        layer.ellipse(at + xy(0.19, 0.0), (0.03, 0.035), Paint(WHITE))
    else:
        layer.ellipse(at + xy(0.125, 0.0), (0.035, 0.06), Paint(INK))


def aeroplane(layer: Layer, rng: Rng, look: Look) -> str:
    fat, near, far = rng.uniform(0.12, 0.18), rng.uniform(0.3, 0.62), rng.uniform(0.2, 0.5)
    sweep, propeller = rng.uniform(0.15, 0.5), bool(rng.random() < 0.4)
    wing = look.second("wing", 0.18)
    behind = Paint(tint(look.accent, 0.75), "wing", 0.1, ink=True)

    tip = np.array([0.12 - sweep, -0.04 - far])
    layer.polygon([(0.3, -0.02), tip + xy(0.09, 0), tip - xy(0.07, 0), (-0.1, -0.02)], behind)
    layer.key("far wing tip", tip + xy(0.0, 0.02))
    layer.polygon([(-0.62, -0.06), (-0.82, -0.24), (-0.93, -0.24), (-0.84, -0.06)],
                  behind._replace(part="tail"))

    nose, end = np.array([0.92, 0.04]), np.array([-0.95, -0.08])
    hull: list[PointLike] = [
        nose, (0.76, -fat * 0.72), (0.45, -fat), (-0.3, -fat), end, (-0.55, fat * 0.55),
        (-0.1, fat), (0.5, fat), (0.78, fat * 0.9)]
    decor = look.texture(rng, -0.9, -fat, 0.6, fat)
    fin = rng.uniform(0.34, 0.48)
    top = np.array([-0.9 - 0.1 * sweep, -0.08 - fin])
    layer.polygon([(-0.5, -fat * 0.8), top + xy(0.1, 0), top - xy(0.05, 0), (-0.92, -0.06)],
                  look.second("tail"))
    layer.key("fin tip", top + xy(0.02, 0.02))
    layer.blob(hull, look.main("fuselage", 0.25, decor))
    layer.limb(spline([(-0.8, 0.02), (0.0, fat * 0.5), (0.85, fat * 0.5)], closed=False),
               (0.022,), Paint(look.accent))
    for x in np.linspace(-0.45, 0.5, int(rng.integers(5, 10))):
        layer.ellipse((float(x), -fat * 0.35), (0.032, 0.036), Paint(GLASS))
    glass = [(0.62, -fat * 0.82), (0.77, -fat * 0.6), (0.84, -fat * 0.24), (0.64, -fat * 0.2)]
    layer.polygon(glass, Paint(mix(GLASS, INK, 0.55), "cockpit", 0.3))
    layer.key("cockpit", np.mean(glass, axis=0))
    layer.key("nose", nose - xy(0.03, 0.0))
    layer.key("tail end", end + xy(0.03, 0.0))

    small = np.array([-0.98, 0.02 + 0.28 * near])
    layer.polygon([(-0.64, -0.03), small + xy(0.1, 0), small - xy(0.04, 0), (-0.88, -0.05)],
                  look.second("tail"))
    layer.key("tailplane tip", small)
    root, tip = np.array([0.28, fat * 0.45]), np.array([0.05 - sweep, fat * 0.45 + near])
    at = root + 0.45 * (tip - root)
    if not propeller:
        _engine(layer, at + xy(0.04, 0.06), tint(look.base, 0.9), propeller)
        layer.key("engine", at + xy(0.13, 0.06))
    layer.polygon([root, tip + xy(0.1, 0.0), tip - xy(0.1, 0.01), root - xy(0.46, 0.01)], wing)
    if propeller:
        _engine(layer, at + xy(0.04, 0.0), tint(look.base, 0.9), propeller)
        layer.key("engine", at + xy(0.13, 0.0))
    layer.key("wing root", root - xy(0.02, -0.02))
    layer.key("wing tip", tip - xy(0.0, 0.02))
    return "flying"


def _sails(layer: Layer, rng: Rng, look: Look, foot: Points, top: Points) -> None:
    wind = rng.uniform(0.02, 0.12)
    boom = np.array([foot[0] - rng.uniform(0.55, 0.75), -0.14 + rng.uniform(-0.06, 0.03)])
    mast = top + xy(-0.02, 0.08)
    low = np.array([foot[0] - 0.02, -0.14])
    canvas = mix(look.accent, WHITE, 0.75 if rng.random() < 0.6 else 0.1)
    decor = look.texture(rng, boom[0], top[1], low[0], 0.0)
    middle = (mast + boom) / 2 + xy(-0.4 * wind, -wind)
    leech = spline([mast, middle, boom], closed=False)
    layer.polygon([low, *leech], Paint(canvas, "sail", 0.16, ink=True, decor=decor))
    layer.limb([low, boom], (0.02,), Paint((120, 84, 56), "mast"))
    layer.key("boom end", boom + xy(0.02, 0.0))
    if rng.random() < 0.75:
        head, tack = top + xy(0.03, 0.18), np.array([0.82, -0.1])
        luff = spline([head, (head + tack) / 2 + xy(wind, -0.02), tack], closed=False)
        pale = Paint(mix(canvas, look.base, 0.25), "sail", 0.16, ink=True)
        layer.polygon([*luff, (foot[0] + 0.08, -0.1)], pale)


def _cabin(layer: Layer, rng: Rng, look: Look, x: float, high: float) -> None:
    wide = rng.uniform(0.34, 0.5)
    wall = mix(WHITE, look.accent, 0.15)
    layer.polygon([(x, 0.04), (x + 0.03, -high), (x + wide - 0.08, -high), (x + wide, 0.04)],
                  Paint(wall, "cabin", 0.14, ink=True))
    layer.limb([(x, -high), (x + wide - 0.05, -high)], (0.03,), look.second("cabin"))
    for t in (0.24, 0.56):
        layer.ellipse((x + wide * t + 0.02, -high * 0.55), (0.05, 0.05), Paint(GLASS))
    layer.key("cabin top", (x + wide * 0.5, -high))


def boat(layer: Layer, rng: Rng, look: Look) -> str:
    sailing = bool(rng.random() < 0.72)
    foot = np.array([rng.uniform(-0.02, 0.16), 0.03])
    top = np.array([foot[0], -rng.uniform(0.85, 1.15) if sailing else -rng.uniform(0.6, 0.75)])
    layer.limb([foot, top], (0.028, 0.02), Paint((120, 84, 56), "mast", 0.1))
    wave = rng.uniform(-0.05, 0.05)
    pennant = np.array([top[0] - 0.26, top[1] + 0.06 + wave])
    middle = (top + pennant) / 2 - xy(0.0, 0.035 - wave / 2)
    layer.polygon([top, middle, pennant, top + xy(0.0, 0.14)],
                  Paint(look.base if sailing else look.accent, "flag", 0.2, ink=True))
    layer.key("mast top", top + xy(0.0, 0.01))
    layer.key("flag tip", pennant + xy(0.03, 0.0))
    if sailing:
        _sails(layer, rng, look, foot, top)
    else:
        layer.key("boom end", (foot[0] - 0.6, -0.14), seen=False)
    _cabin(layer, rng, look, *((-0.5, 0.2) if sailing else (-0.42, rng.uniform(0.3, 0.44))))
    bow, stern = np.array([0.9, -0.1 + rng.uniform(-0.06, 0.04)]), np.array([-0.76, -0.04])
    deep, rake = rng.uniform(0.28, 0.38), rng.uniform(0.2, 0.4)
    sheer = spline([stern, (-0.2, 0.04), (0.4, 0.02), bow], closed=False)
    decor = look.texture(rng, -0.8, -0.1, 0.9, deep) if not sailing else ()
    belly = spline([bow, (bow[0] - rake * 0.6, deep * 0.6), (bow[0] - rake, deep)], closed=False)
    layer.polygon([*sheer, *belly, (-0.64, deep)], look.main("hull", 0.2, decor))
    layer.limb(sheer + xy(0.0, 0.035), (0.026,), Paint(look.accent))
    layer.polygon([(-0.67, deep * 0.72), (bow[0] - rake * 0.74, deep * 0.72),
                   (bow[0] - rake, deep), (-0.64, deep)], Paint(tint(look.base, 0.7)))
    layer.key("mast foot", foot)
    layer.key("bow", bow + xy(-0.03, 0.02))
    layer.key("stern", stern + xy(0.02, 0.02))
    layer.key("keel front", (bow[0] - rake - 0.01, deep - 0.015))
    layer.key("keel rear", (-0.63, deep - 0.015))
    return "sailing" if sailing else ""


def _wheel(layer: Layer, at: Points, r: float, rim: tuple[float, float, float]) -> None:
    layer.ellipse(at, (r, r), Paint(INK, "wheel", 0.2))
    layer.ellipse(at, (r * 0.58, r * 0.58), Paint(rim, shade=0.2))
    layer.ellipse(at, (r * 0.2, r * 0.2), Paint(tint(rim, 0.55)))


def _car_roof(layer: Layer, look: Look, ends: tuple[float, float, float, float], belt: float,
              top: float) -> None:
    """Draw roof and windows; `ends` are rear and front x at the belt, rear and front at the top."""
    rear, front, top_rear, top_front = ends
    layer.blob([(rear, belt + 0.06), (rear, belt), (top_rear, top), ((top_rear + top_front) / 2,
               top - 0.035), (top_front, top), (front, belt), (front, belt + 0.06)],
               look.main("roof", 0.2))
    layer.key("roof rear", (top_rear, top + 0.005))
    layer.key("roof front", (top_front, top + 0.005))
    pane = Paint(GLASS, "window", 0.25)
    middle = (top_rear + top_front) / 2 + 0.02
    high = top + 0.055
    layer.polygon([(rear + 0.08, belt + 0.02), (top_rear + 0.04, high), (middle - 0.02, high),
                   (middle - 0.02, belt + 0.02)], pane)
    layer.polygon([(middle + 0.03, belt + 0.02), (middle + 0.03, high), (top_front - 0.02, high),
                   (front - 0.09, belt + 0.02)], pane)
    layer.polygon([(middle + 0.1, belt + 0.02), (middle + 0.2, high), (middle + 0.26, high),
                   (middle + 0.16, belt + 0.02)], Paint(WHITE, alpha=0.5))


def car(layer: Layer, rng: Rng, look: Look) -> str:
    model = int(rng.integers(3))
    belt, r = -0.1 + rng.uniform(-0.04, 0.03), rng.uniform(0.17, 0.22)
    top = belt - (rng.uniform(0.3, 0.38) if model != 2 else rng.uniform(0.4, 0.5))
    ends = ((-0.66, 0.5, -0.36, 0.16), (-0.86, 0.46, -0.7, 0.12),
            (-0.9, 0.68, -0.84, 0.44))[model]
    shift = rng.uniform(-0.05, 0.05)
    ends = (ends[0], ends[1] + shift, ends[2], ends[3] + shift)
    wheels = {"rear wheel": np.array([-0.56, 0.3]), "front wheel": np.array([0.56, 0.3])}
    for at in wheels.values():
        layer.ellipse(at + xy(0.05, -0.02), (r, r), Paint(tint(INK, 0.7), "wheel"))
    _car_roof(layer, look, ends, belt, top)
    snout = rng.uniform(-0.04, 0.05)
    side = [(-0.95, 0.26), (-0.97, 0.05), (-0.92, belt), (-0.5, belt - 0.005), (0.0, belt),
            (ends[1], belt), (0.86, belt + 0.06 + snout), (0.97, 0.1), (0.97, 0.26), (0.7, 0.3),
            (0.0, 0.31), (-0.7, 0.3)]
    layer.blob(side, look.main("body", 0.24, look.texture(rng, -0.95, belt, 0.95, 0.3)))
    layer.key("windscreen base", (ends[1] - 0.02, belt + 0.01))
    layer.key("rear window base", (ends[0] + 0.02, belt + 0.01))
    layer.limb([(-0.94, 0.235), (0.94, 0.235)], (0.03,), Paint(tint(look.base, 0.6)))
    seam = Paint(tint(look.base, 0.6))
    middle = (ends[2] + ends[3]) / 2 + 0.02
    for x in (middle, ends[1] - 0.1):
        layer.limb([(x, belt + 0.02), (x, 0.22)], (0.011,), seam)
    handle = np.array([middle + 0.09, belt + 0.09])
    layer.limb([handle - xy(0.04, 0), handle + xy(0.04, 0)], (0.02,), Paint(tint(look.base, 0.4)))
    layer.key("door handle", handle)
    lamp = np.array([0.9, 0.06 + snout / 2])
    layer.ellipse(lamp, (0.06, 0.065), Paint((255, 240, 170), "light", 0.1, ink=True))
    layer.key("headlight", lamp)
    back = np.array([-0.93, 0.04])
    layer.ellipse(back, (0.045, 0.075), Paint((200, 40, 44), "light", 0.1, ink=True))
    layer.key("tail light", back)
    rim = (205, 208, 214) if rng.random() < 0.7 else look.accent
    for name, at in wheels.items():
        layer.ellipse(at + xy(0.0, -0.02), (r * 1.18, r * 1.15), Paint(tint(look.base, 0.45)))
        _wheel(layer, at, r, rim)
        layer.key(name, at)
    return ""
