"""``validate``: is the manifest sound, and is what it names on this machine? No torch."""

from __future__ import annotations

from dataclasses import dataclass

from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.pictures import passed_over_notes
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import assumed, locate
from gate_cache.diffusion.passes.recipes import combo_maps, missing_inputs
from gate_cache.extraction.plan import about_tokens
from gate_cache.manifest.load import Loaded


@dataclass(frozen=True)
class Validated:
    """A sound manifest.

    Attributes
    ----------
    absent : what it names that is not on this machine, a line each
    notes : what else to know, a line each
    """

    manifest: str
    combos: int
    absent: list[str]
    notes: list[str]


def validate(loaded: Loaded, roots: Roots) -> Validated:
    """Check a loaded manifest against the model's layout, and look for its files.

    Raises
    ------
    UserError
        A field does not fit the model.
    """
    manifest = loaded.manifest
    absent: list[str] = []
    notes: list[str] = []
    try:
        dataset = open_dataset(manifest.dataset, roots)
        dataset.samples()
        notes = passed_over_notes(dataset)
    except UserError as error:
        absent.append(str(error))
    try:
        files = locate(manifest.model, roots)
    except UserError as error:
        absent.append(str(error))
        files = None
    else:
        absent += files.notes if files else [f"{manifest.model.source}: not on this machine yet"]
    layout = (files or assumed(manifest.model)).family
    size = layout.check_size(manifest.model.size or layout.default_size, "model.size")
    combo_maps(manifest, layout, size, about_tokens)
    absent += missing_inputs(manifest, roots)
    return Validated(loaded.path.name, len(manifest.combos), absent, notes)
