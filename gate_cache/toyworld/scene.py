"""Composing one scene from its seed, and drawing it at a size."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from gate_cache.toyworld import animals, birds, covers, quality, render, things, vehicles
from gate_cache.toyworld.backgrounds import MOODS, PLACES, Mood
from gate_cache.toyworld.canvas import Layer, Paint, Points, Rng
from gate_cache.toyworld.captions import Subject, caption, vocabulary
from gate_cache.toyworld.looks import COLOURS, INK, Look, pick, vary
from gate_cache.toyworld.names import CATEGORIES, KINDS, VERSION, ObjectKind

_RIM = 0.008  # key points so close to the edge of the picture do not count as visible

_DRAWN = {f.__name__: f for f in (
    vehicles.aeroplane, birds.bird, vehicles.boat, things.bottle, vehicles.car, animals.cat,
    things.chair, animals.horse)}
"""Each draws one of its kind, facing right in coordinates of about -1 to 1, y down, and answers its
pose: a word for the caption, or nothing."""
WORDS: tuple[str, ...] = vocabulary(CATEGORIES)


@dataclass(frozen=True)
class Scene:
    """One picture with its labels.

    Pixel centres have whole coordinates: the centre of the top left pixel is (0, 0), and the
    picture reaches from -0.5 to size - 0.5. A point (x, y) of the picture at size s lies at
    ((x + 0.5) * t / s - 0.5, ...) of the same picture at size t.

    Attributes
    ----------
    image : uint8 (size, size, 3), RGB
    category : one of `CATEGORIES`
    caption : what the picture shows, in words of `WORDS`
    keypoints : float32 (K, 2), (x, y) of each of `KEYPOINTS[category]`, in order
    visible : bool (K,), False for points outside the picture, behind the object or an occluder, or
        missing
    box : float32 (4,), x0, y0, x1, y1: outer edges of the object within the picture, as if nothing
        were in front
    parts : uint8 (size, size), 0 for the background (and occluders), i + 1 for part i of
        `PARTS[category]`
    quality : the last words of the caption: "high quality", or "low quality, …" and the flaw
    """

    image: npt.NDArray[np.uint8]
    category: str
    caption: str
    keypoints: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    box: npt.NDArray[np.float32]
    parts: npt.NDArray[np.uint8]
    quality: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """A scene before it has a size, in unit picture coordinates."""

    back: Layer
    thing: Layer
    front: Layer
    kind: ObjectKind
    mood: Mood
    light: tuple[float, float]
    ink: float
    caption: str
    quality: quality.Quality


def _seed(split: str, index: int) -> int:
    digest = sha256(f"toyworld/{VERSION}/{split}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _look(rng: Rng, kind: ObjectKind) -> tuple[Look, str]:
    """Colours and texture of an instance, and the name of its second colour."""
    name, pattern = pick(rng, kind.colours), pick(rng, kind.patterns)
    base = vary(rng, COLOURS[name], 14)
    others = tuple(c for c in (*kind.colours, "white", "brown")  # that can be told from the first
                   if np.abs(np.subtract(COLOURS[c], COLOURS[name])).sum() > 110)
    other = pick(rng, others)
    return Look(name, base, vary(rng, COLOURS[other], 10), pattern), other


def _view(rng: Rng, kind: ObjectKind, mirror: bool) -> Points:
    """Foreshortening, shear, rotation, perspective and mirroring, as a homography (3, 3)."""
    angle = np.deg2rad(rng.uniform(-1, 1) * kind.tilt)
    c, s = np.cos(angle), np.sin(angle)
    narrow = rng.uniform(0.8, 1.05)
    shear = np.array([[narrow, rng.uniform(-0.1, 0.1), 0], [0, 1, 0], [0, 0, 1]])
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    lens = np.eye(3)
    lens[2, :2] = rng.uniform(-0.14, 0.14, 2)
    flip = np.diag([-1.0 if mirror else 1.0, 1.0, 1.0])
    view: Points = flip @ lens @ turn @ shear  # the rightmost is applied first
    return view


def _swap_sides(layer: Layer) -> None:
    """Exchange the names left and right."""

    def other(name: str) -> str:
        words = {"left": "right", "right": "left"}
        return " ".join(words.get(w, w) for w in name.split())

    layer.keys = {other(k): v for k, v in layer.keys.items()}
    layer.depth = {other(k): v for k, v in layer.depth.items()}


def _place(rng: Rng, thing: Layer, view: Points,
           floor: tuple[float, float] | None) -> tuple[Layer, float]:
    """Scale and move the object into the picture; answer it and the y of its lowest point.

    `floor` holds the lowest and highest y on which the object can stand, None in the air.
    """
    low, high = thing.extent(view)
    extent = high - low
    scale = rng.uniform(0.45, 0.9) / max(float(extent.max()), 1e-6)
    w, h = extent * scale
    # an object may stick out of the picture by 6 % of its size at either side
    slack = np.maximum(1.0 - np.array([w, h]), 0.0) + 0.12 * np.array([w, h])
    x, y = (1.0 - np.array([w, h])) / 2 + rng.uniform(-0.5, 0.5, 2) * slack
    if floor is None:
        y = -0.02 + 0.8 * (1.04 - h) * rng.random()
    else:
        bottom = floor[0] + (floor[1] - floor[0]) * rng.random()
        y = max(bottom, min(h + 0.03, 0.98)) - h
    move = np.array([[scale, 0, x - scale * low[0]], [0, scale, y - scale * low[1]], [0, 0, 1]])
    return thing.placed(move @ view), float(y + h)


def _shadow(back: Layer, thing: Layer, bottom: float, strength: float) -> None:
    low, high = thing.extent()
    wide = float(high[0] - low[0])
    back.ellipse(((low[0] + high[0]) / 2, bottom - 0.01), (0.46 * wide, 0.035),
                 Paint(INK, alpha=strength, soft=0.012))


def _plan(split: str, index: int, flawed: float, covered: float) -> _Plan:
    """Compose a scene; a draw moves all later ones: a new one goes last, or `VERSION` changes."""
    kind = KINDS[CATEGORIES[index % len(CATEGORIES)]]
    rng = np.random.default_rng(_seed(split, index))
    look, second = _look(rng, kind)
    thing = Layer(kind.parts)
    pose = _DRAWN[kind.name](thing, rng, look)
    mirror = bool(rng.random() < 0.5)
    view = _view(rng, kind, mirror)
    anywhere = rng.random() < 0.06  # so that a place does not tell the category for certain
    place = PLACES[pick(rng, tuple(PLACES) if anywhere else kind.places)]
    if pose == "flying" and rng.random() < 0.4:
        place = PLACES["sky"]
    mood = MOODS[("day", "day", "day", "sunset", "night")[int(rng.integers(5))]]
    horizon = rng.uniform(0.42, 0.66)
    back, front = Layer(), Layer(kind.parts)
    place.draw(back, rng, mood, horizon)
    floating = pose == "flying" or place is PLACES["sky"]
    thing, bottom = _place(rng, thing, view, None if floating else (horizon + 0.12, 0.97))
    if mirror:  # an animal that is mirrored lifts the other paw
        _swap_sides(thing)
    if not floating:
        _shadow(back, thing, bottom, 0.3 if kind.name != "boat" else 0.15)
    if kind.name == "boat" and place.water:
        covers.foam(front, rng, thing, bottom)
    cover = covers.add(front, rng, thing, place, floating) if rng.random() < covered else ""
    flaw = quality.choose(rng, flawed)
    text = caption(rng, Subject(
        category=kind.name, colours=(look.name, second), pattern=look.pattern, pose=pose,
        place=place.above if pose == "flying" else place.words,
        mood="" if place.indoors else mood.words, cover=cover, quality=flaw.words))
    light = (0.7 if rng.random() < 0.5 else -0.7, 0.7)
    ink = (0.0, 0.0, 0.004, 0.007)[int(rng.integers(4))]
    light_of = MOODS["day"] if place.indoors and mood.words == "at night" else mood
    return _Plan(back, thing, front, kind, light_of, light, ink, text, flaw)


def draw(split: str, index: int, size: int = 64, *, flawed: float = 0.3,
         covered: float = 0.2) -> Scene:
    """Draw picture `index` of a split; the same arguments give the same scene.

    The category is `CATEGORIES[index % 8]`. The scene does not depend on `size`, only its
    resolution does. Any split name works, and different names share no pictures. `flawed` and
    `covered` are shares of pictures of low quality, and with something in front of the object.
    """
    plan = _plan(split, index, flawed, covered)
    raster = render.Raster(size, plan.light, plan.ink)
    raster.paint(plan.back.shapes)
    raster.paint(plan.thing.shapes)
    mask = raster.labels > 0  # for the box: before what is in front of the object
    raster.paint(plan.front.shapes)
    image = render.reduce(raster.image, size)
    cover = render.reduce((raster.labels > 0).astype(np.uint8) * np.uint8(255), size)
    image = render.pillow(image, cover, plan.light, 1.1)
    image = render.grade(image, plan.mood.tint, plan.quality.seed)
    points = np.array([plan.thing.keys[name] for name in plan.kind.keypoints])
    inside = (np.abs(points - 0.5) < 0.5 - _RIM).all(axis=1)
    hidden = plan.thing.hidden(plan.front)
    uncovered = np.array([name not in hidden for name in plan.kind.keypoints])
    return Scene(
        image=quality.degrade(image, plan.quality), category=plan.kind.name, caption=plan.caption,
        keypoints=render.to_pixels(points, size).astype(np.float32), visible=inside & uncovered,
        box=render.box_of(mask, size), parts=render.reduce_labels(raster.labels, cover),
        quality=plan.quality.words)
