"""Draw the pictures of the docs: python docs/pictures.py"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gate_cache.datasets.toyworld import CATEGORIES, draw

COLUMNS, SIZE, GAP = 10, 96, 4


def toyworld() -> np.ndarray:
    """A row a category, pictures of the test split, good and bad quality as they come."""
    side = SIZE + GAP
    sheet = np.full((side * len(CATEGORIES) + GAP, side * COLUMNS + GAP, 3), 255, np.uint8)
    for row in range(len(CATEGORIES)):
        for column in range(COLUMNS):
            picture = draw("test", column * len(CATEGORIES) + row, SIZE).image
            y, x = GAP + row * side, GAP + column * side
            sheet[y : y + SIZE, x : x + SIZE] = picture
    return sheet


if __name__ == "__main__":
    target = Path(__file__).parent / "toyworld.jpg"
    cv2.imwrite(str(target), toyworld()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(target)
