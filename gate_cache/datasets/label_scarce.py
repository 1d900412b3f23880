"""Label-scarce sets of ddpm-segmentation (Baranchuk et al., ICLR 2022): parts of horses, bedrooms …

Layout, as published: ``<set>/real/{train,test}/<image>.png`` (or .jpg) with ``<image>.npy`` beside
it, a (height, width) table of labels. Results are means over five random splits of all images into
as many training images as the folder ``train`` holds, and the rest. No list of them is published;
the released code of GATE shuffles the file lists with Python's seeded generator, and so does
`LabelScarce`, with the fold as the seed. That code takes a seed of 0 for none, so fold 0 is ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import IGNORED, Split
from gate_cache.datasets.common.files import walk
from gate_cache.datasets.common.labelled import LabelledImages, class_names, plain_table
from gate_cache.datasets.common.splits import with_val
from gate_cache.manifest.dataset_specs import ScarceSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXPECTED = ("expected {folder}/real/{{train,test}}/ with images (.png or .jpg) and a .npy of labels"
            " beside each; get datasets.tar.gz of https://github.com/yandex-research/"
            "ddpm-segmentation (47 MB) and unpack it below the data root (--data)")
_IMAGES = frozenset({".png", ".jpg", ".jpeg"})
_NO_BACKGROUND = ("bedroom-28",)
"""Sets whose label 0, the background, is neither trained on nor counted."""


class LabelScarce(LabelledImages):
    """Images with labelled parts; ids are paths below the folder ``real``.

    A fold, 0 … 4, is a seeded split; None is the folders ``train`` and ``test`` themselves. A share
    of the training images may be ``val``; published results have none.
    """

    parts = ("real/train", "real/test")

    def __init__(self, root: Path, spec: ScarceSpec) -> None:
        super().__init__(spec.name, root)
        self.expected = EXPECTED.format(folder=spec.name.replace("-", "_"))
        self.classes = class_names(spec.name)
        self.fold, self.spec = spec.fold, spec

    @property
    def protocol(self) -> str:
        split = "the folders' own split" if self.fold is None else f"seeded split {self.fold} of 5"
        return (f"{self.name}: IoU of {len(self.classes)} classes over all pixels of the test"
                f" images, {split}")

    def path(self, sample_id: str) -> Path:
        return self.root / "real" / sample_id

    def label_file(self, sample_id: str) -> Path:
        return self.path(sample_id).with_suffix(".npy")

    def table(self, sample_id: str) -> Mapping[int, int]:
        """Labels are classes; of `_NO_BACKGROUND`, they are one more and 0 is not counted."""
        if self.name in _NO_BACKGROUND:
            return {0: IGNORED, IGNORED: IGNORED, **{i + 1: i for i in range(len(self.classes))}}
        return plain_table(len(self.classes))

    def labels(self, sample_id: str) -> npt.NDArray[np.int64]:
        """(H, W) labels; those of another size than the image, and its shape, are resized to it."""
        from gate_cache.datasets.common.images import read_array, resize_labels

        path, (height, width) = self.label_file(sample_id), self.size(sample_id)
        labels = read_array(path)
        if labels.shape == (height, width):
            return labels
        h, w = labels.shape
        if abs(h * width - w * height) > max(h, w, height, width):  # by more than rounding makes
            raise DataError(f"{path}: {h} × {w} labels for an image of {height} × {width} (height ×"
                            " width): of another shape; are they turned, or another image's?")
        return resize_labels(labels, (height, width))

    def listed(self) -> tuple[list[str], list[str]]:
        ids = [f"{half}/{name}" for half in ("train", "test")
               for name in walk(self.root / "real" / half, _IMAGES)]
        return ids, [i for i in ids if not self.label_file(i).is_file()]

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        ids = [s.id for s in self.samples()]
        count = sum(i.startswith("train/") for i in ids)
        if self.fold is not None:
            random.Random(self.fold).shuffle(ids)  # noqa: S311 - the published split
        return with_val(ids[:count], ids[count:], self.spec.val, self.spec.split_seed)
