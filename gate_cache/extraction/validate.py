"""``validate``: is the manifest sound, and is what it names on this machine? No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gate_cache.core.errors import UserError
from gate_cache.core.progress import Progress, Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import assumed, locate
from gate_cache.diffusion.passes.recipes import combo_maps, missing_inputs
from gate_cache.diffusion.techniques.lora import lora_problems
from gate_cache.extraction.plan import about_tokens
from gate_cache.manifest.load import Loaded
from gate_cache.workspace.data_summary import check_data, short


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


def validate(loaded: Loaded, roots: Roots, show: Progress | None = None) -> Validated:
    """Check a loaded manifest against the model's layout, and look for its files.

    Of its data set all labels and points are read, once.

    Raises
    ------
    UserError
        A field does not fit the model, or the data set has faults.
    """
    manifest = loaded.manifest
    absent: list[str] = []
    told: list[str] = []
    dataset = open_dataset(manifest.dataset, roots)
    try:
        dataset.samples()
    except UserError as error:
        if Path(getattr(dataset, "root", "")).is_dir():
            raise  # it is there, and something is wrong with it
        absent.append(str(error))
    else:
        told = short(check_data(dataset, loaded, show or Silent()))
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
    absent += lora_problems(manifest, files, roots)
    return Validated(loaded.path.name, len(manifest.combos), absent, told)
