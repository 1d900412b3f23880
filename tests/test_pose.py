"""Adaptive pose alignment: a source is matched mirrored where that is nearer (GeoAware-SC)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_train import CONV, build, manifest
from torch import nn

from gate_cache.core.errors import DataError, ManifestError
from gate_cache.core.geometry import Frame, Window
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.datasets.toy import ToyWorld
from gate_cache.learn.features.bucket import Bucket, Buckets
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, FixedWeights
from gate_cache.learn.modules.matching import NearestNeighbour
from gate_cache.learn.tasks.matching import CorrespondenceTask, scores
from gate_cache.learn.tasks.pose import MirroredPose, SourceDescriptors, distance, partners_of
from gate_cache.manifest.heads import parse_head
from gate_cache.manifest.load import Loaded
from gate_cache.training.inputs import open_any
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

SIDE = 8
SEEN = np.array([[2.5, 3.5], [5.5, 3.5], [4.5, 6.5]])  # left eye, right eye, nose


class Held:
    """Buckets of maps that are held by id."""

    def __init__(self, maps: dict[str, torch.Tensor]) -> None:
        self.maps = maps

    def stream(self, ids: Iterable[str]) -> Iterator[Bucket]:
        return (Bucket(self.maps[i][None], None) for i in ids)

    def window(self, size: tuple[int, int]) -> Window:
        return Frame(SIDE, "squash").place(*size).window(SIDE)


def keypoints(visible: tuple[bool, ...] = (True, True, True)) -> Keypoints:
    return Keypoints(SEEN, np.array(visible), np.array([2.0, 3, 6, 7]), (SIDE, SIDE))


def task(source: Keypoints, facing: str) -> tuple[CorrespondenceTask, PairPoints]:
    """A target that shows what the source does, or what the mirrored source does.

    Maps lie as the image does: where the plain source shows its left eye, the mirrored one shows
    what looks like a right eye.
    """
    plain, mirrored = torch.randn(2, 32, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    target = plain.clone() if facing == "same" else mirrored.clone()
    if facing == "mirrored":  # the partner's place in the source is the point's own in the target
        left, right = target[:, 3, 2].clone(), target[:, 3, 5].clone()
        target[:, 3, 2], target[:, 3, 5] = right, left
    pair = PairPoints(Pair("a", "b", "cat"), source, keypoints())
    buckets = cast(Buckets, Held({"a": plain, "b": target}))
    pose = MirroredPose(cast(Buckets, Held({"a": mirrored})),
                        {"cat": partners_of(["left eye", "right eye", "nose"])})
    return CorrespondenceTask(buckets, {}, "cells", mirrored=pose), pair


@pytest.fixture
def model() -> nn.Module:
    return CorrespondenceModel(FixedWeights([1.0]), NearestNeighbour())


@pytest.mark.parametrize("facing", ["same", "mirrored"])
def test_a_source_is_matched_in_the_pose_that_is_nearer(facing: str, model: nn.Module) -> None:
    aligning, pair = task(keypoints(), facing)
    (found,) = aligning.match([model], [pair])
    assert scores(found).values["pck@0.10/radius=image/average=point"] == 100
    aligning._mirrored = None
    (plain,) = aligning.match([model], [pair])
    right = scores(plain).values["pck@0.10/radius=image/average=point"]
    assert right == 100 if facing == "same" else right < 50


def test_a_point_whose_partner_is_hidden_keeps_its_own_descriptor() -> None:
    aligning, pair = task(keypoints((True, False, True)), "mirrored")
    pose = aligning._mirrored
    assert pose is not None
    at, known = pose.points(pair)
    assert known.tolist() == [False, True]  # the left eye's partner is hidden; the nose is its own
    np.testing.assert_allclose(at, SEEN[[0, 2]] / SIDE)
    own, other = torch.zeros(2, 4), torch.ones(2, 4)
    far, near = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 1.0, 0, 0]])
    target = near[0][:, None, None].expand(4, 2, 2)
    aligned = pose.aligned(pair, SourceDescriptors(own, far), SourceDescriptors(other, near),
                           target)
    assert aligned.tolist() == [[0.0] * 4, [1.0] * 4]


def test_instance_distance_is_the_mean_distance_to_nearest_cells() -> None:
    """As GeoAware-SC defines it, over all places of the source: ‖f − NN(f)‖₂ of unit vectors."""
    generator = torch.Generator().manual_seed(1)
    places, cells = (nn.functional.normalize(torch.randn(n, 16, generator=generator), dim=1)
                     for n in (7, 30))
    target = cells.T.reshape(16, 5, 6)
    by_hand = torch.cdist(places, cells).amin(1).mean().item()
    assert distance(SourceDescriptors(places, places), target) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(("names", "expected"), [
    (["nose", "Left ear", "right ear"], [0, 2, 1]),
    (["front_left_foot", "front_right_foot", "left of it"], [1, 0, 2]),
    (["leftover", "bright"], [0, 1]),
])
def test_partners_have_left_and_right_exchanged(names: list[str], expected: list[int]) -> None:
    assert partners_of(names).tolist() == expected


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pose")
    build(folder / "stores", described(folder))
    return folder


def described(folder: Path, **conv: Any) -> Loaded:
    """`good` knows the key points; its twin is noise, which is never nearer."""
    return manifest(folder, conv={"good": CONV["good"], **(conv or {
        "twin": {**CONV["good"], "mirror": True}})}, head={"name": "nn", "pose_align": True},
        combos=["good"])


def workspace(root: Path, loaded: Loaded) -> Workspace:
    return Workspace(loaded, Roots(stores=root / "stores", runs=root), "cpu")


@pytest.mark.long
def test_a_training_judges_aligned_sources(root: Path, tmp_path: Path) -> None:
    work = workspace(root, described(tmp_path))
    aligned = train(work, tmp_path / "run").tables[0]
    spec = work.manifest.train.model_copy(update={"head": parse_head("nn")})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert sorted(config["labels"].values()) == ["good", "twin"]  # another twin is another run
    plain = train(work.with_manifest(train=spec), tmp_path / "plain").tables[0]
    assert aligned.to_json()["rows"] == plain.to_json()["rows"]


@pytest.mark.parametrize(("conv", "names", "told"), [
    ({"noise-0": CONV["noise-0"]}, None, "pose_align: combo 'good' has no twin with mirror: true"),
    ({}, {"cat": ["nose", "chin"]}, "pose_align: data set 'toyworld' names no points left and"),
])
def test_what_alignment_lacks_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      conv: Any, names: Any, told: str) -> None:
    if names:
        monkeypatch.setattr(ToyWorld, "point_names", lambda _: names)
    with pytest.raises((ManifestError, DataError), match=told):
        open_any(workspace(root, described(tmp_path, **conv)))
