"""PF-WILLOW (Ham et al., "Proposal Flow", CVPR 2016): 10 sub-classes of 10 images each.

Layout: ``PF-dataset-WILLOW/<sub-class>/<image>.png`` with ``<image>.mat`` beside it, whose
``pts_coord`` is a (2, 10) array of x and y. The published protocol is all 900 ordered pairs
inside a sub-class; 30 of the 100 files repeat a photograph of another sub-class, so splits are
made of whole photographs (by content).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import Keypoints, Pair, Sample, Split
from gate_cache.datasets.common.files import ImageFiles, need_folder, read_mat
from gate_cache.datasets.common.listed_pairs import PairsWithin
from gate_cache.datasets.common.splits import order
from gate_cache.manifest.dataset_specs import PFWillowSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXPECTED = ("expected PF-dataset-WILLOW/<sub-class>/*.png with a .mat of key points beside each;"
            " get PF-dataset.zip from https://www.di.ens.fr/willow/research/proposalflow/"
            " and unpack it below the data root (--data)")


class PFWillow(ImageFiles):
    """The 100 images of PF-WILLOW with their key points; shares of photographs are its splits."""

    protocol = ("PF-WILLOW: ordered pairs inside a sub-class, all 10 key points;"
                " box = tight box of the key points")

    def __init__(self, root: Path, spec: PFWillowSpec | None = None) -> None:
        super().__init__("pf-willow", root)
        self.spec = spec or PFWillowSpec(name="pf-willow")

    def samples(self) -> Sequence[Sample]:
        need_folder(self.root, "PF-WILLOW", EXPECTED)
        samples = [Sample(p.relative_to(self.root).as_posix())
                   for p in sorted(self.root.glob("*/*.png"))]
        if not samples:
            raise DataError(f"{self.root}: no images; {EXPECTED}")
        lone = [s.id for s in samples if not self.path(s.id).with_suffix(".mat").exists()]
        if lone:
            raise DataError(f"{self.path(lone[0])}: no key points beside it; {EXPECTED}")
        return samples

    def keypoints(self, sample_id: str) -> Keypoints:
        """The 10 key points; those in the picture are visible, the box is their tight box."""
        from gate_cache.datasets.common.points import tight_box, within

        xy, size = _points(self.path(sample_id).with_suffix(".mat")), self.size(sample_id)
        visible = within(xy, size)
        return Keypoints(xy, visible, tight_box(xy, visible), size)

    def sources(self, sample_id: str) -> tuple[Path, ...]:
        return self.path(sample_id), self.path(sample_id).with_suffix(".mat")

    @cached_property
    def _splits(self) -> dict[str, Split]:
        """Split of every sample: photographs in seeded order, sub-class by sub-class."""
        contents = {s.id: self.sha256(s.id) for s in self.samples()}
        chosen: dict[str, Split] = {}
        classes: dict[str, list[str]] = defaultdict(list)
        for sample_id in contents:
            classes[sample_id.split("/")[0]].append(sample_id)
        for members in classes.values():
            self._deal([contents[m] for m in members], chosen)
        return {sample_id: chosen[content] for sample_id, content in contents.items()}

    def _deal(self, contents: list[str], chosen: dict[str, Split]) -> None:
        """Bring one sub-class to its shares, minding photographs that are dealt already."""
        # Photographs of an earlier sub-class count towards the shares of this one, too.
        room: dict[str, int] = {s: round(n * len(contents)) for s, n in self.spec.shares.items()}
        for content in contents:
            if chosen.get(content) in room:
                room[chosen[content]] -= 1
        for content in sorted(contents, key=lambda c: order(self.spec.split_seed, c)):
            if content not in chosen:
                open_splits = [s for s in ("test", "val") if room[s] > 0]
                chosen[content] = open_splits[0] if open_splits else "train"  # type: ignore[assignment]
                if open_splits:
                    room[open_splits[0]] -= 1

    def split_of(self, sample_id: str) -> Split:
        return self._splits[sample_id]

    def pairs(self, split: Split | None) -> Sequence[Pair]:
        groups: dict[str, list[str]] = defaultdict(list)
        for sample in self.samples():
            if split is None or self.split_of(sample.id) == split:
                groups[sample.id.split("/")[0]].append(sample.id)
        return PairsWithin(groups.items())


def _points(path: Path) -> npt.NDArray[np.float64]:
    """Key points of a .mat file as (K, 2); Matlab's 1 is the centre of the first pixel."""
    import numpy as np

    points = read_mat(path, "pts_coord", EXPECTED)
    if points.ndim != 2 or points.shape[0] != 2 or not points.size or \
            not np.isfinite(points).all():
        raise DataError(f"{path}: pts_coord is {points.shape}, expected (2, points), finite")
    return np.asarray(points.T - 0.5)
