"""Names of the classes of ddpm-segmentation's sets, in the order of their labels."""

from __future__ import annotations

from gate_cache.manifest.dataset_specs import ScarceName


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace("\n", " ").strip().split(", "))


CLASSES: dict[ScarceName, tuple[str, ...]] = {
    "horse-21": _names("""
background, person, back, barrel, bridle, chest, ear, eye, forelock, head, hoof, leg, mane, muzzle,
neck, nostril, tail, thigh, saddle, shoulder, leg protection
"""),
    "bedroom-28": _names("""
bed, bed footboard, bed headboard, bed side rail, carpet, ceiling, chandelier or ceiling fan blade,
curtain, cushion, floor, table, table top, picture or mirror, pillow, lamp column, lamp shade, wall,
window, curtain rod, window frame, chair, picture or mirror frame, plinth, door or door frame, pouf,
wardrobe, plant, table staff
"""),
    "ffhq-34": _names("""
background, head, cheek, chin, ear, helix, lobule, bottom lid, eyelashes, iris, pupil, sclera,
tear duct, top lid, eyebrow, forehead, frown, hair, sideburns, jaw, moustache, inferior lip,
oral commissure, superior lip, teeth, neck, nose, ala of nose, bridge, nose tip, nostril, philtrum,
temple, wrinkles
"""),
    "cat-15": _names("""
background, back, belly, chest, leg, paw, head, ear, eye, mouth, tongue, nose, tail, whiskers, neck
"""),
    "celeba-19": _names("""
background, cloth, earring, eyeglasses, hair, hat, left brow, left ear, left eye, lower lip, mouth,
neck, necklace, nose, right brow, right ear, right eye, skin, upper lip
"""),
}
