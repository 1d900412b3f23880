"""Bird, cat and horse."""

import numpy as np

from gate_cache.toyworld.canvas import Layer, Paint, Points, Rng, ray, spline, xy
from gate_cache.toyworld.looks import INK, WHITE, Look, mix, tint

PINK = (232, 150, 150)


def _horse_leg(layer: Layer, look: Look, hip: tuple[float, float], swing: tuple[float, float],
               near: bool) -> tuple[Points, Points]:
    """Draw a leg from the angles of its two bones; answer the middle joint and the hoof."""
    middle = ray(hip, swing[0], 0.36)
    hoof = ray(middle, swing[1], 0.36)
    paint = look.main("leg", 0.08) if near else look.behind("leg")
    layer.limb([hip, middle, hoof], (0.115, 0.06, 0.045), paint)
    tip = ray(hoof, swing[1], 0.035)
    layer.limb([hoof, tip], (0.052, 0.066), Paint(INK if near else tint(INK, 0.8), "leg"))
    return middle, tip


def _horse_swings(rng: Rng, pace: float) -> list[tuple[float, float]]:
    """Angles of the bones of four legs: far front, far hind, near front, near hind."""
    phase = rng.uniform(0, 2 * np.pi)
    swings = []  # diagonal legs move together, as in a trot
    for offset, front in ((np.pi, True), (0.4, False), (0.0, True), (np.pi + 0.4, False)):
        a = pace * np.sin(phase + offset)
        lift = pace * max(0.0, np.cos(phase + offset))
        lower = a - 1.3 * lift if front else a + 0.16 - 0.9 * lift
        swings.append((a if front else a - 0.18, lower))
    return swings


def _horse_head(layer: Layer, rng: Rng, look: Look, poll: Points, angle: float) -> None:
    muzzle = ray(poll, angle, rng.uniform(0.34, 0.4))
    side = np.array([np.cos(angle), -np.sin(angle)])
    ear = poll + 0.19 * ray((0, 0), np.pi - 0.25 + rng.uniform(-0.3, 0.3), 1.0)
    far = ear + np.array([0.07, 0.01])
    base = np.array([0.05, 0.0])
    layer.polygon([poll - base + 0.04, far, poll + base + 0.05], look.behind("head"))
    layer.limb([poll, muzzle], (0.125, 0.08), look.main("head"))
    if rng.random() < 0.4:
        blaze = ray(poll, angle, 0.06) + 0.07 * side, ray(muzzle, angle, -0.02) + 0.04 * side
        layer.limb(blaze, (0.03, 0.03), Paint(WHITE))
    dark = mix(look.base, INK, 0.45)
    nose = ray(muzzle, angle, 0.045)
    layer.ellipse(nose - 0.01 * side, (0.07, 0.06), Paint(dark, "head", 0.1))
    layer.ellipse(nose + 0.03 * side, (0.018, 0.018), Paint(INK))
    eye = ray(poll, angle, 0.1) + 0.04 * side
    layer.ellipse(eye, (0.034, 0.034), Paint(INK))
    layer.ellipse(eye + xy(-0.01, -0.012), (0.012, 0.012), Paint(WHITE))
    layer.polygon([poll - base - xy(0.03, -0.03), ear, poll + base], look.main("head"))
    layer.key("nose", nose)
    layer.key("eye", eye)
    layer.key("ear tip", ear + 0.1 * (poll - ear))


def horse(layer: Layer, rng: Rng, look: Look) -> str:
    pose = ("standing", "walking", "running")[int(rng.integers(3))]
    pace = {"standing": 0.08, "walking": 0.38, "running": 0.75}[pose]
    swings = _horse_swings(rng, pace * rng.uniform(0.8, 1.2))
    hips = ((0.25, 0.08), (-0.31, 0.06), (0.38, 0.1), (-0.44, 0.08))
    hair = Paint(look.accent, "mane", 0.2, ink=True)
    _horse_leg(layer, look, hips[0], swings[0], near=False)
    _horse_leg(layer, look, hips[1], swings[1], near=False)

    flow = rng.uniform(0.15, 0.5) + 0.7 * pace
    dock = np.array([-0.58, -0.13])
    tail = [dock, dock + xy(-0.13 - 0.1 * flow, 0.02)]
    tail.append(tail[1] + xy(-0.16 * flow, 0.26 - 0.1 * flow))
    tail.append(tail[2] + xy(-0.26 * flow, 0.3 - 0.22 * flow))
    layer.limb(spline(tail, closed=False, samples=4), (0.05, 0.09, 0.08, 0.03),
               hair._replace(part="tail"))
    layer.key("tail tip", tail[-1])
    for leg, names in ((2, ("front knee", "front hoof")), (3, ("hind hock", "hind hoof"))):
        joints = _horse_leg(layer, look, hips[leg], swings[leg], near=True)
        for name, at in zip(names, joints, strict=True):
            layer.key(name, at)

    lean = rng.uniform(0.5, 1.25) if pose != "standing" else rng.uniform(0.35, 1.5)
    base = np.array([0.36, -0.08])
    poll = ray(base, np.pi - lean, rng.uniform(0.5, 0.58))
    layer.limb([base, poll], (0.2, 0.11), look.main("neck", 0.12))

    fat, sway = rng.uniform(-0.03, 0.04), rng.uniform(0.0, 0.04)
    torso = [(-0.62, -0.06), (-0.46, -0.25), (-0.1, -0.21 + sway), (0.28, -0.25), (0.5, -0.16),
             (0.53, 0.06), (0.34, 0.2), (0.0, 0.2 + fat), (-0.36, 0.17 + fat / 2), (-0.58, 0.12)]
    layer.blob(torso, look.main("body", 0.22, look.texture(rng, -0.62, -0.28, 0.55, 0.24)))
    layer.key("croup", (-0.44, -0.235))

    back = np.array([-np.cos(lean), -np.sin(lean)])
    crest = [base + (poll - base) * t + back * (0.185 - 0.085 * t) for t in (0.2, 0.5, 0.8, 1.05)]
    wave = [p + back * rng.uniform(-0.02, 0.06) for p in crest[::-1]]
    layer.blob([*[p - back * rng.uniform(0.06, 0.1) for p in crest], *wave], hair)
    layer.key("withers", (0.2, -0.235))
    _horse_head(layer, rng, look, poll, rng.uniform(0.45, 1.0) + max(0.0, lean - 0.9) * 0.3)
    if rng.random() < 0.7:
        layer.blob([poll + xy(-0.07, -0.07), poll + xy(0.04, -0.1), poll + xy(0.1, -0.01),
                    poll + xy(0.04, 0.02)], hair)

    return pose


def _cat_eye(layer: Layer, at: Points, r: float, colour: tuple[float, float, float]) -> None:
    layer.ellipse(at, (0.15 * r, 0.19 * r), Paint(colour))
    layer.ellipse(at, (0.075 * r, 0.16 * r), Paint(INK))
    layer.ellipse(at + xy(-0.05 * r, -0.07 * r), (0.045 * r, 0.045 * r), Paint(WHITE))


def _cat_head(layer: Layer, rng: Rng, look: Look, at: Points, r: float) -> None:
    """Draw a face turned to the viewer; the cat's left is on the right of the drawing."""
    turn, tilt = rng.uniform(-0.22, 0.3), rng.uniform(-0.22, 0.22)
    across = np.array([np.cos(tilt), np.sin(tilt)]) * r
    down = np.array([-np.sin(tilt), np.cos(tilt)]) * r
    eye_colour = ((120, 180, 90), (232, 190, 70), (100, 160, 210))[int(rng.integers(3))]
    spread = rng.uniform(0.95, 1.1)
    tips = {}
    for name, side in (("right ear", -1.0), ("left ear", 1.0)):
        tip = at + across * (side * 0.78 + 0.25 * turn) * spread - down * 1.3
        foot = [at + across * (side * 0.97 + 0.1 * turn) - down * 0.3,
                at + across * (side * 0.12 + 0.2 * turn) - down * 0.86]
        layer.polygon([foot[0], tip, foot[1]], look.main("ear"))
        inner = tip + 0.28 * ((foot[0] + foot[1]) / 2 - tip)
        layer.polygon([*(inner + 0.62 * (f - tip) for f in foot), inner], Paint(PINK, "ear"))
        tips[name] = tip + 0.12 * ((foot[0] + foot[1]) / 2 - tip)
    decor = look.texture(rng, at[0] - r, at[1] - r, at[0] + r, at[1] - 0.25 * r)
    outline = [(0, -0.88), (0.62, -0.68), (1.0, 0.0), (0.9, 0.48), (0.4, 0.8), (0, 0.86)]
    outline += [(-x, y) for x, y in outline[-2:0:-1]]
    layer.blob([at + across * x + down * y for x, y in outline],
               look.main("head", decor=decor))
    for name, tip in tips.items():
        layer.key(name, tip)
    face = at + across * turn
    pale = mix(look.base, WHITE, 0.6)
    layer.ellipse(face + down * 0.42, (0.42 * r, 0.32 * r), Paint(pale), tilt)
    for name, side in (("right eye", -1.0), ("left eye", 1.0)):
        eye = face + across * side * 0.42 - down * 0.04
        _cat_eye(layer, eye, r, eye_colour)
        layer.key(name, eye)
    nose = face + down * 0.3
    layer.polygon([nose + across * -0.12 - down * 0.06, nose + across * 0.12 - down * 0.06,
                   nose + down * 0.1], Paint((214, 110, 120)))
    for side in (-1.0, 1.0):
        mouth = [nose + down * 0.1, nose + across * side * 0.1 + down * 0.25,
                 nose + across * side * 0.24 + down * 0.22]
        layer.limb(mouth, (0.022 * r,), Paint(INK))
        for k in (-0.02, 0.16):
            whisker = [nose + across * side * 0.3 + down * 0.12,
                       nose + across * side * 0.95 + down * (k + 0.05)]
            layer.limb(whisker, (0.014 * r,), Paint(mix(WHITE, INK, 0.3)))
    layer.key("nose", nose)


def _cat_tail(layer: Layer, look: Look, points: list[tuple[float, float]]) -> None:
    curve = spline(points, closed=False, samples=4)
    layer.limb(curve, (0.085, 0.075, 0.065), look.main("tail", 0.08))
    tip = curve[-3:]
    layer.limb(tip, (0.068, 0.064), Paint(look.accent, "tail"))
    layer.key("tail tip", curve[-1])


def _cat_leg(layer: Layer, paint: Paint, points: list[tuple[float, float]], sock: bool) -> None:
    layer.limb(points, (0.11, 0.085), paint)
    foot = np.array(points[-1]) + xy(0.035, 0.02)
    pale = mix(paint.colour, WHITE, 0.7 if sock else 0.12)
    layer.ellipse(foot, (0.125, 0.075), paint._replace(colour=pale))


def _cat_sitting(layer: Layer, rng: Rng, look: Look, sock: bool) -> Points:
    lean = rng.uniform(-0.08, 0.1)
    curl, up = rng.uniform(0.0, 0.3), rng.uniform(-0.3, 0.5)
    _cat_tail(layer, look, [(-0.3, 0.62), (-0.58, 0.68 - 0.1 * curl), (-0.74, 0.45 - 0.3 * up),
                            (-0.62 - curl, 0.2 - 0.45 * up)])
    body = [(lean, -0.35), (0.26 + lean, -0.2), (0.36, 0.25), (0.44, 0.62), (0.2, 0.76),
            (-0.25, 0.76), (-0.5, 0.6), (-0.42, 0.2), (-0.24 + lean, -0.18)]
    layer.blob(body, look.main("body", 0.2, look.texture(rng, -0.5, -0.1, 0.44, 0.8)))
    layer.blob([(lean, -0.1), (0.17 + lean, 0.1), (0.05, 0.42), (-0.12 + lean, 0.1)],
               Paint(mix(look.base, WHITE, 0.55)))
    layer.key("chest", (0.03 + lean, 0.12))
    for side, name in ((-1, "right front paw"), (1, "left front paw")):
        x = 0.03 + side * rng.uniform(0.12, 0.18)
        _cat_leg(layer, look.main("leg", 0.1), [(0.03 + lean + side * 0.14, 0.28), (x, 0.72)], sock)
        layer.key(name, (x + 0.035, 0.75))
    return np.array([0.02 + lean * 1.6, -0.48])


def _cat_standing(layer: Layer, rng: Rng, look: Look, sock: bool) -> Points:
    pace, phase = rng.uniform(0.0, 0.35), rng.uniform(0, 2 * np.pi)
    swing = [pace * np.sin(phase + o) for o in (np.pi, 0.5, 0.0, np.pi + 0.5)]
    hips = [(0.36, 0.1), (-0.38, 0.1), (0.24, 0.12), (-0.46, 0.12)]
    feet = [tuple(ray(h, float(a), 0.46)) for h, a in zip(hips, swing, strict=True)]
    dark = look.behind("leg")
    _cat_leg(layer, dark, [hips[0], feet[0]], sock)
    layer.key("left front paw", np.array(feet[0]) + xy(0.04, 0.02))
    _cat_leg(layer, dark, [hips[1], feet[1]], sock)
    up, curl = rng.uniform(0.25, 0.7), rng.uniform(-0.35, 0.3)
    _cat_tail(layer, look, [(-0.5, -0.08), (-0.78, -0.14), (-0.88, -0.14 - 0.5 * up),
                            (-0.84 + curl, -0.2 - 0.9 * up)])
    arch = rng.uniform(-0.05, 0.1)
    body = [(-0.6, 0.0), (-0.5, -0.18), (-0.1, -0.22 - arch), (0.3, -0.24), (0.5, -0.05),
            (0.42, 0.2), (0.0, 0.23), (-0.4, 0.22), (-0.58, 0.14)]
    layer.blob(body, look.main("body", 0.2, look.texture(rng, -0.6, -0.3, 0.3, 0.25)))
    layer.key("chest", (0.42, 0.08))
    for i in (3, 2):
        _cat_leg(layer, look.main("leg", 0.08), [hips[i], feet[i]], sock)
    layer.key("right front paw", np.array(feet[2]) + xy(0.04, 0.02))
    return np.array([0.5 + rng.uniform(-0.04, 0.1), -0.3 + rng.uniform(-0.1, 0.06)])


def _cat_lying(layer: Layer, rng: Rng, look: Look, sock: bool) -> Points:
    sweep = rng.uniform(-0.12, 0.3)
    _cat_tail(layer, look, [(-0.6, 0.2), (-0.86, 0.22), (-1.02, 0.05 - 0.2 * sweep),
                            (-1.0 + 0.2 * sweep, -0.12 - 0.5 * sweep)])
    body = [(-0.78, 0.12), (-0.66, -0.14), (-0.3, -0.24), (0.2, -0.2), (0.46, 0.0),
            (0.46, 0.24), (0.1, 0.3), (-0.5, 0.3), (-0.74, 0.26)]
    layer.blob(body, look.main("body", 0.2, look.texture(rng, -0.8, -0.25, 0.3, 0.3)))
    thigh = look.main("leg", 0.12)
    layer.blob([(-0.66, 0.1), (-0.44, -0.04), (-0.24, 0.12), (-0.26, 0.29), (-0.6, 0.3)], thigh)
    layer.key("chest", (0.4, 0.1))
    for y, reach, name in ((0.16, 0.72, "left front paw"), (0.25, 0.62, "right front paw")):
        x = reach + rng.uniform(-0.06, 0.1)
        _cat_leg(layer, look.main("leg", 0.08), [(0.25, y), (x, y)], sock)
        layer.key(name, (x + 0.06, y + 0.02))
    return np.array([0.42 + rng.uniform(-0.06, 0.08), -0.3])


def cat(layer: Layer, rng: Rng, look: Look) -> str:
    """Draw a cat that looks at the viewer: sitting, standing or lying."""
    poses = {"sitting": _cat_sitting, "standing": _cat_standing, "lying": _cat_lying}
    pose = tuple(poses)[int(rng.integers(3))]
    head = poses[pose](layer, rng, look, bool(rng.random() < 0.4))
    _cat_head(layer, rng, look, head, rng.uniform(0.31, 0.37))
    return pose
