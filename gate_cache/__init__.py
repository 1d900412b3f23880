"""gate-cache: a two-stage offline cache for diffusion features (GATE, NeurIPS 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_cache.store.reader import FeatureStore

__version__ = "0.1.0"
__all__ = ["FeatureStore", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `FeatureStore` on first use: importing the package must stay instant."""
    if name == "FeatureStore":
        from gate_cache.store.reader import FeatureStore

        return FeatureStore
    raise AttributeError(f"module 'gate_cache' has no attribute '{name}'")
