"""SPair-71k (Min et al., 2019): 18 categories, 1,800 images, 70,958 pairs.

Layout, as published: ``JPEGImages/<category>/<image>.jpg``, ``ImageAnnotation/<category>/
<image>.json`` and ``Layout/large/{trn,val,test}.txt``, whose lines are the names of pairs:
``000001-<source>-<target>:<category>``. What ``PairAnnotation`` holds of a pair are the key points
that both images have; they are taken from the images' own files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Keypoints, Pair, Split
from gate_cache.datasets.common.files import read_text
from gate_cache.datasets.common.listed_pairs import ListedPairs
from gate_cache.manifest.dataset_specs import SPairSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXPECTED = ("expected SPair-71k/ with JPEGImages, ImageAnnotation and Layout; get SPair-71k.tar.gz"
            " from https://cvlab.postech.ac.kr/research/SPair-71k/ and unpack it below the data"
            " root (--data)")
POINTS = 30
"""Key points are numbered up to this in every category; most have fewer."""
_LISTS = {"train": "trn", "val": "val", "test": "test"}
_PAIR = re.compile(r"\d+-(?P<source>[^-:/\\]+)-(?P<target>[^-:/\\]+):(?P<category>[^:/\\.]+)")


class SPair(ListedPairs):
    """The images of SPair-71k with their key points; ids are ``<category>/<image>.jpg``.

    Of the two published layouts, lists of pairs, results are on ``large``.
    """

    protocol = ("SPair-71k: the published pairs of each split (test: 12,234 in the large layout),"
                " key points visible in both images; box = the annotated one")
    expected = EXPECTED

    def __init__(self, root: Path, spec: SPairSpec) -> None:
        super().__init__("spair", root)
        self.layout = spec.layout

    def path(self, sample_id: str) -> Path:
        return self.root / "JPEGImages" / sample_id

    def annotation(self, sample_id: str) -> Path:
        return (self.root / "ImageAnnotation" / sample_id).with_suffix(".json")

    def list_file(self, split: Split) -> Path:
        return self.root / "Layout" / self.layout / f"{_LISTS[split]}.txt"

    def read_list(self, split: Split) -> list[Pair]:
        path = self.list_file(split)
        lines = read_text(path, EXPECTED).splitlines()
        return [_pair(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def keypoints(self, sample_id: str) -> Keypoints:
        """The numbered points of an image; ``null`` ones, and those outside it, are not visible.

        They are indices of pixels, as DIFT's released evaluation reads them, so half a pixel is
        added: a point is at its pixel's centre. One on the far border stays on it.
        """
        path = self.annotation(sample_id)
        text = read_text(path, EXPECTED)
        try:
            return _keypoints(path, json.loads(text), self.size(sample_id))
        except DataError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}: no key points can be read ({reason}); {EXPECTED}") from None


def _pair(path: Path, number: int, line: str) -> Pair:
    match = _PAIR.fullmatch(line.strip())
    if not match:
        raise DataError(f"{path}:{number}: '{line[:60]}' is not a pair;"
                        " expected 000001-<source>-<target>:<category>")
    category = match["category"]
    return Pair(f"{category}/{match['source']}.jpg", f"{category}/{match['target']}.jpg", category)


def _keypoints(path: Path, data: dict[str, Any], size: tuple[int, int]) -> Keypoints:
    import numpy as np

    from gate_cache.datasets.common.points import check_box, within

    xy = np.full((POINTS, 2), np.nan)  # as many in every category, so that numbers are rows
    for number, point in data["kps"].items():
        if not 0 <= int(number) < POINTS:
            raise ValueError(f"key point {number} is not one of 0 … {POINTS - 1}")
        if point is not None:
            xy[int(number)] = _finite(point, 2)
    box = _finite(data["bndbox"], 4)
    stated = int(data["image_height"]), int(data["image_width"])
    if stated != size:
        raise DataError(f"{path}: is of an image of {stated[1]} × {stated[0]}, and the file has"
                        f" {size[1]} × {size[0]} (width × height): the annotation is of"
                        " another image")
    visible = within(xy, size)
    centres = np.where(visible[:, None], np.minimum(xy + 0.5, size[::-1]), xy)
    return Keypoints(centres, visible, check_box(path, box, size), size)


def _finite(numbers: Any, count: int) -> npt.NDArray[np.float64]:
    import numpy as np

    values = np.array(numbers, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(f"{numbers} is not {count} numbers")
    return values
