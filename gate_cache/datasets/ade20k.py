"""ADE20K's scene parsing benchmark (Zhou et al., CVPR 2017): 150 classes.

Layout: ``ADEChallengeData2016/images/{training,validation}/*.jpg`` and
``annotations/{training,validation}/*.png``, whose values are 0 for all that is not a class, and
1 … 150. The labels of the published test images are withheld; results are on ``validation``, which
is ``test`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gate_cache.datasets.common.base import IGNORED
from gate_cache.datasets.common.files import walk
from gate_cache.datasets.common.labelled import PublishedHalves, class_names

EXPECTED = ("expected ADEChallengeData2016/ with images/{training,validation} and"
            " annotations/{training,validation}; get ADEChallengeData2016.zip from"
            " http://sceneparsing.csail.mit.edu and unpack it below the data root (--data)")
CLASSES = class_names("ade20k")
_IMAGES = frozenset({".jpg", ".jpeg", ".png"})


class ADE20K(PublishedHalves):
    """The 20,210 + 2,000 images below the folder ``ADEChallengeData2016``."""

    name = "ade20k"
    protocol = ("ADE20K: IoU of 150 classes over the 2,000 images of the published validation"
                " split, which is 'test' here; 'val' is a seeded part of the published training"
                " split")
    classes = CLASSES
    expected = EXPECTED
    folders = ("images", "annotations")
    halves = ("training", "validation")

    def label_file(self, sample_id: str) -> Path:
        return (self.root / "annotations" / sample_id).with_suffix(".png")

    def table(self, sample_id: str) -> Mapping[int, int]:
        """1 … 150 are the classes, 0 is not counted."""
        return {0: IGNORED, **{i + 1: i for i in range(len(CLASSES))}}

    def faults_of(self, labels: Mapping[int, int]) -> list[str]:
        """Labels from which 1 was taken already, so that 255 is what does not count."""
        if IGNORED not in labels:
            return []
        return [f"{self.root / 'annotations'}: {labels[IGNORED]} label pictures have 255, so 1 was"
                " taken from their labels already; take the published ones"]

    def listed(self) -> tuple[list[str], list[str]]:
        ids = self.files(_IMAGES)
        there = set(walk(self.root / "annotations", frozenset({".png"})))
        return ids, [i for i in ids if Path(i).with_suffix(".png").as_posix() not in there]
