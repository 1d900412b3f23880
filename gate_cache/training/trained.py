"""Trained weights of a run: which settings they belong to, and loading them into a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gate_cache.core.errors import ModelError, UserError, did_you_mean, listed
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.manifest.train_spec import OF_A_RUN, TrainSpec
from gate_cache.training.features import attention_of, mixed_of
from gate_cache.training.run_files import CONFIG, SWEEP, read_json, trial_file
from gate_cache.training.sweep_tables import key_of, method_of

if TYPE_CHECKING:
    from gate_cache.store.reader import ComboView, FeatureStore
    from gate_cache.workspace.workspace import Workspace

OTHER_VERSION = "its settings cannot be read; it was made by another version"
NO_RUN = "holds no finished training; name the folder that 'gate-cache train' or 'sweep' made"


@dataclass(frozen=True)
class Trained:
    """The weights of a training, or of a sweep's trial.

    Attributes
    ----------
    run : its folder
    spec : what it was trained with
    weights : a safetensors file
    trial : which one of a sweep
    mixed : combos that the trial says it amalgamated
    """

    run: Path
    spec: TrainSpec
    weights: Path
    trial: str | None = None
    mixed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the run, and of the trial if it is a sweep's, for people."""
        return " ".join(filter(None, (self.run.resolve().name, self.trial)))

    @property
    def loaded(self) -> Loaded:
        """The manifest it was trained by, as it was then.

        Raises
        ------
        UserError
            The run's files cannot be read.
        """
        config = next(self._settled())
        try:
            manifest = Manifest.model_validate(config["manifest"], context=OF_A_RUN)
            return Loaded(path=Path(config["manifest_file"]), manifest=manifest)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.run}: {OTHER_VERSION}") from None

    def views(self, store: FeatureStore) -> dict[str, ComboView]:
        """The combos it was trained on, by name, in the order of its bucket; attention last.

        They are known by fingerprint: a store may hold another version of a combo, too.

        Raises
        ------
        UserError
            The run's files cannot be read, or the store lacks a combo.
        """
        loaded, digests = self.loaded, self._fingerprints()
        conv = self.mixed or mixed_of(loaded, [self.spec])
        attention = attention_of(loaded.manifest, self.spec)
        views = {view.fingerprint: view for view in store.views()}
        names = [*conv, *([attention] if attention else [])]
        if lacking := [n for n in names if digests.get(n) not in views]:
            raise UserError(f"{self.run}: was trained on '{lacking[0]}', which {store.path} does"
                            " not hold")
        return {name: views[digests[name]] for name in names}

    def _fingerprints(self) -> dict[str, str]:
        """Of every combo that the run has read, by its name."""
        try:
            return {str(config["labels"][group]): str(digest) for config in self._settled()
                    for group, digest in config["fingerprints"].items()}
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{self.run}: {OTHER_VERSION}") from None

    def _settled(self) -> Iterator[dict[str, Any]]:
        """What was settled before the training, or before each of the sweep's studies."""
        if self.trial is None:
            yield _json(self.run / CONFIG, self.run)
            return
        yield _json(self.run / SWEEP, self.run)
        yield from (_json(path, self.run) for path in sorted(self.run.glob("study-*.json")))

    def check(self, work: Workspace) -> None:
        """Check that a manifest has the features it was trained on.

        Raises
        ------
        UserError
            It lacks one.
        """
        spec, manifest = self.spec, work.manifest
        lacking = [n for n in spec.combos or () if n not in manifest.conv]
        if lacking:
            raise UserError(f"{work.name}: has no combo '{lacking[0]}' in 'conv', which"
                            f" {self.run} was trained on")
        if isinstance(spec.attention, str) and spec.attention not in manifest.attention:
            raise UserError(f"{work.name}: has no combo '{spec.attention}' in 'attention',"
                            f" which {self.run} was trained on")

    def load(self, model: nn.Module, name: str) -> None:
        """Load the weights into a model of `spec`.

        Parameters
        ----------
        name : of the manifest whose features it reads, for a message

        Raises
        ------
        ModelError
            They do not fit the manifest's features.
        """
        try:
            model.load_state_dict(load_file(self.weights))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise ModelError(f"{self.weights}: does not fit the features of {name}:"
                             f" {' '.join(str(error).split())[:160]}") from None


def find_trained(run: Path, trial: str | None = None, last: bool = False) -> Trained:
    """The weights in the folder of a training, or of a sweep.

    Parameters
    ----------
    trial : which one of a sweep
    last : the weights of the last step, not the best ones on ``val``

    Raises
    ------
    UserError
        There is no such run or trial.
    """
    if (run / "trials").is_dir():
        return _of_sweep(run, trial)
    if trial is not None:
        raise UserError(f"{run}: is one training, not a sweep; leave out --trial")
    return _of_train(run, last)


def _of_train(run: Path, last: bool) -> Trained:
    config = _json(run / CONFIG, run)
    weights = run / f"gate-{'last' if last else 'best'}.safetensors"
    if not weights.is_file():
        raise UserError(f"{run}: {NO_RUN}")
    return Trained(run, _spec(config.get("manifest", {}).get("train"), run), weights)


def _of_sweep(run: Path, trial: str | None) -> Trained:
    every = [_json(path, run) for path in sorted((run / "trials").glob("*.json"))]
    trials = {str(t["name"]): t for t in every if "name" in t}
    usable = {name: t for name, t in trials.items()
              if not t.get("failed") and _is_gate(t, run)}
    if trial is None:
        raise UserError(f"{run}: is a sweep; say which of its trials with --trial:"
                        f" {listed(usable, 6)}")
    if why := trials.get(trial, {}).get("failed"):
        raise UserError(f"{run}: trial '{trial}' failed: {why}")
    if trial in trials and trial not in usable:
        raise UserError(f"{run}: '{trial}' is a baseline; give --trial one of {listed(usable, 6)}")
    if trial not in trials:
        raise UserError(f"{run}: has no finished trial '{trial}'{did_you_mean(trial, usable)}")
    weights = run / "weights" / f"{trial_file(key_of(trials[trial]))}.safetensors"
    return Trained(run, _spec(trials[trial].get("spec"), run), weights, trial,
                   tuple(trials[trial].get("combos") or ()))


def _is_gate(trial: dict[str, Any], run: Path) -> bool:
    try:
        return method_of(trial, trial.get("spec") or {}).role == "gate"
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run}: {OTHER_VERSION}") from None


def _json(path: Path, run: Path) -> dict[str, Any]:
    content = read_json(path, "train again, or name another run")
    if content is None:
        raise UserError(f"{run}: {NO_RUN}")
    return content


def _spec(data: Any, run: Path) -> TrainSpec:
    try:
        return TrainSpec.model_validate(data, context=OF_A_RUN)
    except ValidationError:
        raise UserError(f"{run}: {OTHER_VERSION}") from None
