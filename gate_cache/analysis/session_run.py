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

from gate_cache.core.errors import UserError
from gate_cache.learn.features.bucket import Buckets, BucketSpec, stack
from gate_cache.learn.features.data import MapCache
from gate_cache.learn.features.similarity import LevelDescriptors, describe
from gate_cache.learn.mixing.model import CorrespondenceModel, amalgamated
from gate_cache.manifest.heads import heads_of
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import OF_A_RUN, Manifest, TrainSpec
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.training.inputs import mixed_of
from gate_cache.training.run_files import CONFIG, SWEEP, TRIALS
from gate_cache.training.tasks import alike, matches
from gate_cache.training.trained import NO_RUN, find_trained

OTHER_VERSION = "its settings cannot be read; it was made by another version"
_READ_BYTES = 2**28
"""Maps held to be amalgamated; what comes of them is held elsewhere."""


@dataclass(frozen=True)
class TrainedFeature:
    """A trained model's descriptors."""

    name: str
    about: str
    model: CorrespondenceModel
    buckets: Buckets

    def describe(self, row: int, size: tuple[int, int]) -> LevelDescriptors:
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
    if not matches(spec):
        raise UserError(f"{run}: has head '{spec.head.name}', and points are matched by"
                        f" {' or '.join(heads_of('correspondence'))}; name a run with one of these")
    config, specs = _settled(run, spec)
    conv, attention = _groups(store, run, config)
    mixed = _mixed(run, spec, config, specs)
    asked = BucketSpec(tuple(conv[n].name for n in mixed), attention.name if attention else None,
                       tuple(spec.attention_maps) if spec.attention_maps else None,
                       config["resolution"])
    buckets = Buckets(store, asked, device, MapCache(store, _READ_BYTES), {})
    model = amalgamated(spec, buckets.channels, attention=spec.attention is not False)
    trained.load(model, Loaded(path=Path(config["manifest_file"]), manifest=_manifest(run, config)))
    many = "s" if spec.assigners > 1 else ""
    about = f"head {spec.head.name}, {spec.assigners} assigner{many}" + (
        " + attention" if attention and spec.attention is not False else "")
    return TrainedFeature(f"run {trained.name}", about, model.to(device).eval(), buckets)


def _groups(store: FeatureStore, run: Path,
            config: dict[str, Any]) -> tuple[dict[str, ComboView], ComboView | None]:
    """What a run has read: its convolutional combos by name, and the attention feature's."""
    known = {v.fingerprint: v for v in store.views()}
    for name, print_ in config["fingerprints"].items():
        if print_ not in known:
            raise UserError(f"{run}: was trained on '{name}', which {store.path} does not hold")
    views = [known[p] for p in config["fingerprints"].values()]
    conv = [v for v in views if v.attrs["kind"] == "conv"]
    attention = [v for v in views if v.attrs["kind"] == "attention"]
    return dict(zip(config["combos"], conv, strict=True)), attention[0] if attention else None


def _settled(run: Path, spec: TrainSpec) -> tuple[dict[str, Any], list[TrainSpec]]:
    """What was settled before the training, or before the trials that share their features.

    Returns
    -------
    The configuration and the settings of all these trials
    """
    for number, path in enumerate(_settlements(run)):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            specs = _studied(config, number) if "trials" in config else [spec]
            lacking = {"fingerprints", "combos", "resolution", "manifest"} - set(config)
        except (OSError, ValueError, AttributeError, TypeError, IndexError):
            raise UserError(f"{run}: {NO_RUN}") from None
        if lacking:
            raise UserError(f"{run}: {OTHER_VERSION}")
        if alike(spec) == alike(specs[0]):
            return config, specs
    raise UserError(f"{run}: {NO_RUN}")


def _settlements(run: Path) -> Iterator[Path]:
    if not (run / TRIALS).is_dir():
        yield run / CONFIG
        return
    yield run / SWEEP
    yield from sorted(run.glob("study-*.json"), key=lambda p: int(p.stem.split("-")[1]))


def _studied(config: dict[str, Any], number: int) -> list[TrainSpec]:
    """The trials of the sweep's n-th study."""
    specs = [TrainSpec.model_validate(s, context=OF_A_RUN) for s in config["trials"].values()]
    kind = list(dict.fromkeys(alike(s) for s in specs))[number]
    return [s for s in specs if alike(s) == kind]


def _mixed(run: Path, spec: TrainSpec, config: dict[str, Any],
           specs: Sequence[TrainSpec]) -> Sequence[str]:
    """Names of the combos that are amalgamated: the baseline may have been read beside them."""
    loaded = Loaded(path=run, manifest=_manifest(run, config))
    return spec.combos or mixed_of(loaded, specs)


def _manifest(run: Path, config: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate(config["manifest"], context=OF_A_RUN)
    except ValueError:
        raise UserError(f"{run}: {OTHER_VERSION}") from None
