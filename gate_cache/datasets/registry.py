"""From a manifest's ``dataset`` section to a data set object. Opening reads no file."""

from __future__ import annotations

from gate_cache.datasets.base import ImageDataset
from gate_cache.roots import Roots
from gate_cache.specs import DatasetSpec, FolderSpec, PFWillowSpec


def open_dataset(spec: DatasetSpec, roots: Roots) -> ImageDataset:
    """Return the data set a manifest names; listing its samples is what touches the disk."""
    if isinstance(spec, PFWillowSpec):
        from gate_cache.datasets.pf_willow import PFWillow

        root = roots.below("data", spec.root, "dataset.root")
        return PFWillow(root, spec.val, spec.test, spec.split_seed)
    if isinstance(spec, FolderSpec):
        from gate_cache.datasets.folder import Folder

        return Folder(roots.below("data", spec.root, "dataset.root"))
    from gate_cache.datasets.toy import ToyWorld

    return ToyWorld({"train": spec.train, "val": spec.val, "test": spec.test}, spec.image_size,
                    spec.style)
