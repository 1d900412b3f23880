"""Fields of configurations: which a class builds itself by, and which ask for what is not given.

A library drops a field that it does not know without a word. Here every field of a UNet, an
autoencoder or a ControlNet is known, has no effect, or is refused. No torch: `validate` uses this;
a test compares the tables (``data/fields.json``) with the classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gate_cache.core.errors import listed

_TABLES = json.loads((Path(__file__).parents[1] / "data" / "fields.json").read_text("utf-8"))


@dataclass(frozen=True)
class Fields:
    """The fields of one class.

    Attributes
    ----------
    name : of the class, as in ``_class_name``
    built : what the class builds itself by, or what this package honours
    only : fields with the values that can be run, and what any other asks for
    """

    name: str
    built: frozenset[str]
    only: Mapping[str, tuple[list[Any], str]]


def _fields(name: str) -> Fields:
    return Fields(name, frozenset(" ".join(_TABLES[name]["built"]).split()), _TABLES[name]["only"])


UNET, DDPM = _fields("UNet2DConditionModel"), _fields("UNet2DModel")
AUTOENCODERS = {name: _fields(name) for name in _TABLES if name.startswith("Autoencoder")}
CONTROLNET = _fields("ControlNetModel")
TRANSFORMERS = {name: _fields(name) for name in _TABLES if name.endswith("Transformer2DModel")}
CONTROLNETS = {name.replace("ControlNet", "Transformer2D"): _fields(name) for name in _TABLES
               if name.endswith("ControlNetModel") and name != CONTROLNET.name}
"""Of transformers' ControlNets, by the transformer's class."""
_EMA = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step",
        "use_ema_warmup"}
"""What training with averaged weights leaves in a configuration."""
_NOTHING: tuple[Any, ...] = (None, False, "", 0, [], {})


def field_problems(place: str, config: Mapping[str, Any], table: Fields) -> Iterator[str]:
    """One line for each field that cannot be honoured; `place` is the configuration's file."""
    name = config.get("_class_name", table.name)
    if name != table.name:
        yield f"{place}: its class is {name}; only {table.name} is read here"
        return
    malformed = list(_malformed(config, table))
    if malformed:
        yield from (f"{place}: {line}" for line in malformed)
        return
    for key, (allowed, asks) in table.only.items():
        if key in config and one_of(config[key]) not in allowed:
            yield f"{place}: {key}: {config[key]} asks for {asks}, which is not given here"
    strange = [k for k, v in config.items() if not k.startswith("_") and v not in _NOTHING
               and k not in table.built | table.only.keys() | _EMA]
    if strange:
        yield (f"{place}: {table.name} has no {listed(map(repr, strange), 3)}: made for another"
               " kind or version of it; remove what has no effect on the weights")


_BLOCKS = ("block_out_channels", "down_block_types", "up_block_types")
_EACH = ("layers_per_block", "attention_head_dim", "num_attention_heads", "cross_attention_dim",
         "transformer_layers_per_block")
_COUNTS = ("in_channels", "out_channels", "latent_channels", "norm_num_groups")


def _malformed(config: Mapping[str, Any], table: Fields) -> Iterator[str]:
    """Fields whose values are not of the kind that the class takes, for all that shapes need."""
    for key in (k for k in _BLOCKS if k in table.built):
        kind, value = int if key == "block_out_channels" else str, config.get(key)
        if not _is_list(value, kind):
            yield f"{key}: {value!r} is not a list of {'numbers' if kind is int else 'names'}"
            return
        if len(value) != len(config.get("block_out_channels") or ()):
            yield f"{key}: {value!r} has another length than block_out_channels"
    hints = config.get("conditioning_embedding_out_channels")
    if hints is not None and not _is_list(hints, int):
        yield f"conditioning_embedding_out_channels: {hints!r} is not a list of numbers"
    for key in _EACH:
        value = config.get(key)
        entries = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(type(v) is int or isinstance(v, list) for v in entries):
            yield f"{key}: {value!r} is not a number, nor a list of them"
    for key in _COUNTS:
        if config.get(key) is not None and type(config[key]) is not int:
            yield f"{key}: {config[key]!r} is not a number"


def _is_list(value: Any, kind: type) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) and bool(value) and all(type(v) is kind for v in value)


def one_of(value: Any) -> Any:
    """A list of equal entries as one of them."""
    alike = isinstance(value, list) and value and all(v == value[0] for v in value)
    return value[0] if alike else value


def by_block(value: Any, count: int) -> list[Any]:
    """A field's values, one a block, where it may also be one number for all `count` blocks."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
