"""What a listing needs of the drawn world without drawing: categories and version."""

from __future__ import annotations

VERSION: int = 1
"""Part of every picture's seed; changes when drawings change: stores hold maps of the old ones."""

CATEGORIES: tuple[str, ...] = (
    "aeroplane", "bird", "boat", "bottle", "car", "cat", "chair", "horse",
)
"""Named as in SPair-71k; picture i shows category i modulo their number."""
