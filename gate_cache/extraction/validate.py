"""``validate``: is the manifest sound, and is what it names on this machine? No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gate_cache.core.errors import ManifestError, NotThere, UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import ModelFiles, assumed, locate
from gate_cache.diffusion.passes.recipes import check_fit, combo_maps, input_problems
from gate_cache.extraction.plan import about_tokens
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest


@dataclass(frozen=True)
class Validated:
    """A sound manifest.

    Attributes
    ----------
    absent : what it names that is not on this machine, a line each
    """

    manifest: str
    combos: int
    absent: list[str]


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


def validate(loaded: Loaded, roots: Roots) -> Validated:
    """Check a loaded manifest against the model's layout, and look for its files.

    Nothing is loaded; the model's parts and what techniques put beside it are compared by their
    configurations and the headers of their files.

    Raises
    ------
    NotReady
        With a line for everything that keeps it from running.
    """
    manifest = loaded.manifest
    absent, wrong = input_problems(manifest, roots)
    files = None
    try:
        open_dataset(manifest.dataset, roots).samples()
    except UserError as error:
        (absent if _no_data(manifest, roots) else wrong).insert(0, str(error))
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
    return Validated(loaded.path.name, len(manifest.combos), absent)


def _no_data(manifest: Manifest, roots: Roots) -> bool:
    """Whether the data set's folder is missing, rather than wrong."""
    root = getattr(manifest.dataset, "root", None)
    return bool(root) and not (roots.data / str(root)).exists()


def _maps(manifest: Manifest, files: ModelFiles, _roots: Roots) -> None:
    combo_maps(manifest, files, files.size(manifest.model.size), about_tokens)
