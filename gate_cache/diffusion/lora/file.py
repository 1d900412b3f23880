"""What a LoRA file holds: its layers, and how strong each is. Read off the header, without torch.

The change of a layer's weight is ``strength · up @ down``. The strength is alpha / rank; alpha is
the layer's own (a tensor ``….alpha``), or that of the adapter's settings (diffusers' metadata,
peft's ``adapter_config.json``), or the rank where neither is given.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from gate_cache.core.errors import ModelError, listed
from gate_cache.core.headers import read_header
from gate_cache.diffusion.lora.keys import LayerPlace, kind_of_key, place_of
from gate_cache.diffusion.lora.settings import Strength, read_settings, strength_of

_CODES = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b",
          "U8": "B"}


class _Raw(NamedTuple):
    """A file with its header, by tensor."""

    source: str
    path: Path
    header: Mapping[str, Any]


@dataclass(frozen=True)
class LoraLayer:
    """One layer of a file.

    Attributes
    ----------
    part, name, dotted : as `gate_cache.diffusion.lora.keys.LayerPlace` has them
    down, up : keys of its two factors
    shapes : of these, (rank, in, …) and (out, rank, …)
    own_alpha : the layer's own, None without one
    rows : of `up` that are this layer's, where the file has several in one; else None
    """

    part: str
    name: str
    dotted: str
    down: str
    up: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    strength: Strength
    own_alpha: float | None = None
    rows: tuple[int, int] | None = None

    def up_of(self, values: Any) -> Any:
        """Its part of the tensor `up`."""
        return values if self.rows is None else values[slice(*self.rows)]

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return self.shapes[0][0]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file's layers, all of them plain LoRA.

    Attributes
    ----------
    source : as the manifest names it, for messages
    settings : the adapter's, by part, '' for a file of one part
    beside : whether these are in a file beside it
    """

    source: str
    path: Path
    layers: tuple[LoraLayer, ...]
    settings: Mapping[str, Mapping[str, Any]]
    beside: bool

    @property
    def uneven(self) -> bool:
        """Whether release 0.1 gave a layer another strength than the file says.

        It took the alphas that are tensors from kohya's files alone, and where a part has several
        the commonest for most layers; it did not find settings beside the file, nor patterns of
        layers that are called ``text_model.…``.
        """
        parts: dict[str, set[float | None]] = {}
        for layer in self.layers:
            parts.setdefault(layer.part, set()).add(layer.own_alpha)
        dotted = any(x.dotted and x.own_alpha not in (None, x.rank) for x in self.layers)
        patterns = [p for part in self.settings.values() for p in part.get("alpha_pattern") or {}]
        return (self.beside or dotted or any(len(alphas) > 1 for alphas in parts.values())
                or any("text_model" in p for p in patterns))


def read_lora(source: str, path: Path) -> LoraFile:
    """Read what a LoRA file holds, but for the factors themselves.

    `ModelError` where it is not a safetensors file or of another kind, lacks a half of a pair,
    has alphas of no layer, or settings that contradict the tensors.
    """
    header, metadata = _header(path)
    places = {key: place for key in header if (place := place_of(key))}
    _refuse_other_kinds(source, [key for key in header if key not in places])
    sides = _by_layer(source, places)
    _refuse_parts_of_layers(source, list(sides.values()))
    settings, beside = read_settings(source, path, metadata, places)
    raw = _Raw(source, path, header)
    layers = (_layer(raw, places[keys["down"]], keys, settings) for keys in sides.values())
    return LoraFile(source, path, tuple(layers), settings, beside)


def _by_layer(source: str,
              places: Mapping[str, LayerPlace]) -> dict[tuple[str, str], dict[str, str]]:
    """Part and layer to keys by side."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for key, place in places.items():
        sides = layers.setdefault((place.part, place.layer), {})
        if place.side in sides:
            raise ModelError(f"{source}: '{sides[place.side]}' and '{key}' are of one layer, which"
                             " a file must have once; remove one of them")
        sides[place.side] = key
    return layers


def _layer(raw: _Raw, place: LayerPlace, keys: Mapping[str, str],
           settings: Mapping[str, Mapping[str, Any]]) -> LoraLayer:
    """A layer with both its factors."""
    down, up = (tuple(raw.header[keys[side]]["shape"]) for side in ("down", "up"))
    if min(len(down), len(up)) < 2 or down[0] != up[1] or not down[0]:
        raise ModelError(f"{raw.source}: '{keys['down']}' {down} and '{keys['up']}' {up} are no"
                         " pair: the first length of the one must be the second of the other; the"
                         " file is damaged, get it again")
    for key in (keys["down"], keys["up"]):
        if raw.header[key]["dtype"][:1] not in ("F", "B") or raw.header[key]["dtype"] == "BOOL":
            raise ModelError(f"{raw.source}: '{key}' holds numbers of type"
                             f" {raw.header[key]['dtype']}, quantised ones, which are not read;"
                             " convert the file to float16")
    own = _alpha(raw, keys["alpha"]) if "alpha" in keys else None
    of_part = settings.get(place.part, settings.get(""))
    strength = strength_of(f"{raw.source}: '{keys['down']}'", place.dotted, down[0], own, of_part)
    return LoraLayer(place.part, place.layer, place.dotted, keys["down"], keys["up"], (down, up),
                     strength, own)


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensor names to what a file's header says of them, and its metadata."""
    read_header(path)  # its messages tell a web page, a git-lfs pointer or a cut file from others
    try:
        with safe_open(path, "np"), path.open("rb") as file:  # the library checks the whole header
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None
    metadata = header.pop("__metadata__", {})
    for entry in header.values():
        entry["begin"] = 8 + length + entry["data_offsets"][0]
    return header, metadata


def _alpha(raw: _Raw, key: str) -> float:
    """The number in an alpha's tensor."""
    dtype, count = raw.header[key]["dtype"], math.prod(raw.header[key]["shape"])
    if count != 1 or dtype not in (*_CODES, "BF16"):
        raise ModelError(f"{raw.source}: '{key}' holds {dtype} × {count}; an alpha is one number"
                         " (float or integer), get the file again")
    with raw.path.open("rb") as file:
        file.seek(raw.header[key]["begin"])
        if dtype == "BF16":  # the upper half of a float32
            content, code = b"\0\0" + file.read(2), "<f"
        else:
            code = f"<{_CODES[dtype]}"
            content = file.read(struct.calcsize(code))
    value = float(struct.unpack(code, content)[0])
    if not math.isfinite(value):
        raise ModelError(f"{raw.source}: '{key}' is {value}; an alpha is a number, get the file"
                         " again")
    return value


def _refuse_other_kinds(source: str, keys: list[str]) -> None:
    """Refuse kinds of adapters that would be dropped or misread."""
    kinds: dict[str, list[str]] = {}
    for key in keys:
        kinds.setdefault(kind_of_key(key), []).append(key)
    if kinds:
        others = "; ".join(f"{kind}: {_keys(keys)}" for kind, keys in kinds.items())
        raise ModelError(f"{source}: holds what is not plain LoRA ({others}); only LoRA and LoCon"
                         " (convolutions) are applied: convert it, or merge it into the model with"
                         " the tool that made it and name that as model.source")


def _refuse_parts_of_layers(source: str, layers: list[dict[str, str]]) -> None:
    """Refuse layers that lack a factor, and files without any."""
    for lacks, has in (("up", "down"), ("down", "up")):
        half = [sides[has] for sides in layers if has in sides and lacks not in sides]
        if half:
            raise ModelError(f"{source}: half a pair, no '{lacks}' beside {_keys(half)}; the file"
                             " is damaged or cut, get it again")
    alone = [sides["alpha"] for sides in layers if "down" not in sides]
    if alone:
        raise ModelError(f"{source}: alphas alone, no weights beside {_keys(alone)}; the file is"
                         " damaged or cut, get it again")
    if not layers:
        raise ModelError(f"{source}: holds no tensors, so no LoRA; name another file")


def _keys(keys: list[str]) -> str:
    return listed([f"'{key}'" for key in keys], 2)
