"""What a data set offers: samples, images, and for correspondence key points and pairs.

This module and every data set's listing import neither numpy nor cv2 at the top: a plan counts
samples and must be instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from gate_cache.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PREPROCESSING = 1
"""Version of how an image is read and framed (`images.to_frame`); part of fingerprints."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
IGNORED = 255
"""Value of a mask where no class counts."""


class NoClass(DataError):
    """An image that can be used, but not for a training of classes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image.

    Attributes
    ----------
    id : path relative to the data set's root, with the category, ``/`` between parts
    """

    id: str


def ids_of(dataset: ImageDataset) -> Sequence[str]:
    """Ids of all samples, in their order."""
    samples = dataset.samples()
    return samples.ids if isinstance(samples, Listing) else [s.id for s in samples]


class Listing(Sequence[Sample]):
    """Samples by their ids, each made when it is asked for: a million would fill the memory."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Any) -> Any:
        return Listing(self.ids[key]) if isinstance(key, slice) else Sample(self.ids[key])

    def __iter__(self) -> Iterator[Sample]:
        return map(Sample, self.ids)


@dataclass(frozen=True)
class Keypoints:
    """Named points of one image, in the original image's pixels.

    Attributes
    ----------
    xy : (K, 2) float64 array, x then y; (0, 0) is the corner of the top left pixel, whose centre
        is at (0.5, 0.5); NaN where a point's place is not known
    visible : (K,) bool array
    box : (4,) float64 array, x0, y0, x1, y1 of the object
    size : (height, width) of the original image
    """

    xy: npt.NDArray[np.float64]
    visible: npt.NDArray[np.bool_]
    box: npt.NDArray[np.float64]
    size: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """An ordered pair of samples of one category: points are carried from source to target."""

    source: str
    target: str
    category: str


class ImageDataset(Protocol):
    """A set of images. Listing is cheap; images are read one at a time."""

    name: str

    def samples(self) -> Sequence[Sample]:
        """All samples, in a fixed order."""

    def sha256(self, sample_id: str) -> str:
        """sha256 (hex) of the image's content."""

    def size(self, sample_id: str) -> tuple[int, int]:
        """(height, width) in pixels."""

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """The image as (height, width, 3) RGB; a damaged file raises `DataError`."""


class SplitDataset(ImageDataset, Protocol):
    """Images that each belong to one split, and how results on the splits are measured.

    Attributes
    ----------
    protocol : what is measured on which split, in words
    """

    protocol: str

    def split_of(self, sample_id: str) -> Split:
        """The split an image belongs to; no image is in two."""


@runtime_checkable
class SegmentationDataset(SplitDataset, Protocol):
    """Images with a class for every pixel.

    Attributes
    ----------
    classes : names of the classes, by number
    """

    classes: tuple[str, ...]

    def mask(self, sample_id: str) -> npt.NDArray[np.uint8]:
        """(H, W) class of every pixel of the image, `IGNORED` where none counts."""


@runtime_checkable
class ClassifiedDataset(SplitDataset, Protocol):
    """Images with one class each.

    Attributes
    ----------
    classes : names of the classes, by number
    """

    classes: tuple[str, ...]

    def label(self, sample_id: str) -> int:
        """The class of an image; `NoClass` where it has none, which keeps it from no other use."""


@runtime_checkable
class CorrespondenceDataset(SplitDataset, Protocol):
    """Images with key points that mean the same in every image of a category."""

    def keypoints(self, sample_id: str) -> Keypoints:
        """Key points of one image."""

    def pairs(self, split: Split | None) -> Sequence[Pair]:
        """Ordered pairs inside one split, or all of the published protocol for None."""
