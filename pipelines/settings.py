"""Settings that several recipes share: trainings that fit toyworld, and Horse-21's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.recipe import TOY, Source, Trials

NARROW = {"hidden": 32}
"""Assigners a quarter as wide as the paper's: tiny's features have a tenth of the channels."""
TOY_PAIRS: Mapping[str, Any] = {**NARROW, "head": "nn", "steps": 100, "validate_steps": 25}
TOY_PIXELS: Mapping[str, Any] = {
    **NARROW, "head": {"name": "pixel-mlp", "members": 3}, "steps": 375, "validate_steps": 375}
TOY_MASKS: Mapping[str, Any] = {
    **NARROW, "head": {"name": "upernet", "decoder_channels": 64}, "attention": False, "lr": 0.001,
    "steps": 150, "validate_steps": 50}
TOY_CLASSES: Mapping[str, Any] = {
    **NARROW, "head": "classifier", "attention": False, "steps": 157, "validate_steps": 16}
PARTS = {"masks": "parts"}
FOLDS = (0, 1, 2, 3, 4)
HORSE = "horse-21-techniques.yaml"


def toy_pixels(trials: Trials, attention: bool = False, parts: bool = False,
               **fields: Any) -> Source:
    """Toyworld's objects by category, or their parts, by pixels."""
    train = {**TOY_PIXELS, **fields} if attention else {**TOY_PIXELS, "attention": False, **fields}
    return Source(TOY, trials, train, dataset=PARTS if parts else {})


def horse_pixels(trials: Trials, attention: bool = False, one_fold: bool = True,
                 **fields: Any) -> Source:
    """Parts of horses, by pixels; the first split alone, or all five."""
    train = {"head": "pixel-mlp", **fields} if attention else \
        {"head": "pixel-mlp", "attention": False, **fields}
    return Source(HORSE, trials, train, folds=FOLDS[:1] if one_fold else FOLDS)
