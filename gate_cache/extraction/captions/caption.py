"""``caption``: a sentence for every image of a data set, by an automatic captioner (paper, A.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.preprocessing import Preprocessing
from gate_cache.datasets.common.captions import (
    Caption,
    Captions,
    append_captions,
    read_captions,
    write_captions,
)
from gate_cache.datasets.common.model_input import image_on
from gate_cache.store.places.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.datasets.common.images import Pixels
    from gate_cache.extraction.captions.captioner import Captioner
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class Captioned:
    """What a captioning did.

    Attributes
    ----------
    path : the captions file
    images : of the data set
    new : of them, captioned by this run
    """

    path: Path
    images: int
    new: int


def captions_path(work: Workspace, given: str | None, place: str) -> Path:
    """The captions file, below the data root: as given, as the manifest says, or by its name."""
    if not given and work.manifest.captions:
        given, place = work.manifest.captions, "captions"
    return work.roots.below("data", given or f"captions/{work.loaded.path.stem}.jsonl", place)


def caption(work: Workspace, *, model: str, revision: str | None = None,
            out: str | None = None, batch: int = 8) -> Captioned:
    """Caption all images that have no caption yet, or have changed since.

    Parameters
    ----------
    work : the manifest on this machine
    model : the captioner: a folder below the models root, or a hub id
    revision : of a hub id
    out : the captions file, below the data root; by default the manifest's ``captions``, else
        ``captions/<manifest>.jsonl``
    batch : images a pass

    Raises
    ------
    UserError
        Data set, captioner or a place on disk is missing; the captions so far are kept.
    """
    show = work.progress
    path = captions_path(work, out, "--out")
    dataset = work.dataset()
    digests = _digests(dataset, show)
    with disk_errors(path, "--out", "and run the same command again; the captions so far are kept"):
        known = _begun(path, digests)
        todo = [i for i in digests if i not in known]
        if todo:
            spec = next(iter(work.manifest.every_model.values()))
            read = partial(image_on, dataset, background=Preprocessing.of(spec).background)
            with _opened(work, model, revision) as captioner:
                _caption_all(captioner, read, digests, todo, path, batch, show)
            _in_order(path, digests)
    return Captioned(path, len(digests), len(todo))


def _digests(dataset: ImageDataset, show: Progress) -> dict[str, str]:
    """sha256 of every image, in the data set's order."""
    ids, digests = [s.id for s in dataset.samples()], {}
    with show.task("reading the data set", len(ids), "images") as task:
        for sample_id in ids:
            digests[sample_id] = dataset.sha256(sample_id)
            task.advance()
    return digests


def _begun(path: Path, digests: Mapping[str, str]) -> Captions:
    """What is captioned already; captions of changed images and a torn line leave the file."""
    if not path.exists():
        return Captions(path, [])
    valid = [line for line in _lines(read_captions(path))
             if digests.get(line.id, line.sha256) == line.sha256]  # or of an image not in this set
    write_captions(path, valid)  # first: what is appended behind a torn line would be torn, too
    return Captions(path, valid)


def _lines(captions: Captions) -> list[Caption]:
    return [Caption(i, captions.sha256[i], text) for i, text in captions.items()]


@contextmanager
def _opened(work: Workspace, model: str, revision: str | None) -> Iterator[Captioner]:
    """The captioner, on its device."""
    from gate_cache.extraction.captions.captioner import find_captioner, open_captioner
    from gate_cache.workspace.device import out_of_memory

    place = work.torch_device()
    work.progress.say(f"loading {model}")
    folder = find_captioner(model, revision, work.roots)
    with out_of_memory("a smaller --batch"):
        yield open_captioner(model, folder, place)


def _caption_all(captioner: Captioner, read: Callable[[str], Pixels], digests: Mapping[str, str],
                 todo: Sequence[str], path: Path, batch: int, show: Progress) -> None:
    """Caption batch by batch; each is in the file before the next begins."""
    with show.task("captioning", len(todo), "images") as task:
        for start in range(0, len(todo), batch):
            ids = todo[start : start + batch]
            texts = captioner.captions([read(i) for i in ids])
            append_captions(path, [Caption(i, digests[i], t)
                                   for i, t in zip(ids, texts, strict=True)])
            task.advance(len(ids))


def _in_order(path: Path, digests: Mapping[str, str]) -> None:
    """Put the file into the data set's order, what it has of other images last."""
    place = {sample_id: i for i, sample_id in enumerate(digests)}
    lines = _lines(read_captions(path))
    write_captions(path, sorted(lines, key=lambda line: place.get(line.id, len(place))))
