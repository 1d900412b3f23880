"""``data``: what a manifest's data set holds, before anything is paid; and its short form."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import DataError, UserError, listed
from gate_cache.core.fingerprint import fingerprint
from gate_cache.datasets.common.files import ImageFiles
from gate_cache.datasets.common.pictures import passed_over_line
from gate_cache.datasets.summary.summary import Summary, labelled_pixels
from gate_cache.datasets.summary.survey import summarise
from gate_cache.diffusion.files.digest_cache import cache_folder
from gate_cache.manifest.heads import TASKS, head_of

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.workspace.workspace import Workspace

VERSION = 4
"""Of what is read and told: another one reads anew."""


def data(work: Workspace) -> Summary:
    """Read all of a manifest's data set.

    Raises
    ------
    DataError
        It is not there, or cannot be listed.
    """
    return remembered(work, work.dataset())


def check_data(work: Workspace, dataset: ImageDataset) -> Summary:
    """Read a data set; those without files are not drawn for it.

    Raises
    ------
    DataError
        With a line for every kind of fault.
    """
    found = remembered(work, dataset) if hasattr(dataset, "sources") else \
        summarise(dataset, work.progress, read=False)
    if found.faults:
        raise DataError("\n".join(found.faults))
    return found


def tell_data(work: Workspace, dataset: ImageDataset) -> Summary:
    """As `check_data`, and say the short form."""
    found = check_data(work, dataset)
    for line in short(found):
        work.progress.say(line)
    return found


def short(found: Summary) -> list[str]:
    """A line of counts, and the notes."""
    parts = [", ".join(f"{n} {split}" for split, n in found.images.items())]
    if found.classes:
        parts.append(counted(len(found.classes), "class", "classes"))
    pixels, ignored = labelled_pixels(found)
    if pixels + ignored:
        parts.append(f"{100 * pixels / (pixels + ignored):.1f} % of pixels labelled")
    if found.pairs:
        parts += [counted(len(found.categories), "category", "categories"),
                  f"{sum(found.pairs.values())} pairs"]
    if found.passed_over:
        parts.append(passed_over_line(found.passed_over))
    odd = [*found.notes, *(found.unclassed if found.classes else ())]
    return [f"data: {counted(sum(found.images.values()), 'image', 'images')} ({parts[0]})"
            f"{''.join(f'; {p}' for p in parts[1:])}", *(f"note: {n}" for n in odd)]


def counted(number: int, one: str, several: str) -> str:
    """``1 class``, ``2 classes``."""
    return f"{number} {one if number == 1 else several}"


def need_trainable(work: Workspace, found: Summary, task: str) -> None:
    """Refuse to train where there is nothing to learn or to judge.

    Raises
    ------
    UserError
        One line that says why.
    """
    problem = _untrainable(found, task)
    if problem:
        raise UserError(f"{work.name}: dataset: {problem}")


def before_extraction(work: Workspace, found: Summary) -> list[str]:
    """As `short`; and where the manifest says how to train, what will keep it from that."""
    train = work.manifest.train
    said = "head" in train.model_fields_set
    problem = _untrainable(found, head_of(train.head.name).task) if said else None
    return [*short(found), *([f"note: train will refuse this: {problem}"] if problem else [])]


def _untrainable(found: Summary, task: str) -> str | None:
    if not found.read:
        return None
    has, check = {"correspondence": (found.pairs, _pairs), "classification": (
        found.classes or found.unclassed, _classes)}.get(task, (found.pixels, _pixels))
    return check(found) if has else f"data set '{found.name}' has no {TASKS[task].needs}"


def _pairs(found: Summary) -> str | None:
    for split in ("train", "test"):
        if not found.pairs.get(split):
            return f"split '{split}' has no pairs of images of one category; enlarge it"
        if not found.shared.get(split):
            return (f"split '{split}' has {found.pairs[split]} pairs of images, and no two have a"
                    " point of one name that is visible in both")
    return None


def _classes(found: Summary) -> str | None:
    if found.unclassed:
        return "; ".join(found.unclassed)
    return _two_classes(found)


def _pixels(found: Summary) -> str | None:
    for split in ("train", "test"):
        if found.images.get(split) and not sum(c[split] for c in found.pixels.values()):
            return (f"none of the {found.images[split]} images of split '{split}' has a pixel of a"
                    " class: all are ignored")
    return _two_classes(found)


def _two_classes(found: Summary) -> str | None:
    shown = [name for name, counts in found.classes.items() if counts.get("train")]
    if len(shown) > 1 or not found.images.get("train"):
        return None
    return (f"split 'train' shows the class {listed(map(repr, shown))} alone, and there is nothing"
            " to tell apart: give it images of at least two")


def remembered(work: Workspace, dataset: ImageDataset) -> Summary:
    """A summary, read anew where a file has changed since it was read last."""
    path = _file(work, dataset)
    known = _load(path) if path else None
    if known is None:
        known = summarise(dataset, work.progress)
        if path:
            _keep(path, known)
    return known


def _file(work: Workspace, dataset: ImageDataset) -> Path | None:
    """Where it is remembered: by the manifest's section and all files' sizes and times."""
    sources = getattr(dataset, "sources", None)
    if sources is None:
        return None
    told: dict[str, Any] = {
        "version": VERSION, "dataset": work.manifest.dataset.model_dump(mode="json")}
    try:
        told["files"] = _files(dataset)
        told["tables"] = {str(p): _stamp(p) for p in getattr(dataset, "tables", ()) if p}
        if not getattr(dataset, "named_splits", False):
            told["splits"] = [dataset.split_of(s.id) for s in dataset.samples()] \
                if hasattr(dataset, "split_of") else []
        told["classes"] = list(getattr(dataset, "classes", ()))
        told["other"] = dataset.passed_over() if hasattr(dataset, "passed_over") else {}
        return cache_folder() / "data" / f"{fingerprint(told)}.json"
    except (OSError, DataError):
        return None


def _files(dataset: Any) -> str:
    """A digest of all samples, and of the sizes and times of all their files."""
    ids = [s.id for s in dataset.samples()]
    found = hashlib.sha256("\n".join(ids).encode())
    if isinstance(dataset, ImageFiles) and type(dataset).sources is ImageFiles.sources:
        found.update(f"{dataset.root}".encode() + dataset.stamps().tobytes())
        return found.hexdigest()
    for path in dict.fromkeys(p for i in ids for p in dataset.sources(i)):
        found.update(f"{path}{_stamp(path)}".encode())
    return found.hexdigest()


def _stamp(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns]


def _load(path: Path) -> Summary | None:
    try:
        known: Any = json.loads(path.read_text(encoding="utf-8"))
        whole = known["sha256"] == fingerprint(known["found"])
        return Summary(**known["found"]) if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(path: Path, found: Summary) -> None:
    """Write it as a whole; a machine without a home reads again, and that is all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False,
                                         encoding="utf-8") as file:
            told = asdict(found)
            json.dump({"found": told, "sha256": fingerprint(told)}, file)
        os.replace(file.name, path)
    except OSError:
        return
