"""Captions, from a small closed vocabulary."""

import re
from dataclasses import dataclass

from gate_cache.toyworld.backgrounds import MOODS, PLACES
from gate_cache.toyworld.canvas import Rng
from gate_cache.toyworld.looks import COLOURS, pick
from gate_cache.toyworld.quality import FLAWS, HIGH

LEADS = ("a photo of", "a picture of", "a painting of", "an illustration of", "")
PATTERNS = ("striped", "spotted", "patched")
POSES = ("standing", "walking", "running", "sitting", "lying", "flying", "sailing")
COVERS = ("bush", "fence", "pole", "box", "rock", "cloud")


def vocabulary(categories: tuple[str, ...]) -> tuple[str, ...]:
    """Every word that captions can hold, sorted."""
    phrases = [*LEADS, *PATTERNS, *POSES, *COVERS, *FLAWS, *COLOURS, *categories, HIGH,
               "low", "and", "a", "an", "behind", "over"]
    phrases += [p.words for p in PLACES.values()] + [m.words for m in MOODS.values()]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)}))


@dataclass(frozen=True)
class Subject:
    """What a caption may speak of; an empty word is left out."""

    category: str
    colours: tuple[str, str]
    pattern: str
    pose: str
    place: str
    mood: str
    cover: str
    quality: str


def caption(rng: Rng, subject: Subject) -> str:
    """A sentence about the picture; pose, texture and colour may be left out."""
    pose, patterned = subject.pose, subject.pattern != "plain"
    chance = rng.random(4)
    lead = pick(rng, LEADS)
    words = []
    if pose and pose != "flying" and chance[0] < 0.5:
        words.append(pose)
    if patterned and chance[1] < 0.8:
        words.append(subject.pattern)
    if chance[2] < 0.9:
        mixed = patterned and chance[3] < 0.5
        words.append(" and ".join(subject.colours) if mixed else subject.colours[0])
    words.append(subject.category)
    if pose == "flying":
        words.append(pose)
    noun = " ".join(words)
    tail = [subject.place, subject.mood, f"behind a {subject.cover}" if subject.cover else ""]
    return " ".join(w for w in (lead, with_article(noun), *tail) if w) + f", {subject.quality}"


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun, by its first letter."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
