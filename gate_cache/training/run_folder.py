"""A run directory: resolved configuration, log, weights as safetensors, metrics last."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from gate_cache.core.errors import UserError, listed
from gate_cache.core.fingerprint import differences
from gate_cache.core.replacing import replacing
from gate_cache.manifest.train_spec import in_todays_words
from gate_cache.training.run_files import CONFIG, LOG, METRICS, unreadable, write_json

if TYPE_CHECKING:
    from gate_cache.learn.fit.trial import Trial

ANEW = "remove this checkpoint to train from the start"
LOOSE = ("versions", "commands", "began", "radius_in_cells")
"""What of a configuration may change between a run's beginning and its end."""


class RunDirectory:
    """One training's folder.

    Parameters
    ----------
    path : made by `begin`; a run with ``metrics.json`` is a finished one
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = logging.getLogger(f"gate_cache.run.{id(self)}")

    @contextmanager
    def begin(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Make the folder, write the configuration and log; or go on with an unfinished run.

        Raises
        ------
        UserError
            There is something already that is no unfinished run of the same configuration: a run
            is never written over another.
        """
        try:
            self.path.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError):
            if why := self._why_not(config):
                raise UserError(f"{self.path}: exists already, and {why}; give --out another name"
                                ) from None
        with logged(self.log, self.path):
            write_json(self.path / CONFIG, config)
            yield

    def _why_not(self, config: Mapping[str, Any]) -> str:
        """Why what is there does not go on as an unfinished run of this configuration."""
        try:
            old = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
            if not isinstance(old, dict):
                raise ValueError("no JSON object")
            if "manifest" in old:
                old["manifest"]["train"] = in_todays_words(old["manifest"]["train"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"holds no run ({CONFIG} is missing or damaged)"
        new = json.loads(json.dumps(config))  # with lists for tuples, as in the file
        old, new = ({k: v for k, v in c.items() if k not in LOOSE} for c in (old, new))
        # what a user has set before what follows from it
        changed = sorted(differences(old, new), key=lambda line: not line.startswith("manifest."))
        if changed:
            return f"is a run of other settings ({listed(changed, 3)})"
        return "is a finished run of these settings" if (self.path / METRICS).exists() else ""

    def weights(self, name: str, state: dict[str, torch.Tensor]) -> None:
        """Write a state dict as ``<name>.safetensors``."""
        with replacing(self.path / f"{name}.safetensors") as draft:
            save_file(state, draft)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics; checkpoints are of no more use."""
        write_json(self.path / METRICS, metrics)
        for path in self.path.glob("checkpoint-*.pt"):
            path.unlink()


@contextmanager
def logged(log: logging.Logger, folder: Path) -> Iterator[None]:
    """Inside, lines of a log go with their time to a file of the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(folder / LOG, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def new_run(root: Path, name: str) -> RunDirectory:
    """``<root>/<name>-<time>``, with a number where that is taken."""
    path = root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000))]
    return RunDirectory(next(p for p in tries if not p.exists()))


class Checkpoint:
    """Trials on their way, kept in a file.

    Attributes
    ----------
    start : items that an interrupted run has seen; the trials are as they were then

    Raises
    ------
    UserError
        It cannot be read, or holds other trials.
    """

    def __init__(self, path: Path, trials: Sequence[Trial]) -> None:
        self.path = path
        self._trials = trials
        self.start = 0
        try:  # nothing but tensors and plain data is read
            state = torch.load(path, map_location="cpu", weights_only=True)
            for trial in trials:
                trial.load(state["trials"][trial.label])
            self.start = int(state["seen"])
        except FileNotFoundError:
            pass
        except Exception as error:
            raise unreadable(path, error, ANEW) from error

    def keep(self, seen: int) -> None:
        """Write them as they are now."""
        states = {trial.label: trial.state() for trial in self._trials}
        with replacing(self.path) as draft:  # a killed write leaves the old one
            torch.save({"seen": seen, "trials": states}, draft)

    def remove(self) -> None:
        """They are done."""
        self.path.unlink(missing_ok=True)
