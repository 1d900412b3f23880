"""Cityscapes (Cordts et al., CVPR 2016) with fine annotations: 19 classes of 34 labels.

Layout: ``leftImg8bit/{train,val}/<city>/<image>_leftImg8bit.png`` and
``gtFine/{train,val}/<city>/<image>_gtFine_labelIds.png``, or ``…_labelTrainIds.png`` as the
project's own scripts write them. The labels of the published test split are withheld; results are
on ``val``, which is ``test`` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gate_cache.datasets.common.base import IGNORED
from gate_cache.datasets.common.files import walk
from gate_cache.datasets.common.labelled import PublishedHalves, plain_table

EXPECTED = ("expected cityscapes/ with leftImg8bit/{train,val}/<city>/*_leftImg8bit.png and"
            " gtFine/{train,val}/<city>/*_gtFine_labelIds.png; get leftImg8bit_trainvaltest.zip and"
            " gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com (free account) and"
            " unpack both into one folder below the data root (--data)")
CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
           "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
           "train", "motorcycle", "bicycle")
_COUNTED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the classes, in their order."""
LABELS: Mapping[int, int] = {**dict.fromkeys(range(34), IGNORED), IGNORED: IGNORED,
                             **{label: i for i, label in enumerate(_COUNTED)}}
"""Label id to class."""
_IMAGE, _LABELS, _CLASSES = ("_leftImg8bit.png", "_gtFine_labelIds.png",
                             "_gtFine_labelTrainIds.png")


class Cityscapes(PublishedHalves):
    """The 2,975 + 500 finely annotated images."""

    name = "cityscapes"
    protocol = ("Cityscapes: IoU of 19 classes over the 500 images of the published val split,"
                " which is 'test' here; 'val' is a seeded part of the published train split")
    classes = CLASSES
    expected = EXPECTED
    folders = ("leftImg8bit", "gtFine")
    halves = ("train", "val")

    def label_file(self, sample_id: str) -> Path:
        """The file of label ids, or of train ids where only that is there."""
        stem = self.root / "gtFine" / sample_id.removesuffix(_IMAGE)
        ids, classes = (stem.with_name(stem.name + end) for end in (_LABELS, _CLASSES))
        return classes if classes.is_file() and not ids.is_file() else ids

    def table(self, sample_id: str) -> Mapping[int, int]:
        """Of label ids, or of train ids where there are only these."""
        ids = self.label_file(sample_id).name.endswith(_LABELS)
        return LABELS if ids else plain_table(len(CLASSES))

    def faults_of(self, labels: Mapping[int, int]) -> list[str]:
        """Train ids in files of label ids: no label is above 18, where sky is 23 and car is 26."""
        if not any(self.label_file(s.id).name.endswith(_LABELS) for s in self.samples()) or \
                max((n for n in labels if n != IGNORED), default=99) >= len(CLASSES):
            return []  # or no label at all is there, which others say
        return [f"{self.root / 'gtFine'}: the files {_LABELS} hold no label above"
                f" {len(CLASSES) - 1}, so these are train ids; call the files {_CLASSES}, or unpack"
                " gtFine_trainvaltest.zip again"]

    def listed(self) -> tuple[list[str], list[str]]:
        ids = [name for name in self.files(frozenset({".png"})) if name.endswith(_IMAGE)]
        there = set(walk(self.root / "gtFine", frozenset({".png"})))
        stems = [(i, i.removesuffix(_IMAGE)) for i in ids]
        return ids, [i for i, s in stems if not {s + _LABELS, s + _CLASSES} & there]
