"""What is sound in a manifest and probably not meant, for `plan` and `validate` to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_cache.manifest.specs import Combo, Manifest

MANY = 16
"""Noises of an ensemble beyond which it is told what they cost; published protocols have 8."""
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def improbable(manifest: Manifest) -> list[str]:
    """A line for everything that is improbable."""
    return [f"{section}.{line}" for section, combos in
            (("conv", manifest.conv), ("attention", manifest.attention))
            for line in _combo_notes(combos)]


def _combo_notes(combos: Mapping[str, Combo]) -> Iterator[str]:
    for name, combo in combos.items():
        if combo.ensemble > MANY:
            yield (f"{name}.ensemble: {combo.ensemble} noises are {combo.ensemble} passes an image;"
                   " published protocols average 8")
        for field, part in _parts(combo):
            if part.scale == 0:
                yield f"{name}.{field}.scale: 0, so it has no effect"
        if combo.guidance and (combo.guidance.scale == 1
                               or combo.guidance.negative == combo.prompt):
            yield (f"{name}.guidance: with a scale of 1, or the prompt itself as 'negative', it has"
                   " no effect")
        if combo.mirror and (side := _SIDES.search(combo.prompt)):
            yield (f"{name}.prompt: says '{side[0]}', and in the mirrored image that is the other"
                   " side")
    for (first, a), (name, b) in combinations(combos.items(), 2):
        if a.ensemble > 1 and b.ensemble > 1 and _alike(a) == _alike(b):
            shared = range(max(a.seed, b.seed), min(a.seed + a.ensemble, b.seed + b.ensemble))
            if shared:
                yield (f"{name}.seed: {len(shared)} of its {b.ensemble} noises are those of"
                       f" '{first}'; with seed: {a.seed + a.ensemble} it has its own")


def _parts(combo: Combo) -> Iterator[tuple[str, Any]]:
    """What has a scale that may be zero, by field."""
    yield from ((f"lora[{i}]", lora) for i, lora in enumerate(combo.lora))
    yield from ((field, getattr(combo, field)) for field in ("controlnet", "ip_adapter")
                if getattr(combo, field))


def _alike(combo: Combo) -> str:
    """What two ensembles with noises of their own have in common."""
    return combo.model_copy(update={"seed": 0, "ensemble": 1, "maps": None}).model_dump_json()
