"""gate-cache: a two-stage offline cache for diffusion features (GATE, NeurIPS 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_cache.store.reader import FeatureStore
    from gate_cache.training.sweep import sweep
    from gate_cache.verbs import extract, match, train
    from gate_cache.workspace.workspace import Workspace

__version__ = "0.2.0"
__all__ = ["FeatureStore", "Workspace", "__version__", "extract", "match", "sweep", "train"]


def __getattr__(name: str) -> Any:
    """Import a name on first use: importing the package must stay instant."""
    from importlib import import_module

    rooms = {"FeatureStore": "store.reader", "Workspace": "workspace.workspace",
             "sweep": "training.sweep", **dict.fromkeys(("extract", "match", "train"), "verbs")}
    if name in rooms:
        return getattr(import_module(f"gate_cache.{rooms[name]}"), name)
    raise AttributeError(f"module 'gate_cache' has no attribute '{name}'")
