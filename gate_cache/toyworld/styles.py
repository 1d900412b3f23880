"""A shift of style: the same picture as another world would show it."""

import numpy as np

from gate_cache.toyworld.render import Image


def dusk(image: Image) -> Image:
    """Low light: dark and violet above, a warm glow below the middle, little contrast.

    Parameters
    ----------
    image : uint8 (size, size, 3), RGB
    """
    height = np.linspace(0, 1, len(image), dtype=np.float32)[:, None, None]
    glow = np.exp(-(((height - 0.6) / 0.2) ** 2))
    tint = (1 - glow) * np.array([0.45, 0.38, 0.68], np.float32)
    tint = tint + glow * np.array([1.0, 0.6, 0.42], np.float32)
    light = (image / np.float32(255)) ** np.float32(1.2) * tint * 0.85
    light += np.array([0.05, 0.02, 0.09], np.float32)
    return np.asarray(np.clip(255 * light, 0, 255), np.uint8)
