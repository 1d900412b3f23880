"""toyworld: a small world of drawn pictures, with captions, key points, boxes and part labels.

Importing the package is instant; `draw` comes with `scene`, which needs numpy and cv2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gate_cache.toyworld.names import CATEGORIES, KEYPOINTS, PARTS, VERSION

if TYPE_CHECKING:
    from gate_cache.toyworld.scene import WORDS, Scene, draw

__all__ = ["CATEGORIES", "KEYPOINTS", "PARTS", "VERSION", "WORDS", "Scene", "draw"]


def __getattr__(name: str) -> Any:
    """Take everything else from `scene` on first use."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from gate_cache.toyworld import scene

    return getattr(scene, name)
