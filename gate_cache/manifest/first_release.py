"""What ``train`` was called in the first release, in today's words. Accepted for one release.

Then this module goes, with `TrainSpec.pairs` and `TrainSpec.validate_every`.

- Options of heads stood beside the others: ``train: {head: upernet, decoder_channels: 64}``.
- ``pairs`` and ``validate_every`` counted items (pairs, images or pixels), not steps. They are kept
  as they are where they are no whole number of batches, so that the same batches are trained on.
"""

from __future__ import annotations

from typing import Any

from gate_cache.core.errors import UserError
from gate_cache.manifest.heads import head_of, option_names

FLAT = ("conv_channels", "resolution", "decoder_channels", "classifier_hidden", "members", "extra",
        "sampling", "reservoir_mb")
"""Options of heads that were fields of ``train``."""
COUNTS = {"pairs": "steps", "validate_every": "validate_steps"}
"""Fields that counted items, and those that count steps."""
TWO_FINEST = "two finest"
"""Maps of an attention combo that were read where ``attention_maps`` named none."""
BATCH, HEAD = 4, "nn"
"""Defaults of ``train`` that conversion depends on."""
WERE = {"schedule": "constant", "warmup": 0}
"""What newer fields of ``train`` would have said."""
HEADS_WERE = {"matching": "cells", "pool": 1, "classifier_hidden": 0}
"""And newer options of heads."""
UNTIL = "this spelling of the first release is accepted for one release"


def options_in_head(train: dict[str, Any]) -> dict[str, Any]:
    """The same with flat options of the chosen head inside ``head``; others are left to refuse."""
    head = train.get("head", HEAD)
    name = head_name(train)
    flat = {k: v for k, v in train.items() if k in FLAT and k in option_names(name)}
    if not flat or not isinstance(head, str | dict):
        return train
    inside = head if isinstance(head, dict) else {"name": head}
    rest = {k: v for k, v in train.items() if k not in flat or k in inside}
    return {**rest, "head": {**flat, **inside}}


def of_a_run(train: dict[str, Any]) -> dict[str, Any]:
    """A section as runs of the first release hold it, without the options of all other heads.

    That release searched matches at cells' centres and read other attention maps; its figures stay
    so.
    """
    own, head = option_names(head_name(train)), train.get("head", HEAD)
    section = {**WERE, **{k: v for k, v in train.items() if k not in FLAT or k in own}}
    inside = head if isinstance(head, dict) else {"name": head}
    said = {*inside, *train}
    if newer := {k: v for k, v in HEADS_WERE.items() if k in own and k not in said}:
        section["head"] = {**inside, **newer}
    if "attention_in" not in train and not train.get("attention_maps"):
        section["attention_maps"] = TWO_FINEST
    return section


def in_steps(train: dict[str, Any]) -> dict[str, Any]:
    """The same with numbers of items as numbers of steps, where they are whole batches."""
    batch = _batch(train)
    section = dict(train)
    for items, steps in COUNTS.items():
        count = train.get(items)
        if type(count) is int and count > 0 and count % batch == 0 and steps not in train:
            section[steps] = count // batch
            del section[items]
    return section


def told(train: dict[str, Any]) -> dict[str, str]:
    """What to write instead of the first release's spelling, by field."""
    batch, name, advice = _batch(train), head_name(train), dict[str, str]()
    flat = {k: v for k, v in train.items() if k in FLAT and k in option_names(name)}
    if flat:
        written = ", ".join(f"{k}: {_plain(v)}" for k, v in flat.items())
        advice[next(iter(flat))] = f"write head: {{name: {name}, {written}}}; {UNTIL}"
    for items, steps in COUNTS.items():
        count = train.get(items)
        if type(count) is int and count > 0:
            advice[items] = (f"counts items, in batches of {batch}; write {steps}:"
                             f" {-(-count // batch)}; {UNTIL}")
    return advice


def head_name(train: dict[str, Any]) -> str:
    """The head of a section that need not be sound."""
    head = train.get("head", HEAD)
    return str(head.get("name", "") if isinstance(head, dict) else head)


def _batch(train: dict[str, Any]) -> int:
    try:
        batch = train.get("batch", head_of(head_name(train)).defaults.get("batch", BATCH))
    except UserError:
        batch = BATCH
    return batch if type(batch) is int and batch > 0 else BATCH


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
