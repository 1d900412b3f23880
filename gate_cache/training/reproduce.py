"""What a run tells of itself so that it can be made again: commands. No torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import UserError
from gate_cache.manifest.load import load

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots
    from gate_cache.manifest.train_spec import TrainSpec
    from gate_cache.workspace.workspace import Workspace

OPTIONS = ("head", "assigners", "gamma1", "gamma2", "steps", "pairs", "lr", "seed")
"""Settings of ``train`` that its command line takes."""


def train_commands(work: Workspace) -> list[str]:
    """The commands that make a training again: extraction, then training."""
    options = [word for name, value in _changes(work).items() for word in (f"--{name}", str(value))]
    return _commands(work, ["train", _path(work.loaded.path), *options])


def sweep_commands(work: Workspace, file: Path | None) -> list[str]:
    """The commands that make a sweep again.

    Parameters
    ----------
    work : the manifest on this machine
    file : of its trials
    """
    trials = _path(file) if file else "TRIALS.yaml"
    return _commands(work, ["sweep", _path(work.loaded.path), trials])


def _changes(work: Workspace) -> dict[str, Any]:
    """Settings that are not what the manifest's file says."""
    now = work.manifest.train
    try:
        file = load(work.loaded.path).manifest.train
    except (UserError, OSError):
        return _options(now)
    changed = {k: v for k, v in _options(now).items() if v != _options(file).get(k)}
    if "head" in changed:  # which has defaults of its own
        return {k: v for k, v in changed.items() if k == "head" or k in now.model_fields_set}
    return changed


def _options(spec: TrainSpec) -> dict[str, Any]:
    """As the command line takes them; items only where they are no whole number of steps."""
    options = {name: getattr(spec, name) for name in OPTIONS}
    del options["steps" if spec.pairs else "pairs"]
    return {**options, "head": spec.head.name}


def _commands(work: Workspace, words: list[str]) -> list[str]:
    places = _roots(work.roots)
    place = ["--device", work.device] if work.device else []
    return [shlex.join(["gate-cache", "extract", _path(work.loaded.path), *places]),
            shlex.join(["gate-cache", *words, *places, *place])]


def _path(path: Path) -> str:
    """As it was given; of a path that holds on this machine alone, the name."""
    return path.name if path.is_absolute() else path.as_posix()


def _roots(roots: Roots) -> list[str]:
    """Options for roots that are not the default ones."""
    words: list[str] = []
    for name in ("data", "models"):
        root = getattr(roots, name)
        if root != Path(name):
            words += [f"--{name}", name.upper() if root.is_absolute() else root.as_posix()]
    if str(roots.stores) != "stores":
        words += ["--stores", str(roots.stores)]
    return [*words, "--allow-outside"] if roots.outside else words
