"""The study that a head needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

import gate_cache
from gate_cache.core.progress import Progress
from gate_cache.core.roots import Roots
from gate_cache.core.versions import versions
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import TrainSpec
from gate_cache.training.inputs import Study, open_study
from gate_cache.training.inputs_dense import DenseStudy, open_dense

PAIRS = ("nn", "conv")
"""Heads of correspondence."""
_PCK = "PCK in original-image pixels; radius = α × longer side of image or box"
_IOU = ("IoU and accuracy in original pixels, one confusion matrix over all of a split; classes in"
        " neither truth nor predictions are left out")
METRICS = {"nn": _PCK, "conv": _PCK, "upernet": _IOU,
           "pixel-mlp": f"{_IOU}; majority of the ensemble",
           "classifier": "top-1 accuracy; class accuracy is the mean over classes"}
"""What is measured, by head."""


def open_any(loaded: Loaded, roots: Roots, device: str | None, show: Progress,
             specs: Sequence[TrainSpec] = ()) -> Study | DenseStudy:
    """Open what the head of these trials needs; by default of the manifest's own."""
    head = (specs[0] if specs else loaded.manifest.train).head
    opening = open_study if head in PAIRS else open_dense
    return opening(loaded, roots, device, show, specs)


def alike(spec: TrainSpec) -> tuple[Any, ...]:
    """What trials of one study agree in."""
    attention = spec.attention if isinstance(spec.attention, str) else None
    shared = (attention, tuple(spec.attention_maps or ()), spec.resolution, spec.baseline)
    if spec.head in PAIRS:
        return ("pairs", *shared)
    own = (tuple(spec.extra or ()), spec.sampling, spec.reservoir_mb) \
        if spec.head == "pixel-mlp" else ()
    return (spec.head, *shared, *own)


def settled(study: Study | DenseStudy, loaded: Loaded) -> dict[str, Any]:
    """Everything that is settled before a training begins."""
    return {
        "gate_cache": gate_cache.__version__, "torch": str(torch.__version__),
        "versions": versions(), "began": time.strftime("%Y-%m-%d %H:%M"),
        "manifest_file": loaded.path.name, **study.config(),
        "combos": list(study.combos), "baseline": study.baseline, "select": study.select,
        "protocol": f"{study.protocol}; {METRICS[study.spec.head]}",
        "manifest": loaded.manifest.model_dump(mode="json", by_alias=True),
    }
