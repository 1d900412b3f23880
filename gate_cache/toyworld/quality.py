"""Flawed pictures: blur, noise, low resolution, and JPEG artifacts."""

from dataclasses import dataclass

import cv2
import numpy as np

from gate_cache.toyworld.canvas import Rng
from gate_cache.toyworld.render import Image

HIGH = "high quality"
FLAWS = ("blurry", "noisy", "low resolution", "jpeg artifacts")


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a picture is: its words, the strength of the flaw in 0 to 1, and a noise seed."""

    words: str
    strength: float
    seed: int


def choose(rng: Rng, flawed_share: float) -> Quality:
    """High quality, or with this probability one of the flaws."""
    # all drawn in any case, so that another share changes nothing else in a picture
    flawed, which = rng.random() < flawed_share, int(rng.integers(len(FLAWS)))
    strength, seed = rng.random(), int(rng.integers(2**32))
    words = f"low quality, {FLAWS[which]}" if flawed else HIGH
    return Quality(words, strength, seed)


def _resize(image: Image, size: int, how: int) -> Image:
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def degrade(image: Image, quality: Quality) -> Image:
    """The picture, uint8 (size, size, 3), with the flaw that the quality names."""
    size, s = len(image), quality.strength
    if quality.words.endswith("blurry"):
        sigma = (0.013 + 0.015 * s) * size
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if quality.words.endswith("noisy"):
        noise = np.random.default_rng(quality.seed).standard_normal(image.shape, np.float32)
        return np.clip(image + noise * (13 + 17 * s), 0, 255).astype(np.uint8)
    if quality.words.endswith("resolution"):
        small = _resize(image, max(2, round(size * (0.42 - 0.14 * s))), cv2.INTER_AREA)
        return _resize(small, size, cv2.INTER_NEAREST)  # blocks: smooth ones would be "blurry"
    if quality.words.endswith("artifacts"):
        options = [cv2.IMWRITE_JPEG_QUALITY, round(24 - 14 * s)]
        # cv2 has blue first, and takes no view with negative strides
        code = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), options)[1]
        decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
        return np.ascontiguousarray(decoded[:, :, ::-1])
    return image
