"""From a manifest's ``dataset`` section to a data set object. Opening reads no file."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import ImageDataset
from gate_cache.manifest import dataset_specs as specs

KeypointSpec = specs.PFWillowSpec | specs.PFPascalSpec | specs.SPairSpec | specs.PairsSpec
SceneSpec = specs.ADE20KSpec | specs.CityscapesSpec
OwnSpec = specs.FolderSpec | specs.MasksSpec


def open_dataset(spec: specs.DatasetSpec, roots: Roots) -> ImageDataset:
    """Return the data set a manifest names; listing its samples is what touches the disk."""
    if isinstance(spec, specs.ToyWorldSpec):
        return _toyworld(spec)
    named = spec.folder if isinstance(spec, specs.ScarceSpec) else spec.root
    root = roots.below("data", named, "dataset.root")
    for field in ("points", "pairs", "images", "masks", "files"):
        paths = getattr(spec, field, None) or []
        for path in [paths] if isinstance(paths, str) else paths:
            roots.below("data", path, f"dataset.{field}")
    if isinstance(spec, specs.InstalledSpec):
        return cast(ImageDataset, spec.open(root))
    if isinstance(spec, KeypointSpec):
        return _keypoints(spec, root, None if roots.outside else (roots.data,))
    if isinstance(spec, SceneSpec):
        return _scenes(spec, root)
    if isinstance(spec, OwnSpec):
        return _own(spec, root)
    return _scarce(spec, root) if isinstance(spec, specs.ScarceSpec) else _cifar(spec, root)


def _toyworld(spec: specs.ToyWorldSpec) -> ImageDataset:
    from gate_cache.datasets.toy import ToyWorld

    return ToyWorld({"train": spec.train, "val": spec.val, "test": spec.test}, spec.image_size,
                    spec.style, spec.masks)


def _keypoints(spec: KeypointSpec, root: Path,
               links: tuple[Path, ...] | None) -> ImageDataset:
    if isinstance(spec, specs.PFWillowSpec):
        from gate_cache.datasets.pf_willow import PFWillow

        return PFWillow(root, spec.val, spec.test, spec.split_seed)
    if isinstance(spec, specs.PFPascalSpec):
        from gate_cache.datasets.pf_pascal import PFPascal

        return PFPascal(root)
    if isinstance(spec, specs.SPairSpec):
        from gate_cache.datasets.spair import SPair

        return SPair(root, spec.layout)
    from gate_cache.datasets.pairs import Pairs

    return Pairs(root, spec.points, spec.pairs, spec.shares, spec.split_seed, spec.split_folders,
                 links)


def _scenes(spec: SceneSpec, root: Path) -> ImageDataset:
    if isinstance(spec, specs.ADE20KSpec):
        from gate_cache.datasets.ade20k import ADE20K

        return ADE20K(root, spec.val, spec.split_seed)
    from gate_cache.datasets.cityscapes import Cityscapes

    return Cityscapes(root, spec.val, spec.split_seed)


def _own(spec: OwnSpec, root: Path) -> ImageDataset:
    if isinstance(spec, specs.FolderSpec):
        from gate_cache.datasets.folder import ImageFolder

        return ImageFolder(root, spec.shares, spec.split_seed, spec.split_folders, spec.files,
                           spec.labels)
    from gate_cache.datasets.common.label_values import Values
    from gate_cache.datasets.masks import Masks

    return Masks(root, (spec.images, spec.masks), spec.classes, Values(spec.values, spec.ignore),
                 spec.shares, spec.split_seed, spec.split_folders)


def _scarce(spec: specs.ScarceSpec, root: Path) -> ImageDataset:
    from gate_cache.datasets.label_scarce import LabelScarce

    return LabelScarce(spec.name, root, spec.fold, spec.val, spec.split_seed)


def _cifar(spec: specs.CIFAR10Spec, root: Path) -> ImageDataset:
    from gate_cache.datasets.cifar import CIFAR10

    return CIFAR10(root, spec.val, spec.split_seed)
