"""A workspace for images that no manifest names: one is written for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gate_cache.core.errors import UserError
from gate_cache.core.progress import Progress
from gate_cache.core.replacing import replacing
from gate_cache.core.roots import Roots
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.yaml_source import to_yaml
from gate_cache.workspace.workspace import Workspace

WRITTEN = "# Written by gate_cache.extract, which overwrites it.\n"
Images = str | Path | Sequence[str | Path]
"""A folder, with all images below it, or files."""


@dataclass(frozen=True)
class Features:
    """What to extract of them.

    Attributes
    ----------
    model : a source, or the fields of a manifest's ``model``
    combos : by name, a prompt, or the fields of a manifest's ``conv``
    """

    model: str | Mapping[str, Any]
    combos: Mapping[str, str | Mapping[str, Any]]

    def sections(self) -> dict[str, Any]:
        """Of a manifest."""
        model = {"source": self.model} if isinstance(self.model, str) else dict(self.model)
        return {"model": model, "conv": {
            name: {"prompt": combo} if isinstance(combo, str) else dict(combo)
            for name, combo in self.combos.items()}}


def workspace_for(images: Images, features: Features, to: Path, device: str | None,
                  progress: Progress) -> Workspace:
    """The workspace of a manifest that is checked, and then written beside the store.

    Parameters
    ----------
    images, features : what is to be extracted
    to : the store's folder; the manifest has its name and the suffix ``.yaml``
    device, progress : as of `Workspace`

    Raises
    ------
    UserError
        An image is missing, or a manifest of somebody else's is in the way.
    ManifestError
        With every problem found.
    """
    data, dataset = _dataset(images)
    content = {"dataset": dataset, **features.sections(), "store": {"path": to.name}}
    loaded = _checked(to.with_suffix(".yaml"), WRITTEN + to_yaml(content))
    return Workspace(loaded, Roots.resolve(data=data, stores=to.parent), device, progress)


@contextmanager
def passing(files: Sequence[str], features: Features, work: Roots, device: str | None,
            progress: Progress) -> Iterator[tuple[Workspace, list[str]]]:
    """A workspace of a few files whose store lasts as long as the block.

    Parameters
    ----------
    files, features : what is to be extracted
    work : the folders, of which that of models counts
    device, progress : as of `Workspace`

    Yields
    ------
    The workspace, and the files' ids.
    """
    data, dataset = _dataset(files)
    ids = [Path(os.path.relpath(file, data)).as_posix() for file in files]
    with tempfile.TemporaryDirectory(prefix="gate-cache-") as folder:
        manifest = Path(folder) / "images.yaml"
        manifest.write_text(to_yaml({"dataset": dataset, **features.sections()}), encoding="utf-8")
        roots = replace(work, data=data, stores=Path(folder))
        yield Workspace(load(manifest), roots, device, progress), ids


def _checked(path: Path, text: str) -> Loaded:
    """A manifest from its text; only one without problems is written."""
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(WRITTEN.encode())):
        raise UserError(f"{path}: is there, and not written by gate_cache.extract; give the store"
                        " another name with 'to'")
    with tempfile.TemporaryDirectory() as folder:  # of that name, which messages and store have
        draft = Path(folder) / path.name
        draft.write_text(text, encoding="utf-8")
        loaded = load(draft)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return loaded.model_copy(update={"path": path})


def _dataset(images: Images) -> tuple[Path, dict[str, Any]]:
    """The data root, and the manifest's ``dataset``."""
    several = [images] if isinstance(images, str | Path) else \
        list(images) if isinstance(images, Sequence) else []
    if not several or not all(isinstance(path, str | Path) for path in several):
        raise UserError("images: expected a folder or paths of files")
    # without "..", which no id has; resolve() would follow links, too
    paths = [Path(os.path.abspath(path)) for path in several]  # noqa: PTH100
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0].parent, {"name": "folder", "root": paths[0].name}
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"{missing[0]}: no such image; give one folder, or files")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    files = list(dict.fromkeys(path.relative_to(root).as_posix() for path in paths))
    return root, {"name": "folder", "root": ".", "files": files}
