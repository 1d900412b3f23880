"""``toyworld`` as a data set: pictures drawn on demand, no files (see `toyworld.draw`)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Literal

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.base import SPLITS, Keypoints, Pair, Sample, Split
from gate_cache.datasets.common.listed_pairs import PairsWithin
from gate_cache.toyworld.names import CATEGORIES, KEYPOINTS, PARTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gate_cache.toyworld.scene import Scene

Style = Literal["dusk", "flawed", "covered"]
Kind = Literal["categories", "parts"]
BACKGROUND = "background"


class ToyWorld:
    """Drawn pictures of `CATEGORIES`, deterministic from (split, index).

    Parameters
    ----------
    counts : number of pictures of each split
    image_size : side of a picture in pixels
    style : ``dusk`` for the same pictures in low light (what the LoRAs of ``tiny`` are for),
        ``flawed`` with all of low quality (30 % otherwise), ``covered`` with something in front of
        every object (20 % otherwise)
    partners : others of its category that each picture of ``val`` and ``test`` is paired with
    masks : whether `mask` tells objects of the categories apart, or parts of objects too
    """

    name = "toyworld"
    protocol = ("toyworld: ordered pairs inside a category and split, points visible in both;"
                " box = the object's drawn box; IoU over all pixels, background included, and"
                " accuracy over all pictures of a split")

    def __init__(self, counts: dict[Split, int], image_size: int = 64,
                 style: Style | None = None, masks: Kind = "categories",
                 partners: int | None = None) -> None:
        self.counts = counts
        self.image_size = image_size
        self.style = style
        self.masks = masks
        self.partners = partners

    def samples(self) -> Sequence[Sample]:
        samples = [Sample(_name(split, i)) for split in SPLITS
                   for i in range(self.counts.get(split, 0))]
        if not samples:
            raise DataError("toyworld: no pictures; give train, val or test a number above 0")
        return samples

    def scene(self, sample_id: str) -> Scene:
        """The drawn scene with its key points, parts and caption."""
        split, _, index = sample_id.split("/")
        return _drawer(self.image_size)(split, int(index), self.style)

    def sha256(self, sample_id: str) -> str:
        return hashlib.sha256(self.image(sample_id).tobytes()).hexdigest()

    def size(self, sample_id: str) -> tuple[int, int]:
        return (self.image_size, self.image_size)

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        return self.scene(sample_id).image

    def keypoints(self, sample_id: str) -> Keypoints:
        """The category's named key points."""
        import numpy as np

        scene = self.scene(sample_id)
        # toyworld counts from the centre of the first pixel, data sets from its corner
        return Keypoints(scene.keypoints.astype(np.float64) + 0.5, scene.visible,
                         scene.box.astype(np.float64) + 0.5, self.size(sample_id))

    def point_names(self) -> dict[str, list[str]]:
        return {category: list(KEYPOINTS[category]) for category in CATEGORIES}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of what `mask` tells apart, by number: categories or their parts, background last.

        Those of the categories are the classes of whole pictures, too; none is background.
        """
        if self.masks == "categories":
            return (*CATEGORIES, BACKGROUND)
        return (*(f"{category} {part}" for category in CATEGORIES for part in PARTS[category]),
                BACKGROUND)

    def mask(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """(H, W) class of every pixel; occluders are background."""
        import numpy as np

        scene = self.scene(sample_id)
        first = self._first(scene.category)
        steps = scene.parts.astype(np.int64) - 1 if self.masks == "parts" else 0
        classes = np.where(scene.parts > 0, first + steps, len(self.classes) - 1)
        return np.asarray(classes, dtype=np.uint8)

    def _first(self, category: str) -> int:
        """The number of a category, or of its first part."""
        if self.masks == "categories":
            return CATEGORIES.index(category)
        return next(i for i, n in enumerate(self.classes) if n.startswith(f"{category} "))

    def label(self, sample_id: str) -> int:
        """The number of a picture's category; a `DataError` if the classes are those of parts."""
        if self.masks == "parts":
            raise DataError("toyworld: with 'masks: parts' whole pictures have no class; set"
                            " 'masks: categories' in the manifest's dataset")
        return CATEGORIES.index(sample_id.split("/")[1])

    def split_of(self, sample_id: str) -> Split:
        """The split, which is the first part of the id."""
        return next(s for s in SPLITS if sample_id.startswith(f"{s}/"))

    def pairs(self, split: Split | None) -> Sequence[Pair]:
        if self.partners and split in ("val", "test"):
            # The next ones of a circle: each picture is as often a source as a target.
            return [Pair(source, ids[(i + step) % len(ids)], category)
                    for category, ids in self._groups(split).items()
                    for i, source in enumerate(ids)
                    for step in range(1, min(self.partners, len(ids) - 1) + 1)]
        return PairsWithin(group for s in SPLITS if split in (None, s)
                           for group in self._groups(s).items())

    def _groups(self, split: Split) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = defaultdict(list)
        for i in range(self.counts.get(split, 0)):
            groups[CATEGORIES[i % len(CATEGORIES)]].append(_name(split, i))
        return groups


def _name(split: str, index: int) -> str:
    return f"{split}/{CATEGORIES[index % len(CATEGORIES)]}/{index:05d}"


@cache
def _drawer(size: int) -> Callable[[str, int, Style | None], Scene]:
    """Pictures of a size; image, points, mask and digest of one are asked for one by one."""
    most = min(2**28 // size**2, 4096)  # a scene takes four bytes a pixel: a gigabyte at most
    return lru_cache(most)(partial(_draw, size))


def _draw(size: int, split: str, index: int, style: Style | None) -> Scene:
    from gate_cache.toyworld.render import dusk
    from gate_cache.toyworld.scene import draw

    scene = draw(split, index, size, **({style: 1.0} if style in ("flawed", "covered") else {}))
    return replace(scene, image=dusk(scene.image)) if style == "dusk" else scene
