"""What a manifest means on this machine: store, data set and model files, and what computes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError, UserError
from gate_cache.core.fingerprint import Recipe
from gate_cache.core.places import Place, is_manifest
from gate_cache.core.progress import Progress, Silent
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import PlannedCombo, missing_inputs, plan_combos
from gate_cache.manifest.load import Loaded, load
from gate_cache.workspace.data_root import dataset_near

if TYPE_CHECKING:
    import torch

    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.manifest.specs import Manifest
    from gate_cache.store.reader import FeatureStore


@dataclass(frozen=True)
class Workspace:
    """A manifest on this machine: the first argument of every step of the work.

    Parameters
    ----------
    loaded : the manifest, and the file it came from
    roots : the folders below which its paths are looked up
    device : ``cpu``, ``cuda``, ``cuda:1`` …; by default a GPU where there is one
    progress : shows long work and notes; by default nothing is shown
    """

    loaded: Loaded
    roots: Roots = field(default_factory=Roots.resolve)
    device: str | None = None
    progress: Progress = field(default_factory=Silent)

    @classmethod
    def open(cls, path: str | Path, roots: Roots | None = None, device: str | None = None,
             progress: Progress | None = None, train: dict[str, Any] | None = None) -> Workspace:
        """Read a manifest.

        Parameters
        ----------
        path : of the YAML file
        roots : by default as the environment says, else the folders here
        device, progress : as of the class
        train : settings that replace those of the file's ``train``, by name

        Raises
        ------
        ManifestError
            With every problem found, one line each.
        """
        return cls(load(Path(path), train), roots or Roots.resolve(), device, progress or Silent())

    @property
    def manifest(self) -> Manifest:
        """What the file says."""
        return self.loaded.manifest

    @property
    def name(self) -> str:
        """Of the file, to begin messages with."""
        return self.loaded.path.name

    def with_manifest(self, **sections: Any) -> Workspace:
        """The same with other sections of the manifest, such as ``train``; they are not checked."""
        return self._of(self.manifest.model_copy(update=sections))

    def by_model(self) -> dict[str, Workspace]:
        """Each model of the manifest alone with its combos; see `Manifest.by_model`."""
        return {name: self._of(manifest) for name, manifest in self.manifest.by_model().items()}

    def _of(self, manifest: Manifest) -> Workspace:
        return replace(self, loaded=self.loaded.model_copy(update={"manifest": manifest}))

    @property
    def store_path(self) -> Place:
        """Where the store is, or is to be.

        Raises
        ------
        UserError
            It leaves the stores root and that was not allowed.
        """
        return self.roots.store(self.loaded.store_path, "store.path")

    def store(self) -> FeatureStore:
        """The store, to be read.

        Raises
        ------
        StoreError
            There is none, or it cannot be read.
        """
        from gate_cache.store.reader import FeatureStore

        return FeatureStore.open(self.store_path)

    def dataset(self) -> ImageDataset:
        """The data set; a note is shown where it is elsewhere than below the data root.

        Raises
        ------
        DataError
            It is neither there nor where `extract` found it.
        """
        dataset, notes = dataset_near(self.store_path, self.manifest.dataset, self.roots)
        for note in notes:
            self.progress.say(f"note: {note}")
        return dataset

    def model(self) -> ModelFiles:
        """The only model with its ControlNets and LoRAs, all on this machine or fetched.

        Raises
        ------
        ModelError
            With a line for everything that is missing.
        """
        files, problems = self._located(download=True)
        if problems or files is None:
            raise ModelError("\n".join(problems))
        return files

    def _located(self, download: bool) -> tuple[ModelFiles | None, list[str]]:
        """The only model, where it is here or fetched; and why it, or its inputs, are not."""
        problems = missing_inputs(self.manifest, self.roots, download)
        try:
            # nothing is fetched for a run that cannot start: models are gigabytes
            return locate(self.manifest.model, self.roots, download and not problems), problems
        except UserError as error:
            if not download and not isinstance(error, ModelError):
                raise  # a path that leaves its root, whatever is here
            return None, [str(error), *problems]

    def plans(self, files: ModelFiles) -> list[PlannedCombo]:
        """What computes each combo, with its recipe, by this model."""
        return plan_combos(self.manifest, files, self.roots)

    def recipes(self) -> tuple[dict[str, Recipe], list[str]]:
        """Recipes of all combos where all weights are on this machine; nothing is fetched.

        Returns
        -------
        The recipes by combo (none where its model's weights are missing), and why there are none,
        a line each.
        """
        recipes, notes = dict[str, Recipe](), list[str]()
        for name, work in self.by_model().items():
            files, lacking = work._located(download=False)
            if files and not lacking:
                recipes |= {plan.name: plan.recipe for plan in work.plans(files)}
            else:
                notes += [*lacking, f"weights{f' of {name}' * bool(name)} are not all on this"
                          " machine: compared by settings only"]
        return {name: recipes[name] for name in self.manifest.combos if name in recipes}, notes

    def torch_device(self) -> torch.device:
        """What computes.

        Raises
        ------
        UserError
            There is no such device here.
        """
        from gate_cache.workspace.device import choose_device

        return choose_device(self.device)


def store_at(target: Place, roots: Roots) -> Place:
    """The store that a command's argument means: itself, or that of a manifest."""
    return Workspace.open(target, roots).store_path if is_manifest(target) else target
