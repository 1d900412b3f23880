"""Images of any data set as the model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gate_cache.datasets.common.files import ImageFiles
from gate_cache.datasets.common.images import Pixels, to_frame

if TYPE_CHECKING:
    from gate_cache.core.preprocessing import Color, Preprocessing
    from gate_cache.datasets.common.base import ImageDataset


def image_on(dataset: ImageDataset, sample_id: str, background: Color | None) -> Pixels:
    """An image of any data set; transparent files are laid on a background (see `read_rgb`)."""
    if isinstance(dataset, ImageFiles):
        return dataset.image(sample_id, background)
    return dataset.image(sample_id)


def model_input(dataset: ImageDataset, sample_id: str, how: Preprocessing) -> Pixels:
    """An image as the model takes it, (H, W, 3)."""
    image = image_on(dataset, sample_id, how.background)
    return to_frame(image, how.size, how.fit, how.resample, how.shapes)
