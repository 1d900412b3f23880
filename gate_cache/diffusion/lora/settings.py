"""How strong a LoRA's layers are: the adapter's settings, in a file's metadata or beside it."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.lora.keys import PEFT, LayerPlace
from gate_cache.diffusion.models.fields import is_number

SETTINGS, BESIDE = "lora_adapter_metadata", "adapter_config.json"
_NOT_PLAIN = ("use_dora", "lora_bias", "use_qalora", "alora_invocation_tokens", "layer_replication")
_CHANGE_THE_MODEL = ("pissa", "olora", "corda", "loftq")
"""Ways to initialise that leave another base model behind than the one that is loaded here."""


class Strength(NamedTuple):
    """Of a layer: ``alpha / divisor``, where the divisor is the rank or (rsLoRA) its root."""

    alpha: float
    divisor: float


def read_settings(source: str, path: Path, metadata: Mapping[str, str],
                  places: Mapping[str, LayerPlace]) -> tuple[dict[str, dict[str, Any]], bool]:
    """The adapter's settings by part, and whether they are in a file beside it (peft's format).

    Parameters
    ----------
    source : as the manifest names it, for messages
    path : of the LoRA's file
    metadata : of that file
    places : of the file's keys

    Raises
    ------
    ModelError
        Not readable, or not those of plain LoRA; none, in a format that needs them.
    """
    beside = path.with_name(BESIDE)
    text, place = metadata.get(SETTINGS), f"{source}: its metadata '{SETTINGS}'"
    is_beside = text is None and beside.is_file() and all(
        p.dotted and not p.part for p in places.values())
    if is_beside:
        text, place = beside.read_text(encoding="utf-8", errors="replace"), f"{source}: {beside}"
    if text is None:
        if any(key.startswith(PEFT) for key in places):
            raise ModelError(f"{source}: in peft's format, and no {BESIDE} beside it, which says"
                             f" how strong it is; put that into {path.parent}")
        return {}, False
    parts: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    try:
        for key, value in json.loads(text).items():
            part, _, field = key.rpartition(".")
            parts["unet" if part == "transformer" else part][field] = value
    except (ValueError, AttributeError):
        raise ModelError(f"{place} cannot be read (not a JSON object), so its strength is not"
                         " known; get the file again") from None
    for settings in parts.values():
        _check_settings(place, settings)
    return dict(parts), is_beside


def _check_settings(place: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of plain LoRA, or no settings."""
    strange = [name for name in _NOT_PLAIN if settings.get(name)]
    initial = settings.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_CHANGE_THE_MODEL):
        strange.append(f"init_lora_weights: {initial}")
    if settings.get("peft_type", "LORA") != "LORA":
        strange.append(f"peft_type: {settings['peft_type']}")
    if strange:
        raise ModelError(f"{place} says {', '.join(strange)}, which is not plain LoRA; convert it,"
                         " or merge it into the model and name that as model.source")
    numbers = {"r": settings.get("r", 8), "lora_alpha": settings.get("lora_alpha", 8)}
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(field) or {}
        if not isinstance(patterns, dict):
            raise ModelError(f"{place}: {field} is not a mapping of layers to numbers")
        numbers |= {f"{field}.{name}": value for name, value in patterns.items()}
    for name, value in numbers.items():
        if not is_number(value):
            raise ModelError(f"{place}: {name} is {value!r}, not a number")


def strength_of(place: str, module: str, rank: int, own: float | None,
                settings: Mapping[str, Any] | None) -> Strength:
    """A layer's strength by its own alpha and by the adapter's settings, which must agree.

    Parameters
    ----------
    place : file and key, for messages
    module : as `gate_cache.diffusion.lora.keys.LayerPlace.dotted`
    rank : of the layer's factors
    own : the layer's alpha, None without one
    settings : of its part, None without any

    Raises
    ------
    ModelError
        They contradict each other or the rank.
    """
    if settings is None:
        return Strength(rank if own is None else own, rank)
    r = _by_pattern(place, settings.get("rank_pattern"), module, settings.get("r", 8))
    if r != rank:
        raise ModelError(f"{place} has rank {rank}, the adapter's settings say {r}: they are of"
                         " another file; get both again")
    alpha = _by_pattern(place, settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8))
    strength = Strength(alpha, math.sqrt(rank) if settings.get("use_rslora") else rank)
    if own is not None and not math.isclose(own / rank, strength.alpha / strength.divisor,
                                            rel_tol=1e-3):
        raise ModelError(f"{place} has an alpha of {own}, the adapter's settings make it"
                         f" {strength.alpha / strength.divisor * rank}; remove what is wrong")
    return strength


def _by_pattern(place: str, patterns: Mapping[str, Any] | None, module: str,
                default: Any) -> Any:
    """A setting of one layer, by the first pattern that its name ends with, as peft finds it.

    Text encoders' layers are called ``text_model.…`` by transformers 4 and not by 5, in the file
    and in its patterns, not always alike.
    """
    bare = module.removeprefix("text_model.")
    names = bare, f"text_model.{bare}"
    for pattern, value in (patterns or {}).items():
        try:
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                return value
        except re.error:
            raise ModelError(f"{place}: '{pattern}' of its settings is not a pattern of names"
                             ) from None
    return default
