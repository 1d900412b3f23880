"""``data``: what a manifest's data set holds, before anything is paid; and its short form."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.digest_cache import cache_folder, file_stamp
from gate_cache.core.errors import DataError, UserError, counted, listed
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.replacing import replacing
from gate_cache.datasets.common.base import ids_of
from gate_cache.datasets.common.files import ImageFiles, passed_over_line
from gate_cache.datasets.summary.summary import Summary, labelled_pixels
from gate_cache.datasets.summary.survey import summarise
from gate_cache.manifest.heads import TASKS, head_of

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.workspace.workspace import Workspace

VERSION = 5
"""Of what is read and reported; summaries of another version are not used."""


def data(work: Workspace) -> Summary:
    """Read all of a manifest's data set; `DataError` where it is missing, or cannot be listed."""
    return remembered(work, work.dataset())


def check_data(work: Workspace, dataset: ImageDataset) -> Summary:
    """Read a data set (of one without files only the numbers of images, so that none is drawn).

    Raises
    ------
    DataError
        With a line for every kind of fault.
    """
    summary = remembered(work, dataset) if hasattr(dataset, "sources") else \
        summarise(dataset, work.progress, read=False)
    if summary.faults:
        raise DataError("\n".join(summary.faults))
    return summary


def tell_data(work: Workspace, dataset: ImageDataset) -> Summary:
    """As `check_data`, and show the short form."""
    summary = check_data(work, dataset)
    for line in short(summary):
        work.progress.say(line)
    return summary


def short(summary: Summary) -> list[str]:
    """A line of counts, and the notes."""
    parts = [", ".join(f"{n} {split}" for split, n in summary.images.items())]
    if summary.classes:
        parts.append(counted(len(summary.classes), "class", "classes"))
    pixels, ignored = labelled_pixels(summary)
    if pixels + ignored:
        parts.append(f"{100 * pixels / (pixels + ignored):.1f} % of pixels labelled")
    if summary.pairs:
        parts += [counted(len(summary.categories), "category", "categories"),
                  counted(sum(summary.pairs.values()), "pair")]
    if summary.passed_over:
        parts.append(passed_over_line(summary.passed_over))
    notes = [*summary.notes, *(summary.unclassed if summary.classes else ())]
    return [f"data: {counted(sum(summary.images.values()), 'image')} ({parts[0]})"
            f"{''.join(f'; {p}' for p in parts[1:])}", *(f"note: {n}" for n in notes)]


def need_trainable(work: Workspace, summary: Summary, task: str) -> None:
    """Raise `UserError`, with one line that says why, if there is nothing to learn or to judge."""
    problem = untrainable(summary, task)
    if problem:
        raise UserError(f"{work.name}: dataset: {problem}")


def before_extraction(work: Workspace, summary: Summary) -> list[str]:
    """As `short`; and where the manifest says how to train, what will keep it from that."""
    train = work.manifest.train
    problem = untrainable(summary, head_of(train.head.name).task) \
        if "head" in train.model_fields_set else None
    return [*short(summary), *([f"note: train will refuse this: {problem}"] if problem else [])]


def untrainable(summary: Summary, task: str) -> str | None:
    """Why a task cannot be trained on a data set, or None."""
    if not summary.read:
        return None
    has, check = {"correspondence": (summary.pairs, _pairs), "classification": (
        summary.classes or summary.unclassed, _classes)}.get(task, (summary.pixels, _pixels))
    return check(summary) if has else f"data set '{summary.name}' has no {TASKS[task].needs}"


def _pairs(summary: Summary) -> str | None:
    for split in ("train", "test"):
        if not summary.pairs.get(split):
            return f"split '{split}' has no pairs of images of one category; enlarge it"
        if not summary.shared.get(split):
            return (f"split '{split}' has {counted(summary.pairs[split], 'pair')} of images, and"
                    " no two have a point of one name that is visible in both")
    return None


def _classes(summary: Summary) -> str | None:
    return "; ".join(summary.unclassed) or _two_classes(summary)


def _pixels(summary: Summary) -> str | None:
    for split in ("train", "test"):
        if summary.images.get(split) and not sum(c[split] for c in summary.pixels.values()):
            return (f"none of the {summary.images[split]} images of split '{split}' has a pixel of"
                    " a class: all are ignored")
    return _two_classes(summary)


def _two_classes(summary: Summary) -> str | None:
    names = [name for name, counts in summary.classes.items() if counts.get("train")]
    if len(names) > 1 or not summary.images.get("train"):
        return None
    return (f"split 'train' shows the class {listed(map(repr, names))} alone, and there is nothing"
            " to tell apart: give it images of at least two")


def remembered(work: Workspace, dataset: ImageDataset) -> Summary:
    """A summary, made again where a file has changed since it was made last."""
    path = _cache_file(work, dataset)
    summary = _load(path) if path else None
    if summary is None:
        summary = summarise(dataset, work.progress)
        if path:
            content = asdict(summary)
            with suppress(OSError), replacing(path) as draft:  # else it is made again next time
                draft.write_text(json.dumps({"found": content, "sha256": fingerprint(content)}))
    return summary


def _cache_file(work: Workspace, dataset: ImageDataset) -> Path | None:
    """Where a summary is kept: by the manifest's section and the stamps of all files."""
    sources = getattr(dataset, "sources", None)
    if sources is None:
        return None
    try:
        key = {"version": VERSION, "dataset": work.manifest.dataset.model_dump(mode="json"),
               "files": _files(dataset),
               "tables": {str(p): file_stamp(p) for p in getattr(dataset, "tables", ()) if p},
               "other": dataset.passed_over() if hasattr(dataset, "passed_over") else {}}
        if not getattr(dataset, "named_splits", False):  # they may rest on more than files
            key["classes"] = list(getattr(dataset, "classes", ()))
            key["splits"] = list(map(dataset.split_of, ids_of(dataset))) \
                if hasattr(dataset, "split_of") else []
        return cache_folder() / "data" / f"{fingerprint(key)}.json"
    except (OSError, DataError):
        return None


def _files(dataset: Any) -> str:
    """A digest of all samples, and of the sizes and times of all their files."""
    ids = ids_of(dataset)
    digest = hashlib.sha256("\n".join(ids).encode())
    if isinstance(dataset, ImageFiles) and type(dataset).sources is ImageFiles.sources:
        digest.update(f"{dataset.root}".encode())
        digest.update(dataset.stamps().data)
        return digest.hexdigest()
    for path in dict.fromkeys(p for i in ids for p in dataset.sources(i)):
        digest.update(f"{path}{file_stamp(path)}".encode())
    return digest.hexdigest()


def _load(path: Path) -> Summary | None:
    try:
        cached: Any = json.loads(path.read_text(encoding="utf-8"))
        sound = cached["sha256"] == fingerprint(cached["found"])
        return Summary(**cached["found"]) if sound else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
