"""The amalgamated feature of a trained run, over a store that is open already.

A run's configuration names its groups by fingerprint, so that no manifest is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gate_cache.errors import ModelError, UserError
from gate_cache.learn.bucket import Buckets, BucketSpec, stack
from gate_cache.learn.data import MapCache
from gate_cache.learn.model import CorrespondenceModel, amalgamated
from gate_cache.learn.similarity import Described, describe
from gate_cache.manifest import Loaded
from gate_cache.specs import Manifest, TrainSpec
from gate_cache.stages.rundir import CONFIG
from gate_cache.stages.studies import PAIRS, alike
from gate_cache.stages.study import combos_of
from gate_cache.stages.trained import NO_RUN, find_trained
from gate_cache.store.reader import ComboView, FeatureStore

SWEEP = "sweep.json"
_READ_BYTES = 2**28
"""Maps held to be amalgamated; what comes of them is held elsewhere."""


@dataclass(frozen=True)
class TrainedFeature:
    """A trained model's descriptors."""

    name: str
    about: str
    model: CorrespondenceModel
    buckets: Buckets

    def describe(self, row: int, size: tuple[int, int]) -> Described:
        """One level of unit descriptors, all combos amalgamated."""
        found = self.model(stack([self.buckets(row)])).values[0]
        return describe([found], self.buckets.window(size))


def trained_feature(store: FeatureStore, run: Path, trial: str | None,
                    device: torch.device) -> TrainedFeature:
    """The feature of a training of correspondence, or of a sweep's trial.

    Raises
    ------
    UserError
        There is no such run, it has another head, or was trained on what the store does not hold.
    """
    trained = find_trained(run, trial)
    spec = trained.spec
    if spec.head not in PAIRS:
        raise UserError(f"{run}: has head '{spec.head}', and points are matched by"
                        f" {' or '.join(PAIRS)}; name a run with one of these")
    config = _settled(run, spec)
    conv, attention = _groups(store, run, config)
    asked = BucketSpec(tuple(v.name for v in conv), attention.name if attention else None,
                       tuple(spec.attention_maps) if spec.attention_maps else None,
                       config["resolution"])
    buckets = Buckets(store, asked, device, MapCache(store, _READ_BYTES), {})
    model = amalgamated(spec, buckets.channels, _chosen(run, spec, config, len(conv)),
                        spec.attention is not False)
    try:
        model.load_state_dict(load_file(trained.weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(f"{trained.weights}: does not fit the features of {store.path}:"
                         f" {' '.join(str(error).split())[:160]}") from None
    name = f"{run.resolve().name}{f' {trial}' if (run / 'trials').is_dir() else ''}"
    many = "s" if spec.assigners > 1 else ""
    about = f"head {spec.head}, {spec.assigners} assigner{many}" + (
        " + attention" if attention and spec.attention is not False else "")
    return TrainedFeature(f"run {name}", about, model.to(device).eval(), buckets)


def _groups(store: FeatureStore, run: Path,
            config: dict[str, Any]) -> tuple[list[ComboView], ComboView | None]:
    """The combos that were amalgamated, in their order, and the attention feature's."""
    known = {v.fingerprint: v for v in store.views()}
    for name, print_ in config["fingerprints"].items():
        if print_ not in known:
            raise UserError(f"{run}: was trained on '{name}', which {store.path} does not hold")
    views = [known[p] for p in config["fingerprints"].values()]
    conv = [v for v in views if v.attrs["kind"] == "conv"]
    attention = [v for v in views if v.attrs["kind"] == "attention"]
    return conv, attention[0] if attention else None


def _settled(run: Path, spec: TrainSpec) -> dict[str, Any]:
    """What was settled before the training; of a sweep, before the trials that are alike."""
    for path in _settlements(run):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            assert isinstance(config["fingerprints"], dict)
            assert isinstance(config["resolution"], int)
            if "trials" not in config or alike(spec) == alike(_studied(path, config)[0]):
                return dict(config)
        except (OSError, ValueError, KeyError, AssertionError, IndexError):
            break
    raise UserError(f"{run}: {NO_RUN}")


def _settlements(run: Path) -> Iterator[Path]:
    if not (run / "trials").is_dir():
        yield run / CONFIG
        return
    yield run / SWEEP
    yield from sorted(run.glob("study-*.json"), key=lambda p: int(p.stem.split("-")[1]))


def _studied(path: Path, config: dict[str, Any]) -> list[TrainSpec]:
    """The trials of the study whose settlement this is: the n-th kind among them."""
    number = 0 if path.name == SWEEP else int(path.stem.split("-")[1])
    specs = [TrainSpec.model_validate(s) for s in config["trials"].values()]
    kind = list(dict.fromkeys(alike(s) for s in specs))[number]
    return [s for s in specs if alike(s) == kind]


def _chosen(run: Path, spec: TrainSpec, config: dict[str, Any], count: int,
            ) -> Sequence[int] | None:
    """Which of a sweep's combos a trial amalgamates; None for all."""
    if "trials" not in config or not spec.combos:
        return None
    try:
        manifest = Manifest.model_validate(config["manifest"])
        specs = [TrainSpec.model_validate(s) for s in config["trials"].values()]
        same = [s for s in specs if alike(s) == alike(spec)]
        names = combos_of(Loaded(path=run / SWEEP, manifest=manifest), same)
    except (KeyError, ValueError):
        raise UserError(f"{run}: its settings cannot be read; it was made by another version"
                        ) from None
    if len(names) != count:
        raise UserError(f"{run}: names {len(names)} combos, and {count} were read for it")
    return [names.index(name) for name in spec.combos]
