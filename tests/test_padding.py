"""``model.fit: pad`` from the pictures to the store, and from the store to matches and loss."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import CONTROL, PROMPT, WriteManifest, points_in

from gate_cache import FeatureStore
from gate_cache.core.errors import StoreError
from gate_cache.core.geometry import Frame
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.core.size import Fit, Size
from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.datasets.common.images import to_frame
from gate_cache.diffusion.techniques.controlnet import Control, canny
from gate_cache.extraction.extract import extract
from gate_cache.extraction.inputs import BlockInputs, ImageSource
from gate_cache.extraction.status import status
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.mixing.amalgamator import build_model
from gate_cache.learn.tasks.correspondence import PairsLoss
from gate_cache.learn.tasks.matching import CorrespondenceTask, judge
from gate_cache.manifest.specs import ControlNetSpec
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.store.check.inspect import inspect
from gate_cache.store.format.samples import NewSample, Samples
from gate_cache.store.writer import open_writer
from gate_cache.workspace.lookup import Stale, find_combo
from gate_cache.workspace.workspace import Workspace

PAD = {"source": "tiny", "fit": "pad"}
PHOTOS = {"square": (64, 64), "tall": (80, 40), "wide": (40, 80)}
FOLDER: dict[str, Any] = {
    "dataset": {"name": "folder", "root": "photos"}, "attention": {},
    "conv": {"plain": {**PROMPT, "maps": ["up2"]}, "control": {**CONTROL, "maps": ["up2"]}},
}


def photos(roots: Roots) -> None:
    folder = roots.data / "photos"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in PHOTOS.items():
        cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 255, (*shape, 3), dtype=np.uint8))


def test_squashed_and_padded_features_live_in_one_store(roots: Roots,
                                                        manifest: WriteManifest) -> None:
    photos(roots)
    squashed, padded = manifest(**FOLDER), manifest(**FOLDER, model=PAD)
    path = extract(Workspace(squashed, roots, "cpu")).store
    for combo in status(Workspace(padded, roots)).combos:
        assert combo.state == "stale"
        assert 'resize changed: "squash" → "pad"' in combo.why
    assert set(extract(Workspace(padded, roots, "cpu")).rows.values()) == {3}
    assert [c.state for c in status(Workspace(squashed, roots)).combos] == ["done", "done"]
    store = FeatureStore.open(path)
    latents = {v.frame.fit: v["x0"][:] for v in store.latents()}
    for label in ("plain", "control"):
        maps = {v.frame.fit: v["up2"][:] for v in store.views() if v.label == label}
        for found in (latents, maps):
            same = [np.array_equal(found["pad"][row], found["squash"][row]) for row in range(3)]
            assert same == [True, False, False]
    shown = [g.settings.get("resize") for g in inspect(path).groups]
    assert sorted(shown, key=str) == [None, None, "pad", "pad", "pad", "squash"]


def test_the_padding_has_no_edges() -> None:
    """Bars that run out of the picture are continued into the padding, their edges are not."""
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, ::12] = image[:, 1::12] = 255
    square, pixels = Frame(64, "pad"), SimpleNamespace(image=lambda _: image)
    samples = Samples(["bars"], ["0" * 64], np.array([[30, 60]], np.int32))
    source: Any = ImageSource(pixels, samples, Preprocessing(Size.of(64), "pad"),  # type: ignore[arg-type]
                              None, Roots(), {})  # type: ignore[arg-type]
    control = Control(None, None, ControlNetSpec(source="tiny"))  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as readers:
        edges = control.images(BlockInputs(source, readers), [0])[0, 0]
    own = square.place(30, 60).mask(64)
    (drawn,) = canny(to_frame(image, 64, "pad")[None], 100, 200)
    assert drawn[~own].any() and drawn[own].any()
    np.testing.assert_array_equal(edges, np.where(own, drawn, 0))


# ---------------------------------------------------------------------------------- learning

SIDE, POINTS = 16, 6
SCORE = (0.1, "image", "point")
SIZES = {"wide": (30, 60), "tall": (60, 30), "less": (45, 60), "square": (50, 50)}
CPU = torch.device("cpu")


def points_of(name: str) -> Keypoints:
    return points_in(name, SIZES[name], POINTS)


def maps_of(name: str) -> np.ndarray:
    """Channel k has a bump at the padded place of point k; the padding shows all points again."""
    points, place = points_of(name), Frame(64, "pad").place(*SIZES[name])
    height, width = points.size
    at = (np.arange(SIDE) + 0.5) / SIDE
    found = np.full((POINTS + 1, SIDE, SIDE), 0.1)
    for k, (x, y) in enumerate(place.to_frame(points.xy / [width, height])):
        found[k] = np.exp(-((at[None] - x) ** 2 + (at[:, None] - y) ** 2) / (2 * 0.05**2))
    decoys = np.eye(POINTS + 1)[np.arange(SIDE * SIDE) % POINTS].T.reshape(found.shape)
    return np.where(place.mask(SIDE), found, decoys)


def recipe(prompt: str, fit: Fit, **more: Any) -> dict[str, Any]:
    said = {"resize": "pad"} if fit == "pad" else {}
    return {"kind": "conv", "settings": {"prompt": prompt, "seed": 0, "t": 50}, "maps": ["up0"],
            "compute": "float32", "size": 64, **Preprocessing(Size.of(64)).recipe, **said, **more}


STORED: dict[str, tuple[Fit, int]] = {
    "padded": ("pad", 64), "squashed": ("squash", 64), "padded-larger": ("pad", 128),
    "squashed-larger": ("squash", 128),
}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """The same maps under the names of how they might have been made."""
    with open_writer(tmp_path / "s.zarr", "test", 8, 1) as writer:
        writer.append([NewSample(n, "00" * 32, *size) for n, size in SIZES.items()])
        about = {"source": {"controlnet": None, "lora": []}, "model": "tiny"}
        for name, (how, size) in STORED.items():
            group = writer.require(name, recipe(name, how, size=size),
                                   {"up0": (POINTS + 1, SIDE, SIDE)}, "float32", about)
            group.fit()
            group.write(range(len(SIZES)), {"up0": np.stack([maps_of(n) for n in SIZES])})
    return FeatureStore.open(tmp_path / "s.zarr")


def buckets(store: FeatureStore, *combos: str, resolution: int | None = None) -> Buckets:
    rows = {name: row for row, name in enumerate(SIZES)}
    spec = BucketSpec(combos, resolution=resolution)
    return Buckets(store, spec, CPU, rows, 2**20)


def all_pairs() -> list[PairPoints]:
    return [PairPoints(Pair(a, b, ""), points_of(a), points_of(b))
            for a in SIZES for b in SIZES if a != b]


@pytest.mark.parametrize(("combo", "right"), [("padded", True), ("squashed", False)])
def test_matches_follow_the_geometry_that_the_store_says(store: FeatureStore, combo: str,
                                                         right: bool) -> None:
    found = buckets(store, combo)
    score = judge(build_model(TrainSpec(), POINTS + 1, [1.0]), found, all_pairs()).values[SCORE]
    assert score == 100 if right else score < 80


@pytest.mark.parametrize("resolution", [11, 16])
def test_predictions_stay_inside_the_image(store: FeatureStore, resolution: int) -> None:
    """Whatever a head has learnt: here, nothing."""
    torch.manual_seed(0)
    model = build_model(TrainSpec(head={"name": "conv", "conv_channels": 4}), POINTS + 1)
    task = CorrespondenceTask(buckets(store, "padded", resolution=resolution), {})
    (matched,) = task.match([model], all_pairs())
    found = np.concatenate(list(matched.by_pair.values()))
    assert found.min() >= 0 and found.max() <= 1


def test_the_loss_does_not_see_the_padding(store: FeatureStore) -> None:
    found, pair = buckets(store, "padded"), all_pairs()[0]
    loss = PairsLoss(found, True)
    a, b = (torch.randn(8, SIDE, SIDE, generator=torch.Generator().manual_seed(i))
            for i in range(2))
    before = loss(torch.stack([a, b]), [pair])
    for maps, name in ((a, pair.pair.source), (b, pair.pair.target)):
        maps[:, ~torch.from_numpy(Frame(64, "pad").place(*SIZES[name]).mask(SIDE))] = 1e3
    assert before.isfinite()
    assert torch.equal(loss(torch.stack([a, b]), [pair]), before)
    a[:] = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(loss(torch.stack([a, b]), [pair]), before)


def test_a_conv_head_learns_on_padded_maps(store: FeatureStore) -> None:
    torch.manual_seed(0)
    spec = TrainSpec(head={"name": "conv", "conv_channels": 16}, steps=30, batch=4,
                     lr=1e-2, hidden=8, validate_steps=30, assigners=1)
    model, found = build_model(spec, POINTS + 1), buckets(store, "padded")
    task = CorrespondenceTask(found, {"train": all_pairs(), "val": all_pairs()})
    fit_trials([Trial("", spec, lambda: model, task, CPU)], task, True, FitSession(Silent()))
    score = judge(model, found, all_pairs()).values[SCORE]
    assert score > 95


@pytest.mark.parametrize(("combos", "told"), [
    (("padded", "squashed"), "padded has pad at 64 px, squashed has squash at 64 px"),
    (("padded", "padded-larger"), "padded-larger has pad at 128 px"),
])
def test_one_bucket_has_one_geometry(store: FeatureStore, combos: tuple[str, ...],
                                     told: str) -> None:
    with pytest.raises(StoreError, match=f"fitted in the same way: .*{told}"):
        buckets(store, *combos)


def test_the_size_of_squashed_images_does_not_matter(store: FeatureStore) -> None:
    found = buckets(store, "squashed", "squashed-larger")
    assert found(0).conv.shape == (2, POINTS + 1, SIDE, SIDE)
    assert found.window((30, 60)).cut(np.zeros((SIDE, SIDE))).shape == (SIDE, SIDE)


@pytest.mark.parametrize(("asked", "stored", "told"), [
    ("pad", "squashed", 'resize changed: "squash" → "pad"'),
    ("squash", "padded", 'resize changed: "pad" → "squash"'),
])
@pytest.mark.parametrize("weights", [True, False])
def test_a_manifest_that_asks_for_another_fit_is_stale(
        store: FeatureStore, manifest: WriteManifest, asked: Fit, stored: str, told: str,
        weights: bool) -> None:
    asks = manifest(model={"source": "tiny", "fit": asked, "size": 64}, attention={},
                    conv={stored: {"prompt": stored}})
    wanted = recipe(stored, asked, latents="other") if weights else None
    with pytest.raises(Stale) as caught:
        find_combo(store, asks.manifest, stored, wanted)
    assert told in caught.value.why
