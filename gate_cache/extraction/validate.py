"""``validate``: is the manifest sound, and is what it names on this machine? No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gate_cache.core.errors import ManifestError, NotThere, UserError
from gate_cache.core.progress import Progress, Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import ModelFiles, assumed, locate
from gate_cache.diffusion.passes.recipes import check_fit, combo_maps, input_problems
from gate_cache.extraction.plan import about_tokens
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.workspace.data_summary import before_extraction, check_data


@dataclass(frozen=True)
class Validated:
    """A sound manifest.

    Attributes
    ----------
    absent : what it names that is not on this machine, a line each
    data : what its data set holds, where it is there
    """

    manifest: str
    combos: int
    absent: list[str]
    data: list[str]


class NotReady(ManifestError):
    """A manifest that cannot run.

    Parameters
    ----------
    problems : why, a line each
    absent : what it names that is not on this machine, beside that
    """

    def __init__(self, problems: list[str], absent: list[str]) -> None:
        super().__init__(problems)
        self.absent = absent


def validate(loaded: Loaded, roots: Roots, show: Progress | None = None) -> Validated:
    """Check a loaded manifest against the model's layout, and look for its files.

    No model is loaded; its parts and what techniques put beside it are compared by their
    configurations and the headers of their files. Of its data set all labels and points are read,
    once.

    Raises
    ------
    NotReady
        With a line for everything that keeps it from running.
    """
    manifest = loaded.manifest
    absent, wrong = input_problems(manifest, roots)
    files, told = None, list[str]()
    dataset = open_dataset(manifest.dataset, roots)
    try:
        dataset.samples()
    except UserError as error:
        there = Path(getattr(dataset, "root", "")).is_dir()
        (wrong if there else absent).insert(0, str(error))
    else:
        told = before_extraction(check_data(dataset, loaded, show or Silent()), loaded)
    try:
        files = locate(manifest.model, roots)
        absent += files.notes if files else [f"{manifest.model.source}: not on this machine yet"]
    except NotThere as error:
        absent.append(str(error))
    except UserError as error:
        wrong.append(str(error))
    for check in (check_fit, _maps):
        try:
            check(manifest, files or assumed(manifest.model), roots)
        except UserError as error:
            wrong += str(error).splitlines()
    if wrong:
        raise NotReady(list(dict.fromkeys(wrong)), absent)
    return Validated(loaded.path.name, len(manifest.combos), absent, told)


def _maps(manifest: Manifest, files: ModelFiles, _roots: Roots) -> None:
    combo_maps(manifest, files, files.size(manifest.model.size), about_tokens)
