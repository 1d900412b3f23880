"""Settings that several recipes share: trainings that fit toyworld, and Horse-21's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.recipe import TOY, Source, Trials

NARROW = {"hidden": 32}
"""Assigners a quarter as wide as the paper's: tiny's features have a tenth of the channels."""
STANDARDISED = {"standardise": "image"}
"""Else two maps of tiny hold nearly all of a descriptor's length (docs/heads.md)."""
TOY_PAIRS: Mapping[str, Any] = {
    **NARROW, "head": {"name": "nn", **STANDARDISED}, "steps": 100, "validate_steps": 25}
FEWER_PAIRS: Mapping[str, Any] = {"partners": 16}
"""Of 63: a quarter of the time; intervals, which are over pictures, become a third wider."""
TOY_PIXELS: Mapping[str, Any] = {
    **NARROW, "head": "pixel-linear", "attention": False, "steps": 100, "validate_steps": 50}
TOY_CLASSES: Mapping[str, Any] = {
    **NARROW, "head": "linear", "attention": False, "steps": 100, "validate_steps": 50}
"""Probes: solved, so that what they are attached to is all that rows differ in."""
MASKS = {"train": 192, "val": 64, "test": 512}
CLASSES = {"train": 512, "val": 64, "test": 2048}
"""Pictures enough that what rows differ by is more than what test pictures do (docs/results.md)."""
FOLDS = (0, 1, 2, 3, 4)
HORSE = "horse-21-techniques.yaml"


def toy_pixels(trials: Trials, parts: bool = False, **fields: Any) -> Source:
    """Toyworld's objects by category, or their parts, by pixels."""
    data = {**MASKS, "masks": "parts"} if parts else MASKS
    return Source(TOY, trials, {**TOY_PIXELS, **fields}, dataset=data, alike=_single(trials))


def toy_classes(trials: Trials, **data: str) -> Source:
    """The category of each of toyworld's pictures."""
    return Source(TOY, trials, TOY_CLASSES, dataset={**CLASSES, **data}, alike=_single(trials))


def _single(trials: Trials) -> bool:
    return all(len(t["combos"]) == 1 for t in trials)


def horse_pixels(trials: Trials, attention: bool = False, one_fold: bool = True,
                 **fields: Any) -> Source:
    """Parts of horses, by pixels; the first split alone, or all five."""
    train = {"head": "pixel-mlp", **fields} if attention else \
        {"head": "pixel-mlp", "attention": False, **fields}
    return Source(HORSE, trials, train, folds=FOLDS[:1] if one_fold else FOLDS)
