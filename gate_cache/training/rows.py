"""Rows of results as runs keep them, also those of the first release. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gate_cache.learn.metrics.roles import Method, Role
from gate_cache.manifest.sweep_file import SEEDS
from gate_cache.manifest.train_spec import head_name

_FIRST_TITLES: tuple[tuple[str, Role], ...] = (
    ("GATE", "gate"), ("single feature", "baseline"), ("all features, uniform weights", "uniform"),
    ("the same + attention", "uniform"), ("the same, head nn, untrained", "untrained"),
    ("best single on val", "best-single"), ("copy the position", "floor"))


def method_of(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Method:
    """What a row stands for: it says so itself, or the first release's title does.

    Parameters
    ----------
    row : of ``metrics.json`` or ``results.json``, or a trial's file
    spec : settings that it was trained with, or the training it stands beside

    Raises
    ------
    KeyError, TypeError, ValueError
        It says neither.
    """
    return Method.from_json(row) if "role" in row else _of_first_title(row, spec)


def _of_first_title(row: Mapping[str, Any], spec: Mapping[str, Any]) -> Method:
    """Rows of gate-cache 0.1 had a title and no role: this is the one place that reads it.

    These are the titles as that release wrote them, and stay so whatever tables say now.
    """
    title = str(row["method"])
    role = next((role for begin, role in _FIRST_TITLES if title.startswith(begin)), None)
    if role is None:
        raise ValueError(f"no row of a table is called '{title}'")
    learnt = bool(row.get("trained", True))
    head = "" if role == "floor" else head_name(dict(spec)) if learnt else "nn"
    names = [title.partition(": ")[2]] if role in ("baseline", "untrained", "best-single") else \
        row.get("combos") or spec.get("combos") or ()
    return Method(role, head, tuple(names), title.endswith("+ attention"),
                  int(spec.get("assigners", 1)) if role == "gate" else 0)


def key_of(row: Mapping[str, Any]) -> str:
    """What a row's files are called after; in the first release it was its name or title."""
    return str(row.get("key") or row.get("name") or row["method"])


def configuration_of(row: Mapping[str, Any]) -> str:
    """A sweep's row without its seeds: rows that share it are seeds of one configuration.

    The first release kept the whole name alone, in which settings follow each other by commas.
    """
    if "configuration" in row:
        return str(row["configuration"])
    parts = [p for p in str(row["name"]).split(",") if p.split("=")[0] not in SEEDS]
    return ",".join(parts) or "default" if row["trained"] else str(row["name"])
