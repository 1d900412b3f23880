"""The ``dataset`` section of a manifest: a data set's name chooses what may be written in it.

No torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from gate_cache.core.errors import TOLD, UserError
from gate_cache.core.plugins import installed, load_plugin
from gate_cache.manifest.base import Spec

GROUP = "gate_cache.datasets"
"""Entry points that name sections of other packages' data sets."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A share of a split's images, from 0 up to but not including 1."""
Name = Annotated[str, Field(min_length=1)]
"""Of a class."""


class Shared(Spec):
    """Base of data sets of which seeded shares become ``val`` and ``test``."""

    split_seed: int = 0
    val: Share = 0.1
    test: Share = 0.2

    @property
    def shares(self) -> dict[Literal["val", "test"], float]:
        """Shares of both splits."""
        return {"val": self.val, "test": self.test}


class HeldOut(Spec):
    """Base of data sets with a published test split: a seeded share of ``train`` is ``val``."""

    split_seed: int = 0
    val: Share = 0.05


class ToyWorldSpec(Spec):
    """Pictures drawn by our own code; nothing to download."""

    name: Literal["toyworld"]
    train: int = Field(96, ge=0, le=1_000_000)
    val: int = Field(32, ge=0, le=1_000_000)
    test: int = Field(64, ge=0, le=1_000_000)
    image_size: int = Field(64, ge=16, le=2048)
    style: Literal["dusk", "flawed", "covered"] | None = None
    masks: Literal["categories", "parts"] = "categories"
    partners: int | None = Field(None, ge=1)


class PFWillowSpec(Shared):
    """PF-WILLOW: 100 images, 10 sub-classes, 10 key points each."""

    name: Literal["pf-willow"]
    root: str = "PF-dataset-WILLOW"
    val: Share = 0.2
    test: Share = 0.3


class PFPascalSpec(Spec):
    """PF-PASCAL with the usual lists of pairs."""

    name: Literal["pf-pascal"]
    root: str = "PF-dataset-PASCAL"


class SPairSpec(Spec):
    """SPair-71k: 1,800 images, 18 categories, 70,958 pairs in the large layout."""

    name: Literal["spair"]
    root: str = "SPair-71k"
    layout: Literal["large", "small"] = "large"


ScarceName = Literal["horse-21", "bedroom-28", "ffhq-34", "cat-15", "celeba-19"]


class ScarceSpec(Spec):
    """A label-scarce set of ddpm-segmentation; `fold` is a seeded split, or the folders' own."""

    name: ScarceName
    root: str | None = None
    fold: int | None = Field(0, ge=0, le=4)
    split_seed: int = 0
    val: Share = 0.0

    @property
    def folder(self) -> str:
        """The root: given, or as the data set is published."""
        return self.root or self.name.replace("-", "_")


class ADE20KSpec(HeldOut):
    """ADE20K's scene parsing benchmark: 150 classes."""

    name: Literal["ade20k"]
    root: str = "ADEChallengeData2016"


class CityscapesSpec(HeldOut):
    """Cityscapes with fine annotations: 19 classes."""

    name: Literal["cityscapes"]
    root: str = "cityscapes"


class CIFAR10Spec(HeldOut):
    """CIFAR-10, binary version."""

    name: Literal["cifar-10"]
    root: str = "cifar-10-batches-bin"
    val: Share = 0.1


class OwnTree(Shared):
    """Base of trees of one's own images: folders called after splits may be the splits."""

    split_folders: bool = True


class FolderSpec(OwnTree):
    """Any tree of images, or some `files` of it, with classes by folder or by `labels`."""

    name: Literal["folder"]
    root: str
    files: list[str] | None = Field(None, min_length=1)
    labels: dict[str, Name] | None = Field(None, min_length=1)
    val: Share = 0.0
    test: Share = 0.0


class MasksSpec(OwnTree):
    """Images and label pictures of the same names."""

    name: Literal["masks"]
    root: str
    images: str = "images"
    masks: str = "masks"
    classes: list[Name] | None = Field(None, min_length=1, max_length=255)
    values: dict[int | str, Name | None] | None = Field(None, min_length=1)
    ignore: Annotated[int, Field(ge=0, le=65535)] | Literal["none"] | None = None


class PairsSpec(OwnTree):
    """Images with key points in a table, and perhaps a table of pairs."""

    name: Literal["pairs"]
    root: str
    points: str = "points.csv"
    pairs: str | None = None


class InstalledSpec(Spec):
    """Base of data sets of other packages, named by entry points of the group `GROUP`.

    Attributes
    ----------
    name : the entry point's
    root : its folder, below the data root
    """

    name: str
    root: str

    def open(self, root: Path) -> Any:
        """The data set (`gate_cache.datasets.common.base.ImageDataset`); reads no file.

        Parameters
        ----------
        root : the folder
        """
        raise NotImplementedError(f"data set '{self.name}' has no open()")


def installed_spec(name: Any) -> type[InstalledSpec] | None:
    """The section of another package's data set; None where there is none of that name."""
    return load_plugin(GROUP, name) if isinstance(name, str) and name in installed(GROUP) else None


def _any_dataset(value: Any, ours: ValidatorFunctionWrapHandler) -> Any:
    """Of ours by its name, else of another package."""
    name = value.get("name") if isinstance(value, dict) else None
    try:
        external = None if name is None or name in _NAMES else installed_spec(name)
    except UserError as error:
        raise PydanticCustomError(TOLD, "{text}", {"text": str(error)}) from None
    return ours(value) if external is None else external.model_validate(value)


_Ours = (ToyWorldSpec | PFWillowSpec | PFPascalSpec | SPairSpec | ScarceSpec | ADE20KSpec
         | CityscapesSpec | CIFAR10Spec | FolderSpec | MasksSpec | PairsSpec)
_NAMES = {name for spec in get_args(_Ours)
          for name in get_args(spec.model_fields["name"].annotation)}
DatasetSpec = Annotated[_Ours, Field(discriminator="name"), WrapValidator(_any_dataset),
                        SerializeAsAny()]
