"""Models by name: a folder, or a hub id's snapshot, here or fetched on request. No torch."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from gate_cache.core.errors import NotThere, did_you_mean
from gate_cache.core.hub import from_hub, is_whole, weight_patterns
from gate_cache.core.roots import Roots, escapes
from gate_cache.diffusion.models.embedded import HOMES
from gate_cache.diffusion.models.layouts import KINDS, PROCESSOR, guessed_kind, is_bare

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_from_hub(repo: str, revision: str | None, variant: str | None,
                   download: bool) -> Path | None:
    """The local snapshot of a model's repository, with one `variant` of its weights.

    Parameters
    ----------
    repo, revision, download : as of `from_hub`
    variant : of the weight files, such as ``fp16``
    """
    return from_hub(repo, revision, _patterns(variant), partial(_is_whole_model, variant), download)


def _patterns(variant: str | None) -> list[str]:
    """Files of a hub repository to fetch: configurations, and one variant of the weights."""
    weights = [p for name in ("model", "diffusion_pytorch_model")
               for p in weight_patterns(name, variant)]
    patterns = ["*.json", "*.txt", "*.jinja", *dict.fromkeys(weights)]
    folders = dict.fromkeys(folder for kind in KINDS for folder in kind.components)
    bare = ["model_index.json", "config.json", "scheduler_config.json", PROCESSOR,
            "model.safetensors.index.json", *dict.fromkeys(weights)]
    return [*bare, *(f"{folder}/{pattern}" for folder in folders for pattern in patterns)]


def _is_whole_model(variant: str | None, snapshot: Path) -> bool:
    """Whether a snapshot has all components (another tool may have fetched a part)."""
    if is_bare(snapshot):
        return is_whole(["."], [], variant, snapshot)
    kind = guessed_kind(snapshot)
    return is_whole(kind.modules, kind.components, variant, snapshot)


def find_folder(source: str, roots: Roots, place: str) -> Path | None:
    """The folder below the models root; None where `source` can be a hub id, else `ModelError`."""
    if not escapes(source) or roots.outside:
        folder = roots.below("models", source, place)
        if folder.is_dir():
            return folder
    if _HUB_ID.fullmatch(source) and not escapes(source):
        return None
    roots.below("models", source, place)
    raise NotThere(f"{place}: '{source}' is neither {' nor '.join(map(repr, HOMES))}, nor a folder"
                   f" below the models root ({roots.models}), nor a hub id like 'organisation/name'"
                   f"{did_you_mean(source, HOMES)}")
