"""Birds, standing or flying."""

import numpy as np

from gate_cache.toyworld.canvas import Layer, Paint, PointLike, Points, Rng, xy
from gate_cache.toyworld.looks import INK, WHITE, Look, mix, tint


def _open_wing(layer: Layer, paint: Paint, root: Points, angle: float, span: float) -> Points:
    """Draw a spread wing raised by `angle`; answer its tip."""
    out = np.array([-np.sin(angle) * 0.55, -np.cos(angle)]) * span
    back = np.array([-0.42, 0.1])
    tip = root + out + back * 0.35
    edge = [root + xy(0.12, 0.0), root + out * 0.55 + xy(0.1, 0.0), tip]
    feathers = [root + out * t + back * (1.15 - 0.75 * t) for t in (0.85, 0.6, 0.35, 0.1)]
    layer.blob([*edge, *feathers], paint)
    for f in feathers[:3]:
        bar = [f + 0.12 * (root - f), f + 0.5 * (root + out * 0.4 - f)]
        layer.limb(bar, (0.014,), Paint(tint(paint.colour, 0.7)))
    return tip


def _folded_wing(layer: Layer, paint: Paint, root: Points, droop: float) -> Points:
    tip = root + xy(-0.62, 0.16 + droop)
    layer.blob([root + xy(0.08, -0.04), root + xy(0.02, 0.17),
                root + xy(-0.25, 0.24 + droop * 0.5), tip, root + xy(-0.3, -0.02)], paint)
    for t in (0.35, 0.6):
        start = root + xy(-0.08 - 0.2 * t, 0.12 * t + 0.04)
        end = tip + xy(0.5 * (1 - t), 0.02 - 0.03 * t)
        layer.limb([start, end], (0.014,), Paint(tint(paint.colour, 0.72)))
    return tip


def _legs(layer: Layer, rng: Rng, flying: bool, colour: tuple[float, float, float]) -> None:
    stride = rng.uniform(-0.12, 0.12)
    for near in (False, True):
        x = -0.02 + (0.08 if near else 0.0)
        paint = Paint(colour if near else tint(colour, 0.7), "leg")
        if flying:
            foot = np.array([x - 0.34, 0.3])
            layer.limb([(x - 0.1, 0.2), foot], (0.03, 0.024), paint)
            continue
        foot = np.array([x + (stride if near else -stride), 0.6])
        layer.limb([(x, 0.22), (x - 0.03, 0.42), foot], (0.036, 0.024), paint)
        for toe in (-0.08, 0.1, 0.13):
            layer.limb([foot, foot + xy(toe, 0.035 if toe < 0.12 else 0.0)], (0.024,), paint)
    layer.key("foot", foot)


def _head(layer: Layer, rng: Rng, look: Look, at: Points, r: float) -> None:
    nod = rng.uniform(-0.35, 0.35)
    ahead = np.array([np.cos(nod), np.sin(nod)])
    up = np.array([np.sin(nod), -np.cos(nod)])
    beak = (238, 158, 52) if rng.random() < 0.7 else (92, 84, 84)
    length, thick = rng.uniform(0.16, 0.34), rng.uniform(0.07, 0.1)
    tip = at + ahead * (r + length) - up * (0.25 * thick)
    root = at + ahead * r * 0.8
    layer.polygon([root + up * thick, tip, root - up * thick], Paint(beak, "beak", 0.2, ink=True))
    layer.key("beak tip", tip - ahead * 0.03)
    crest = rng.random()
    if crest < 0.35:
        for k in (-0.5, -0.15, 0.2):
            end = at + up * (r + 0.15) + ahead * (k - 0.3) * r * 1.5
            layer.limb([at + up * r * 0.7 + ahead * k * r, end], (0.05, 0.02), look.second("head"))
    layer.ellipse(at, (r, r * 0.96), look.main("head"))
    if crest > 0.7:
        layer.ellipse(at + up * r * 0.62 - ahead * 0.1 * r, (r * 0.72, r * 0.36),
                      Paint(look.accent), nod)
    layer.key("crown", at + up * r * 0.9)
    eye = at + ahead * r * 0.35 + up * r * 0.2
    layer.ellipse(eye, (0.056, 0.056), Paint(WHITE))
    layer.ellipse(eye, (0.042, 0.042), Paint(INK))
    layer.ellipse(eye + xy(-0.014, -0.016), (0.014, 0.014), Paint(WHITE))
    layer.key("eye", eye)


def bird(layer: Layer, rng: Rng, look: Look) -> str:
    flying = bool(rng.random() < 0.45)
    wing = Paint(mix(look.base, look.accent, 0.55), "wing", 0.2, ink=True)
    root = np.array([0.1, -0.06])
    beat, span = rng.uniform(-0.5, 0.75), rng.uniform(0.62, 0.8)
    if flying:
        shadow = wing._replace(colour=tint(wing.colour, 0.7))
        _open_wing(layer, shadow, root + xy(0.12, -0.06), beat - 0.35, span * 0.92)
    _legs(layer, rng, flying, (222, 140, 62))

    long, lift = rng.uniform(0.3, 0.52), rng.uniform(-0.22, 0.18)
    end = np.array([-0.5 - long, -0.02 - lift])
    fan = rng.uniform(0.06, 0.13)
    layer.polygon([(-0.4, -0.08), end + xy(0.0, -fan), end + xy(0.05, 0.0), end + xy(0.0, fan),
                   (-0.38, 0.1)], Paint(tint(wing.colour, 0.85), "tail", 0.2, ink=True))
    layer.key("tail tip", end + xy(0.05, 0.0))

    plump = rng.uniform(0.24, 0.33)
    chest = np.array([0.36, 0.02])
    body: list[PointLike] = [
        (-0.56, -0.04), (-0.25, -0.2), (0.12, -plump), (0.38, -0.2), chest + xy(0.04, 0.02),
        (0.22, plump * 0.86), (-0.1, plump), (-0.4, 0.14)]
    decor = look.texture(rng, -0.5, -0.3, 0.45, 0.32)
    tall = 0.0 if flying else rng.uniform(0.0, 0.22)
    head = np.array([0.4 + rng.uniform(-0.04, 0.08), -0.26 - tall])
    if flying:
        head += (0.1, 0.1)
    r = rng.uniform(0.19, 0.24)
    layer.limb([(0.24, -0.06), head], (0.22, r * 0.8), look.main("body", 0.1))
    layer.blob(body, look.main("body", 0.2, decor))
    layer.blob([chest, (0.2, plump * 0.8), (-0.12, plump * 0.94), (0.1, 0.1)],
               Paint(mix(look.base, WHITE, 0.55)))
    layer.key("breast", chest - xy(0.03, 0.0))
    _head(layer, rng, look, head, r)
    if flying:
        tip = _open_wing(layer, wing, root, beat, span)
    else:
        tip = _folded_wing(layer, wing, root, rng.uniform(-0.12, 0.06))
    layer.key("wing tip", tip + 0.05 * (root - tip))
    layer.key("wing root", root)
    return "flying" if flying else "standing"
