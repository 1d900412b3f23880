"""From a manifest's ``dataset`` section to a data set object. Opening reads no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from gate_cache.core.roots import Roots
from gate_cache.datasets.ade20k import ADE20K
from gate_cache.datasets.cifar import CIFAR10
from gate_cache.datasets.cityscapes import Cityscapes
from gate_cache.datasets.common.base import ImageDataset
from gate_cache.datasets.common.splits import SplitRule
from gate_cache.datasets.folder import ImageFolder
from gate_cache.datasets.label_scarce import LabelScarce
from gate_cache.datasets.masks import Masks
from gate_cache.datasets.pairs import Pairs
from gate_cache.datasets.pf_pascal import PFPascal
from gate_cache.datasets.pf_willow import PFWillow
from gate_cache.datasets.spair import SPair
from gate_cache.datasets.toy import ToyWorld
from gate_cache.manifest import dataset_specs as specs

_BY_SECTION: dict[type[Any], Callable[[Path, Any], ImageDataset]] = {
    specs.PFWillowSpec: PFWillow, specs.PFPascalSpec: PFPascal, specs.SPairSpec: SPair,
    specs.ADE20KSpec: ADE20K, specs.CityscapesSpec: Cityscapes, specs.CIFAR10Spec: CIFAR10,
    specs.ScarceSpec: LabelScarce, specs.MasksSpec: Masks}
"""Data sets that are opened by their folder and their section alone."""
PUBLISHED = {"pf-willow": 100, "pf-pascal": 1_300, "spair": 1_800, "horse-21": 60, "bedroom-28": 60,
             "ffhq-34": 40, "cat-15": 50, "celeba-19": 520, "ade20k": 22_210, "cityscapes": 3_475,
             "cifar-10": 60_000}
"""About how many images data sets have as published, for plans before they are here."""


def open_dataset(spec: specs.DatasetSpec, roots: Roots) -> ImageDataset:
    """Return the data set a manifest names; listing its samples is what touches the disk."""
    if isinstance(spec, specs.ToyWorldSpec):
        return ToyWorld({"train": spec.train, "val": spec.val, "test": spec.test},
                        spec.image_size, spec.style, spec.masks, spec.partners)
    named = spec.folder if isinstance(spec, specs.ScarceSpec) else spec.root
    root = roots.below("data", named, "dataset.root")
    for field in ("points", "pairs", "images", "masks", "files"):  # refused if they leave the root
        paths = getattr(spec, field, None) or []
        for path in [paths] if isinstance(paths, str) else paths:
            roots.below("data", path, f"dataset.{field}")
    match spec:
        case specs.PairsSpec():
            return Pairs(root, spec.points, spec.pairs, SplitRule.of(spec),
                         None if roots.outside else (roots.data,))
        case specs.FolderSpec():
            return ImageFolder(root, SplitRule.of(spec), spec.files, spec.labels)
        case specs.InstalledSpec():
            return cast(ImageDataset, spec.open(root))
        case _:
            return _BY_SECTION[type(spec)](root, spec)
