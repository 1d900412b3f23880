"""PF-PASCAL (Ham et al., "Proposal Flow", TPAMI 2018), with the lists of pairs that papers use.

Layout: ``PF-dataset-PASCAL/JPEGImages/<image>.jpg``, ``Annotations/<class>/<image>.mat`` (``kps``:
points by number, NaN where not visible; ``bbox``: x0, y0, x1, y1), and a list of pairs for each
split: ``trn_pairs.csv``, ``val_pairs.csv`` and ``test_pairs.csv``, or the same called
``train_pairs_pf_pascal.csv`` …, with the columns ``source_image``, ``target_image`` and ``class``
(1 … 20). Their ``XA``, ``YA``, ``XB`` and ``YB`` hold the points that both images share, which are
taken from the .mat files; rows of the training list that only repeat a pair flipped count once.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Keypoints, Pair, Split
from gate_cache.datasets.common.files import read_mat
from gate_cache.datasets.common.listed_pairs import ListedPairs
from gate_cache.datasets.common.tables import read_csv, whole
from gate_cache.manifest.dataset_specs import PFPascalSpec

EXPECTED = ("expected PF-dataset-PASCAL/ with JPEGImages, Annotations, trn_pairs.csv, val_pairs.csv"
            " and test_pairs.csv; get PF-dataset-PASCAL.zip from"
            " https://www.di.ens.fr/willow/research/proposalflow/ and the lists from a project that"
            " uses them (docs/datasets.md), and put them below the data root (--data)")
CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
           "train", "tvmonitor")
_LISTS = {"train": ("trn_pairs.csv", "train_pairs_pf_pascal.csv"),
          "val": ("val_pairs.csv", "val_pairs_pf_pascal.csv"),
          "test": ("test_pairs.csv", "test_pairs_pf_pascal.csv")}
_COLUMNS = ("source_image", "target_image", "class")


class PFPascal(ListedPairs):
    """The images of PF-PASCAL's lists; ids are ``<class>/<image>.jpg``.

    An image with objects of two classes is two samples, as its key points are.
    """

    protocol = ("PF-PASCAL: the listed pairs of each split, key points visible in both images;"
                " box = the annotated one")
    expected = EXPECTED

    def __init__(self, root: Path, _: PFPascalSpec) -> None:
        super().__init__("pf-pascal", root)

    def path(self, sample_id: str) -> Path:
        return self.root / "JPEGImages" / sample_id.split("/")[1]

    def annotation(self, sample_id: str) -> Path:
        return (self.root / "Annotations" / sample_id).with_suffix(".mat")

    def list_file(self, split: Split) -> Path:
        """The list of a split's pairs, by either name."""
        paths = [self.root / name for name in _LISTS[split]]
        return next((p for p in paths if p.is_file()), paths[0])

    def read_list(self, split: Split) -> list[Pair]:
        """The different pairs of a split's list."""
        path = self.list_file(split)
        rows = read_csv(path, _COLUMNS, EXPECTED)
        return list(dict.fromkeys(_pair(path, number, row) for number, row in rows))

    def keypoints(self, sample_id: str) -> Keypoints:
        """The numbered points of an image; Matlab's 1 is the centre of the first pixel."""
        import numpy as np

        from gate_cache.datasets.common.points import check_box, within

        path = self.annotation(sample_id)
        xy, box = (read_mat(path, name, EXPECTED) - 0.5 for name in ("kps", "bbox"))
        if xy.ndim != 2 or xy.shape[1] != 2 or box.size != 4 or not np.isfinite(box).all():
            raise DataError(f"{path}: kps is {xy.shape} and bbox {box.shape}, expected (points, 2)"
                            " and 4 finite numbers")
        size = self.size(sample_id)
        return Keypoints(xy, within(xy, size), check_box(path, box.reshape(4), size), size)


def _pair(path: Path, number: int, row: dict[str, str]) -> Pair:
    kind = whole(row["class"])
    if kind not in map(str, range(1, len(CLASSES) + 1)):
        raise DataError(f"{path}:{number}: class '{kind}' is not 1 … {len(CLASSES)}")
    name = CLASSES[int(kind) - 1]
    # Lists hold paths of their authors' trees; PureWindowsPath splits at slashes of either kind.
    source, target = (f"{name}/{PureWindowsPath(row[end]).name}" for end in _COLUMNS[:2])
    return Pair(source, target, name)
