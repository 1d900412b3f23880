"""`extract`, `match` and `train` for Python: no manifest needs to be written first.

`extract` writes the manifest itself, beside the store, so that the command line and the other two
verbs can take over: ``gate-cache view photos.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import UserError
from gate_cache.core.places import Url, parse_place
from gate_cache.core.progress import Progress, Silent
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import PHOTOS
from gate_cache.workspace.data_root import recall
from gate_cache.workspace.own_images import Features, Images, workspace_for
from gate_cache.workspace.workspace import Workspace

if TYPE_CHECKING:
    import numpy.typing as npt

    from gate_cache.analysis.match import Matches
    from gate_cache.store.reader import FeatureStore
    from gate_cache.training.train import TrainedRun

PLAIN = {"plain": "a photo"}
SHARES = {"val": 0.1, "test": 0.3}
"""Of images with labels, where a training is to hold some out."""


def extract(images: Images | Workspace, *,
            model: str | Mapping[str, Any] = PHOTOS,
            combos: Mapping[str, str | Mapping[str, Any]] | None = None,
            to: str | Path = "features.zarr", device: str | None = None,
            quiet: bool = False) -> FeatureStore:
    """Run a diffusion model over images once, and keep its feature maps in a store.

    What the store holds already is not computed again. The manifest of what was asked for is
    written beside the store, with the suffix ``.yaml``.

    Parameters
    ----------
    images : a folder (with all images below it), or files; or a `Workspace`, whose manifest then
        says all that follows
    model : a hub id, a folder, a file, or an embedded family (``tiny-photos``; ``tiny`` for
        drawings); or the fields of a manifest's ``model``
    combos : by name, a prompt, or the fields of a manifest's ``conv``; by default one, ``plain``,
        with the prompt *a photo*
    to : the store's folder
    device : ``cpu``, ``cuda``, ``cuda:1`` …; by default a GPU where there is one
    quiet : show no progress

    Returns
    -------
    The store, opened for reading: ``store["plain"]["up2"]["cat.jpg"]`` is an array (C, h, w).

    Raises
    ------
    UserError
        Something is missing, damaged or invalid (`ManifestError`); what was done is kept.

    Examples
    --------
    >>> store = gate_cache.extract("photos", to="photos.zarr")  # doctest: +SKIP
    """
    from gate_cache.extraction.extract import extract as stage

    work = images if isinstance(images, Workspace) else \
        workspace_for(images, Features(model, combos or PLAIN), Path(to), device, _progress(quiet))
    stage(work)
    return work.store()


def match(store: FeatureStore | Workspace | str | Path, source: str, target: str,
          xy: npt.ArrayLike | None = None, combo: str | None = None) -> Matches:
    """Find points of one image in another, by the cosine of their features (METHOD: `nn`).

    Parameters
    ----------
    store : that `extract` returned or wrote; or a `Workspace`
    source, target : ids of images, or parts of them
    xy : (2,) or (K, 2), x and y in the source's pixels; by default key points that are known,
        else a grid
    combo : whose features describe points; by default the manifest's baseline, else the first

    Returns
    -------
    Matches with ``found``, (K, 2) x and y in the target's pixels, and their ``similarity``.

    Raises
    ------
    UserError
        No such image or combo, or a point lies outside the image.
    """
    from gate_cache.analysis.describe import of_combo
    from gate_cache.analysis.match import match_images

    work = workspace_of(store)
    return match_images(work, of_combo(work, combo), (source, target), at=xy)


def train(store: FeatureStore | Workspace | str | Path,
          labels: Mapping[str, str] | None = None, head: str | None = None, *,
          run: Path | None = None, **settings: Any) -> TrainedRun:
    """Train a head on a store, evaluate it on images that it has not seen, and write a report.

    Parameters
    ----------
    store : that `extract` returned or wrote; or a `Workspace`
    labels : class of each image, by id; without, classes are folders
    head : by default ``classifier``, or that of the workspace's manifest
    run : the run directory to make; by default a new one below ``runs``
    **settings : other fields of a manifest's ``train``, such as ``steps`` and ``seed``

    Returns
    -------
    The run's folder, with its ``report.html``, and its tables.

    Raises
    ------
    UserError
        The store or the labels lack what the head needs.
    """
    from gate_cache.report.html.write import try_report
    from gate_cache.training.train import train as stage

    given = {**({"head": head} if head else {}), **settings}
    if isinstance(store, Workspace):
        work = Workspace.open(store.loaded.path, store.roots, store.device, store.progress, given) \
            if given else store
    else:
        work = workspace_of(store, {"head": "classifier", **given})
    if labels is not None:
        work = _labelled(work, labels)
    trained = stage(work, run)
    try_report(trained.run, work.roots, work.progress)
    return trained


def workspace_of(store: FeatureStore | Workspace | str | Path,
                 train: dict[str, Any] | None = None) -> Workspace:
    """The manifest that lies beside a store of `extract`, on this machine.

    Parameters
    ----------
    store : opened, or its folder; a workspace is returned as it is
    train : settings that replace those of the manifest's ``train``, by name

    Raises
    ------
    UserError
        There is no such manifest.
    """
    if isinstance(store, Workspace):
        return store
    path = parse_place(store if isinstance(store, str | Path) else store.path)
    if isinstance(path, Url) or not path.with_suffix(".yaml").is_file():
        raise UserError(f"{path}: has no manifest of gate_cache.extract beside it; open one with"
                        " gate_cache.Workspace.open(\"x.yaml\") and give that")
    roots = Roots.resolve(stores=path.parent, data=recall(path))
    return Workspace.open(path.with_suffix(".yaml"), roots, progress=_progress(False), train=train)


def _labelled(work: Workspace, labels: Mapping[str, str]) -> Workspace:
    """The same images with classes by label, some of them held out."""
    spec = work.manifest.dataset
    if spec.name != "folder":
        raise UserError(f"labels: '{spec.name}' has labels of its own; leave them out")
    shares = {} if spec.model_fields_set & SHARES.keys() else SHARES  # what it says already counts
    data = {**spec.model_dump(exclude_unset=True), **shares, "labels": dict(labels)}
    return work.with_manifest(dataset=type(spec).model_validate(data))


def _progress(quiet: bool) -> Progress:
    from gate_cache.report.terminal.console import console_progress

    return Silent() if quiet else console_progress()
