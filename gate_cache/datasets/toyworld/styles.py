"""Shifts of style: the same pictures as another world would show them."""

from collections.abc import Callable

import cv2
import numpy as np

from gate_cache.datasets.toyworld.render import Image


def dusk(image: Image) -> Image:
    """Low light: dark and violet above, a warm glow below the middle, little contrast."""
    height = np.linspace(0, 1, len(image), dtype=np.float32)[:, None, None]
    glow = np.exp(-(((height - 0.6) / 0.2) ** 2))
    tint = (1 - glow) * np.array([0.45, 0.38, 0.68], np.float32)
    tint = tint + glow * np.array([1.0, 0.6, 0.42], np.float32)
    light = (image / np.float32(255)) ** np.float32(1.2) * tint * 0.85
    light += np.array([0.05, 0.02, 0.09], np.float32)
    return np.asarray(np.clip(255 * light, 0, 255), np.uint8)


def sketch(image: Image) -> Image:
    """Pencil on paper: dark lines where brightness changes, a trace of shading."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    around = cv2.GaussianBlur(255 - grey, (0, 0), len(image) / 24)
    lines = np.minimum(grey * 256 / (256 - around), 255) / 255
    shade = 0.85 * lines**2 + 0.15 * grey / 255
    paper = np.array([244, 236, 220], np.float32)
    ink = np.array([40, 44, 60], np.float32)
    return np.asarray(ink + shade[:, :, None] * (paper - ink), np.uint8)


STYLES: dict[str, Callable[[Image], Image]] = {"dusk": dusk, "sketch": sketch}
"""Name to a function of a picture, uint8 (size, size, 3)."""
