"""``validate``: is the manifest sound, and is what it names on this machine? No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import ManifestError, NotThere, UserError, counted, listed
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.datasets.common.captions import read_captions
from gate_cache.datasets.common.files import ImageFiles, by_stem, stem_of
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.files.locate import assumed, locate
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import check_fit, combo_maps, input_problems
from gate_cache.extraction.footprint import need_codec
from gate_cache.manifest.notes import improbable
from gate_cache.workspace.data_summary import before_extraction, check_data

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.manifest.specs import Manifest
    from gate_cache.workspace.workspace import Workspace


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


def validate(work: Workspace) -> Validated:
    """Check a loaded manifest against the model's layout, and look for its files.

    No model is loaded; its parts and what techniques put beside it are compared by their
    configurations and the headers of their files. Of its data set all labels and points are read,
    once.

    Raises
    ------
    NotReady
        With a line for everything that keeps it from running.
    """
    manifest, roots = work.manifest, work.roots
    absent, wrong = input_problems(manifest, roots)
    remarks = list[str]()
    dataset = open_dataset(manifest.dataset, roots)
    try:
        roots.store(work.loaded.store_path, "store.path")
        need_codec(manifest)
    except UserError as error:
        wrong.append(str(error))
    try:
        ids = [s.id for s in dataset.samples()]
    except UserError as error:
        there = Path(getattr(dataset, "root", "")).is_dir()
        (wrong if there else absent).insert(0, str(error))
    else:
        remarks = before_extraction(work, check_data(work, dataset))
        if not absent and not wrong:
            try:
                wrong, notes = sample_problems(manifest, roots, ids)
            except UserError as error:
                wrong, notes = [str(error)], []
            remarks += [f"note: {n}" for n in notes]
    for part in manifest.by_model().values():
        lacking, unfit = _model_problems(part, roots)
        absent, wrong = [*absent, *lacking], [*wrong, *unfit]
    if wrong:
        raise NotReady(list(dict.fromkeys(wrong)), absent)
    remarks += [f"note: {line}" for line in improbable(manifest)]
    return Validated(work.name, len(manifest.combos), absent, remarks)


def _model_problems(manifest: Manifest, roots: Roots) -> tuple[list[str], list[str]]:
    """What of one model is not here, or was passed over; and what cannot be used."""
    files, absent, wrong = None, list[str](), list[str]()
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
    return absent, wrong


def sample_problems(manifest: Manifest, roots: Roots,
                    ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images without a control image or a caption that a combo wants, a line each; and notes.

    Raises
    ------
    DataError
        A file or folder is not there, or cannot be read.
    """
    wrong, notes = list[str](), list[str]()
    nets = (combo.controlnet for combo in manifest.combos.values())
    for folder in dict.fromkeys(n.images for n in nets if n and n.images):
        root = roots.below("data", folder, "controlnet.images")
        there = by_stem(root)
        wrong += _lacking([i for i in ids if stem_of(i) not in there], f"{root}: no control image"
                          " for ", "; put one there, with the same name and any image suffix")
    if manifest.captions and any(c.captioned for c in manifest.combos.values()):
        captions = read_captions(roots.below("data", manifest.captions, "captions"))
        wrong += _lacking([i for i in ids if i not in captions], f"{captions.path}: ",
                          " has no caption; run 'gate-cache caption'")
        if blank := [i for i in ids if i in captions and not captions[i].strip()]:
            notes.append(f"{captions.path}: empty: {counted(len(blank), 'caption')}"
                         f" ({listed(blank, 3)})")
        strange = sorted(captions.keys() - set(ids))
        notes += [f"{captions.path}: {counted(len(strange), 'caption is', 'captions are')} of no"
                  f" image ({listed(strange, 3)})"] if strange else []
    return wrong, notes


def _lacking(ids: Sequence[str], before: str, after: str) -> list[str]:
    more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
    return [f"{before}'{ids[0]}'{more}{after}"] if ids else []


def _maps(manifest: Manifest, files: ModelFiles, _roots: Roots) -> None:
    combo_maps(manifest, files, files.kind.about_tokens)


def notes_on_files(dataset: ImageDataset, manifest: Manifest) -> list[str]:
    """What to know of a data set's files before they are read."""
    if isinstance(dataset, ImageFiles) and any(
            Preprocessing.of(m).background is None for m in manifest.every_model.values()):
        return ["'resample: opencv' without a 'background' drops alpha, as the first release did:"
                " transparent pictures show what lies under it"]
    return []
