"""``model.fit: keep``: inputs of several shapes, from pictures to matches, masks and classes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CONTROL, PROMPT, points_in, write
from diffusers import StableDiffusionPipeline
from PIL import Image
from test_ensembles import Plain
from test_tasks import FAST, IDS, Pictures, told

from gate_cache import FeatureStore
from gate_cache.analysis.describe import PlainFeature
from gate_cache.analysis.show import ShownImages, show
from gate_cache.core.errors import ModelError, RowNotDone, StoreError, UserError
from gate_cache.core.geometry import Frame
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size, nearest_shape, shapes_of
from gate_cache.datasets.common.base import IGNORED, Keypoints, Pair
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.extraction.extract import Workers, extract
from gate_cache.extraction.passes import need_whole, seconds_an_image
from gate_cache.extraction.plan import plan
from gate_cache.extraction.prune import prune
from gate_cache.extraction.recompute import recompute
from gate_cache.extraction.sharing.copy import copy_store
from gate_cache.extraction.status import status
from gate_cache.learn.features.bucket import Bucket, Buckets, BucketSpec, stacks
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.features.similarity import match
from gate_cache.learn.features.stream import FeatureStream
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.metrics.pck import pck
from gate_cache.learn.mixing.amalgamator import ConvAssigner, build_model
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.matching import CorrespondenceTask, judge
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.segmentation import SegmentationTask
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.store.check.inspect import inspect
from gate_cache.store.check.verify import verify
from gate_cache.store.format.layout import blocks_of
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer
from gate_cache.workspace.workspace import Workspace

CPU = torch.device("cpu")
SHAPES = shapes_of(128, 32)
KEEP = {"source": "tiny", "fit": "keep", "size": 128}
PICTURES = {"a": (60, 100), "b": (80, 80), "c": (80, 48), "d": (30, 100), "e": (70, 70),
            "f": (48, 80), "g": (75, 70)}
"""a, b, c, e and f have the aspect of a shape; d and g need padding."""
INPUTS = {"a": (96, 160), "b": (128, 128), "c": (160, 96), "d": (64, 256), "e": (128, 128),
          "f": (96, 160), "g": (128, 128)}


# ------------------------------------------------------------------------------ shapes, by hand


def test_shapes_have_the_pixels_of_the_square_at_most() -> None:
    """For 1,024 in steps of 64 they are among those of Stable Diffusion XL's training."""
    assert [tuple(s) for s in SHAPES] == [(64, 256), (96, 160), (128, 128), (160, 96), (256, 64)]
    large = shapes_of(1024, 64)
    published = {(512, 2048), (576, 1792), (640, 1600), (704, 1472), (768, 1344), (832, 1216),
                 (896, 1152), (960, 1088), (1024, 1024)}
    assert {tuple(sorted(s)) for s in large} == published
    assert all(Size(*s[::-1]) in large for s in large)
    for side, multiple in ((512, 64), (512, 8), (518, 14), (64, 32), (32, 32)):
        found = shapes_of(side, multiple)
        assert Size(side, side) in found and list(found) == sorted(found)
        assert all(v % multiple == 0 for s in found for v in s)
        assert max(s.area for s in found) <= side * side
    assert max(map(max, shapes_of(1024, 64, 1400))) == 1344


@pytest.mark.parametrize(("height", "width", "expected"), [
    (30, 100, (64, 256)), (100, 1000, (64, 256)), (60, 100, (96, 160)), (100, 60, (160, 96)),
    # between 96/160 and 1: the geometric mean is √0.6 = 0.7746
    (774, 1000, (96, 160)), (775, 1000, (128, 128)), (1000, 774, (160, 96)), (1, 1, (128, 128))])
def test_an_image_has_the_shape_nearest_to_its_aspect(height: int, width: int,
                                                      expected: tuple[int, int]) -> None:
    assert nearest_shape(SHAPES, height, width) == expected


def test_an_image_keeps_its_aspect() -> None:
    place = Frame(128, "keep", SHAPES).place(30, 100)  # by 256/100 = 2.56: 76.8 > 64 rows
    assert (place.size, place.height, place.width) == (Size(64, 256), 64, 213)
    assert (place.top, place.left) == (0, 21)  # 30 by 64/30 = 2.1333, 100 by that: 213.3


# ----------------------------------------------------------------------------------- extraction

Made = tuple[Loaded, Roots, FeatureStore]


def draw(folder: Path, pictures: dict[str, tuple[int, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (height, width) in pictures.items():
        coarse = np.random.default_rng(sum(name.encode())).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(cv2.resize(coarse, (width, height))).save(folder / f"{name}.png")


def manifest(home: Path, name: str, model: Any = (), edges: bool = True) -> Loaded:
    return write(home / f"{name}.yaml", dataset={"name": "folder", "root": "pictures"},
                 model={**KEEP, **dict(model)},
                 conv={"plain": PROMPT, **({"edges": CONTROL} if edges else {})},
                 attention={"words": PROMPT}, store={"block": 2, "batch": 2, "path": "s.zarr"})


def work(made: Any) -> Workspace:
    return Workspace(made[0], made[1], "cpu")


def extracted(home: Path, pictures: dict[str, tuple[int, int]], edges: bool = False) -> Made:
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    draw(roots.data / "pictures", pictures)
    loaded = manifest(home, "keep", edges=edges)
    return loaded, roots, FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return extracted(tmp_path_factory.mktemp("keep"), PICTURES, edges=True)


class Resized(Plain):
    """Passes of the unmodified UNet over pictures resized by Pillow, all to one size."""

    def __init__(self, made: Made, names: Sequence[str]) -> None:
        self.ids = tuple(f"{n}.png" for n in names)
        self.pipe = StableDiffusionPipeline.from_pretrained(HOME)
        self.images = np.stack([np.asarray(Image.open(made[1].data / "pictures" / i).resize(
            INPUTS[i[0]][::-1], Image.Resampling.BICUBIC)) for i in self.ids])


@pytest.mark.mostly_long("c")
@pytest.mark.parametrize("names", ["af", "be", "c"])
def test_maps_are_the_unmodified_library_s_on_the_same_resized_image(made: Made,
                                                                     names: str) -> None:
    plain, view = Resized(made, names), made[2]["plain"]
    expected = plain.maps(plain.noised(plain.latents(plain.images), 0, 50), 50)
    for place, sample in enumerate(plain.ids):
        for name in view:
            found = view[name][sample]
            np.testing.assert_allclose(found.astype(np.float32), expected[name][place], rtol=2e-3,
                                       atol=2e-3)
    height, width = INPUTS[names[0]]
    assert view["up2"][f"{names[0]}.png"].shape == (64, height // 4, width // 4)


def test_padded_maps_are_those_of_a_store_of_that_shape(made: Made, tmp_path: Path) -> None:
    """To the bit: padded likewise, with the same noise, in batches of the same number."""
    name, roots = "d", Roots(made[1].data, *(tmp_path / n for n in ("models", "stores", "runs")))
    loaded = manifest(tmp_path, "pad", {"fit": "pad", "size": list(INPUTS[name])})
    other = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    for combo in ("plain", "edges", "words"):
        for level in other[combo]:
            np.testing.assert_array_equal(made[2][combo][level][f"{name}.png"],
                                          other[combo][level][f"{name}.png"])
    (ours,), (theirs,) = made[2].latents(), other.latents()
    np.testing.assert_array_equal(ours["x0"][f"{name}.png"], theirs["x0"][f"{name}.png"])


def test_squares_alone_are_as_under_squash(tmp_path: Path) -> None:
    loaded, roots, keep = extracted(tmp_path, dict.fromkeys("abc", (60, 60)))
    extract(Workspace(manifest(tmp_path, "squash", {"fit": "squash"}, False), roots, "cpu"))
    store = FeatureStore.open(keep.path)
    for combo in ("plain", "words"):
        shaped, plain = sorted((v for v in store.views() if v.label == combo),
                               key=lambda v: v.frame.fit)
        assert (shaped.frame.fit, plain.frame.fit) == ("keep", "squash")
        for level in plain:
            np.testing.assert_array_equal(shaped[level][:], plain[level][:])
        assert [len(g.maps) for g in shaped.groups] == [len(plain.maps)]
    assert [c.state for c in status(Workspace(loaded, roots, "cpu")).combos] == ["done"] * 2


def test_a_plan_counts_images_and_bytes_of_each_shape(made: Made) -> None:
    found = plan(work(made))
    note = "images by their input: 1 of 64×256 px, 2 of 96×160 px, 3 of 128 px, 1 of 160×96 px"
    assert any(note in line for line in found.notes)
    files = [p for p in Path(str(made[2].path)).rglob("*") if p.is_file()]
    assert len(files) == found.files
    assert sum(p.stat().st_size for p in files) == pytest.approx(found.bytes, rel=0.1)


@pytest.mark.long
def test_a_store_is_whole_and_computed_again_to_the_bit(made: Made) -> None:
    assert verify(made[2].path).problems == [] and not verify(made[2].path).notes
    again = recompute(work(made), 7)
    assert again.equal and sum(c.rows for c in again.combos if c.name.startswith("plain")) == 7
    assert {c.name for c in again.combos if c.name.startswith("lat")} == {
        f"latents at {s}" for s in ("64×256", "96×160", "128", "160×96")}
    assert [(c.state, c.done) for c in status(work(made)).combos] == [("done", 7)] * 3
    groups = [g for g in inspect(made[2].path).groups if g.combo == "plain"]
    assert {tuple(g.settings["shape"]): g.done for g in groups} == {
        (64, 256): 1, (96, 160): 2, (128, 128): 3, (160, 96): 1}
    assert all(g.missing == [] for g in groups)


def test_readers_hand_out_each_image_s_own_shape(made: Made, tmp_path: Path) -> None:
    view = made[2]["plain"]["up2"]
    assert view.shape == (7, 64, 32, 32)
    shapes = [(64, h // 4, w // 4) for h, w in INPUTS.values()]
    assert [view[row].shape for row in range(7)] == shapes
    np.testing.assert_array_equal(view[[0, 5]], np.stack([view["a.png"], view[-2]]))
    np.testing.assert_array_equal(view[1, :, 3], view[1][:, 3])
    with pytest.raises(StoreError, match="plain: up2 of rows 0 … 6 has several shapes; read"):
        view[:]
    with pytest.raises(StoreError, match="inputs of several shapes, and an array has one"):
        made[2].dask("plain", "up2")
    data = pickle.loads(pickle.dumps(made[2].torch_dataset(["plain"], ["up2"])))
    assert [i["plain"]["up2"].shape for i in data.__getitems__([0, 1, 2])] == shapes[:3]
    for sample in FeatureStream(made[2], {"plain": ["up2"]}, order="random"):
        np.testing.assert_array_equal(sample.maps["plain"]["up2"], view[sample.row])
    copied = FeatureStore.open(copy_target(made, tmp_path / "copy.zarr"))
    np.testing.assert_array_equal(copied["plain"]["up2"]["d.png"], view["d.png"])
    assert copied["plain"].fingerprint == made[2]["plain"].fingerprint


def copy_target(made: Made, target: Path) -> Path:
    copied = copy_store(made[2].path, target)
    assert copied.missing == {} and verify(target).problems == []
    return target


def test_pictures_have_each_image_s_own_shape(made: Made) -> None:
    drawn = list(show(ShownImages(made[2], work(made).dataset()), ["a.png", "c.png"]))
    assert [d.conv["plain"]["up2"].shape for d in drawn] == [(24, 40, 3), (40, 24, 3)]
    assert drawn[0].attention["words"][0][1].shape == (12, 20)


@pytest.mark.long
def test_new_images_and_lost_blocks_are_all_that_is_computed(tmp_path: Path) -> None:
    loaded, roots, store = extracted(tmp_path, {"a": (60, 100), "b": (80, 80)})
    before = {n: store["plain"]["up2"][f"{n}.png"] for n in "ab"}
    draw(roots.data / "pictures", {"c": (100, 60), "a2": (30, 50), "a3": (48, 80)})
    found = status(Workspace(loaded, roots, "cpu")).combos[0]
    assert (found.state, found.done, found.total) == ("partial", 2, 5)
    result = extract(Workspace(loaded, roots, "cpu"))
    assert (result.new_images, result.rows["plain"], result.rows["latents"]) == (3, 3, 3)
    assert not any(extract(Workspace(loaded, roots, "cpu")).rows.values())
    store = FeatureStore.open(store.path)
    for name, values in before.items():
        np.testing.assert_array_equal(store["plain"]["up2"][f"{name}.png"], values)
    assert verify(store.path).problems == []
    (shard,) = Path(str(store.path)).glob("plain-96x160-*/up2/c.1.*")
    shard.write_bytes(shard.read_bytes()[:-1])  # of a3, the third of its shape
    assert [len(verify(store.path, repair=True).problems)] == [1]
    with pytest.raises(RowNotDone, match=r"plain: row 4 \('a3.png'\)|is not extracted"):
        FeatureStore.open(store.path)["plain"]["up2"]["a3.png"]
    assert extract(Workspace(loaded, roots, "cpu")).rows == {"latents": 0, "plain": 1, "words": 0}
    (left,) = prune([store.path], roots, yes=True)
    assert left.groups == []
    write(tmp_path / "less.yaml", model=KEEP, conv={"plain": PROMPT}, attention={},
          store={"path": "s.zarr"})
    (pruned,) = prune([tmp_path / "less.yaml"], roots, yes=True)
    assert sorted(g.name.rpartition("-")[0] for g in pruned.groups) == [
        "words-128x128", "words-160x96", "words-96x160"]
    store = FeatureStore.open(store.path)
    assert store.combos == ("plain",) and len(store.latents()[0].groups) == 3


def test_a_store_keeps_its_dtype_for_further_shapes(tmp_path: Path) -> None:
    stored(tmp_path / "s.zarr", {"wide": (30, 50)}, {"a": lambda n: {"up0": maps_of(n)}}, "float16")
    with open_writer(tmp_path / "s.zarr", "test", 2, 1) as writer:
        recipe = {**FeatureStore.open(tmp_path / "s.zarr")["a"].recipe, "shape": [128, 128]}
        group = writer.require("a", recipe, {"up0": (7, 16, 16)}, "float32", {})
    assert (group.encoding.dtype, group.rows) == ("float16", 0)


@pytest.mark.slow
def test_workers_write_the_same(made: Made, tmp_path: Path) -> None:
    roots = Roots(made[1].data, *(tmp_path / n for n in ("models", "stores", "runs")))
    result = extract(Workspace(made[0], roots, "cpu"), spread=Workers(2))
    assert result.rows["plain"] == 7
    store = FeatureStore.open(result.store)
    for row in range(7):
        for name in store["edges"]:
            np.testing.assert_array_equal(store["edges"][name][row], made[2]["edges"][name][row])


def test_what_takes_one_shape_says_so(made: Made) -> None:
    with pytest.raises(UserError, match=r"model.fit: keep: this takes images of one shape; give"):
        need_whole(work(made))
    assert seconds_an_image(work(made), 1) > 0
    for maps, line in (({"up0": {"grid": 6}}, "a grid of 6 cells a side, but the map has 4×16"),
                       (["attn3", "up0.self"], "no map 'up0.self'")):
        loaded = made[0].model_copy(update={"manifest": made[0].manifest.model_copy(update={
            "conv": {"p": made[0].manifest.conv["plain"].model_validate({**PROMPT, "maps": maps})},
            "attention": {}})})
        with pytest.raises(ModelError) as caught:
            plan(Workspace(loaded, made[1], "cpu"))
        assert line in str(caught.value) or "offers" in str(caught.value)


# -------------------------------------------------------------------------------- key points

SIZES = {"wide": (30, 50), "tall": (60, 36), "less": (45, 60), "square": (50, 50),
         "narrow": (20, 90)}
POINTS, STRIDE = 6, 8
SCORE = (0.1, "image", "point")


def points_of(name: str) -> Keypoints:
    return points_in(name, SIZES[name], POINTS)


def maps_of(name: str) -> np.ndarray:
    """Channel k has a bump, round in the image, at point k; the padding shows all points again."""
    points, place = points_of(name), Frame(128, "keep", SHAPES).place(*SIZES[name])
    cells = place.size.cells(STRIDE)
    y, x = ((np.arange(n) + 0.5) * STRIDE for n in cells)
    found = np.full((POINTS + 1, *cells), 0.1)
    for k, share in enumerate(points.xy / points.size[::-1]):
        at = place.to_frame(share) * place.size[::-1]
        found[k] = np.exp(-((x[None] - at[0]) ** 2 + (y[:, None] - at[1]) ** 2) / (2 * 6.0**2))
    decoys = np.eye(POINTS + 1)[np.arange(cells.area) % POINTS].T.reshape(found.shape)
    return np.where(place.mask(cells), found, decoys)


def stored(path: Path, samples: dict[str, tuple[int, int]], combos: dict[str, Any],
           dtype: str = "float32") -> FeatureStore:
    """A store of combos: name to what makes a sample's maps."""
    with open_writer(path, "test", 2, 1) as writer:
        writer.append([NewSample(n, "00" * 32, *size) for n, size in samples.items()])
        for name, make in combos.items():
            kept = {"kind": "attention" if name == "attn" else "conv", "combo": name, "size": 128,
                    "resize": "keep", "shapes": [list(s) for s in SHAPES]}
            shape_of = {n: nearest_shape(SHAPES, *size) for n, size in samples.items()}
            for shape in sorted(set(shape_of.values())):
                maps = [make(n) for n, own in shape_of.items() if own == shape]
                shapes = {m: v.shape for m, v in maps[0].items()}
                group = writer.require(name, {**kept, "shape": list(shape)}, shapes, dtype, {})
                group.fit()
                for block in blocks_of(len(maps), 2):
                    group.write(block, {m: np.stack([maps[r][m] for r in block]) for m in shapes})
    return FeatureStore.open(path)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return stored(tmp_path_factory.mktemp("points") / "s.zarr", SIZES,
                  {"good": lambda n: {"up0": maps_of(n)}, "noise": lambda n: {
                      "up0": np.random.default_rng(1).normal(size=maps_of(n).shape)}})


def buckets(store: FeatureStore, *combos: str, resolution: int | None = None) -> Buckets:
    spec = BucketSpec(combos, resolution=resolution)
    return Buckets(store, spec, CPU, {name: row for row, name in enumerate(SIZES)}, 2**20)


def all_pairs(*names: str) -> list[PairPoints]:
    names = names or tuple(SIZES)
    return [PairPoints(Pair(a, b, ""), points_of(a), points_of(b))
            for a in names for b in names if a != b]


@pytest.mark.parametrize("resolution", [None, 24])
def test_every_point_is_found_between_images_of_any_two_shapes(points: FeatureStore,
                                                               resolution: int | None) -> None:
    found = buckets(points, "good", resolution=resolution)
    score = judge(build_model(TrainSpec(), POINTS + 1, [1.0]), found, all_pairs()).values[SCORE]
    assert score == 100 if resolution is None else score > 85  # what is beside it is mixed in
    wide = (12, 20) if resolution is None else (24, 24)
    assert found.named("wide").conv.shape == (1, POINTS + 1, *wide)


def test_pck_by_hand_on_two_images_of_different_aspect(points: FeatureStore) -> None:
    """Places are compared in the target's pixels: 36 wide, 60 high, so 6 px are right at 0.1."""
    model, (pair,) = build_model(TrainSpec(), POINTS + 1, [1.0]), [
        p for p in all_pairs("wide", "tall") if p.pair.source == "wide"]
    (matched,) = CorrespondenceTask(buckets(points, "good"), {}).match([model], [pair])
    found, true = matched.by_pair[pair] * [36, 60], points_of("tall").xy
    assert np.hypot(*(found - true).T).max() < 3  # a cell, at the image's corners
    moved = true + np.array([[5.9, 0], [0, 6.1], [0, -5.9], [6.1, 0], [4, 4], [5, 5]])
    assert pair.judge(moved / [36, 60]).predicted == pytest.approx(moved)
    assert pck([pair.judge(moved / [36, 60])]).values[SCORE] == pytest.approx(100 * 3 / 6)


def test_match_and_view_find_the_same(points: FeatureStore) -> None:
    feature = PlainFeature("combo good", "", [points["good"]], CPU)
    here, there = (feature.describe(points.samples.row(n)) for n in ("narrow", "tall"))
    assert there.window.resolution == Size(20, 12)
    (pair,) = [p for p in all_pairs("narrow", "tall") if p.pair.source == "narrow"]
    (matched,) = CorrespondenceTask(buckets(points, "good"), {}).match(
        [build_model(TrainSpec(), POINTS + 1, [1.0])], [pair])
    inner = pair.source_shares[2:]
    np.testing.assert_allclose(match(here, there, inner).points, matched.by_pair[pair][2:],
                               atol=1e-3)


@pytest.mark.parametrize("head", ["conv", "nn"])
def test_heads_learn_on_batches_of_several_shapes(points: FeatureStore, head: str) -> None:
    torch.manual_seed(0)
    options = {"conv_channels": 16} if head == "conv" else {}
    spec = TrainSpec(head={"name": head, **options}, steps=40, batch=4, lr=1e-2, hidden=8,
                     validate_steps=40, assigners=1)
    found = buckets(points, "noise", "good")
    model, task = build_model(spec, POINTS + 1), CorrespondenceTask(
        found, {"train": all_pairs(), "val": all_pairs()})
    batch = next(task.feed([all_pairs()[:4]]))
    assert len(batch.parts) > 1 and sorted(batch.places) == list(range(8))
    fit_trials([Trial("", spec, lambda: model, task, CPU)], task, True, FitSession(Silent()))
    assert judge(model, found, all_pairs()).values[SCORE] > 95


def test_a_batch_in_parts_is_a_batch() -> None:
    """In an assigner: the same logits and running means; normalised over all of its cells."""
    torch.manual_seed(0)
    assigner = ConvAssigner(5, 7, dropout=0.0).train()
    maps = torch.randn(6, 5, 8, 8)
    before = assigner(maps)
    bn: Any = assigner.body[2]
    mean, var = bn.running_mean.clone(), bn.running_var.clone()
    bn.reset_running_stats()
    torch.testing.assert_close(assigner(maps[:1], maps[1:3], maps[3:]), before)
    torch.testing.assert_close(bn.running_mean, mean)
    torch.testing.assert_close(bn.running_var, var)
    wide = torch.randn(2, 5, 4, 16)
    hidden = [assigner.body[:2](m) for m in (maps, wide)]
    cells = torch.cat([h.permute(0, 2, 3, 1).reshape(-1, 7) for h in hidden])
    normal = F.batch_norm(cells, None, None, bn.weight, bn.bias, training=True)
    pooled = torch.cat([n.view(len(h), -1, 7).mean(1) for h, n in zip(
        hidden, normal.split([6 * 64, 2 * 64]), strict=True)])
    torch.testing.assert_close(assigner(maps, wide), assigner.body[6](pooled)[:, 0])


def test_parts_come_back_in_the_batch_s_order() -> None:
    torch.manual_seed(0)
    model = build_model(TrainSpec(head={"name": "conv", "conv_channels": 4}), 5).eval()
    each = [Bucket(torch.randn(3, 5, *s), None) for s in ((4, 6), (6, 4), (4, 6), (5, 5))]
    output = model(stacks(each))
    for bucket, values, weights in zip(each, output.values, output.weights, strict=True):
        alone = model(Bucket(bucket.conv[None], None))
        torch.testing.assert_close(values, alone.values[0])
        torch.testing.assert_close(weights, alone.weights[0])


# ---------------------------------------------------------------------------- masks and classes


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> NativeMaps:
    data, rng = Pictures(), np.random.default_rng(0)

    def good(sides: dict[str, int], sample: str) -> dict[str, Any]:
        shape = nearest_shape(SHAPES, *data.size(sample))
        frame = Frame(shape, "pad")
        return {m: told(data.mask(sample), frame, s * shape.height // 128, data.label(sample))
                for m, s in sides.items()}

    def noise(sides: dict[str, int], sample: str) -> dict[str, Any]:
        return {m: rng.normal(size=v.shape) for m, v in good(sides, sample).items()}
    levels, beside = {"up0": 8, "up1": 16, "up2": 32}, {"attn1": 8, "attn2": 16}
    store = stored(tmp_path_factory.mktemp("dense") / "s.zarr",
                   {i: data.size(i) for i in IDS["train"]},
                   {"noise": partial(noise, levels), "good": partial(good, levels),
                    "attn": partial(noise, beside), "extra": partial(noise, levels)}, "int8")
    spec = NativeSpec((store["noise"].name, store["good"].name), "attn", None, ("extra",))
    rows = {name: row for row, name in enumerate(store.samples.ids)}
    return NativeMaps(store, spec, CPU, rows, data.size)


@pytest.mark.mostly_long("pixel-linear", "classifier")
@pytest.mark.parametrize("head", ["upernet", "pixel-mlp", "pixel-linear", "classifier"])
def test_dense_heads_learn_on_maps_of_several_shapes(dense: NativeMaps, head: str) -> None:
    assert [tuple(dense(i).levels[0].shape) for i in ("t0", "t1")] == [(2, 6, 10, 6), (2, 6, 6, 10)]
    kinds: dict[str, Any] = {"upernet": SegmentationTask, "classifier": ClassificationTask}
    task = kinds.get(head, partial(PixelTask, bound=2**28))(dense, Pictures(), IDS)
    spec = TrainSpec(head=head, **{**FAST[head], "gamma1": 0.0, "gamma2": 0.0})  # type: ignore[arg-type]
    trial = Trial(head, spec, partial(task.model, spec, [0, 1], None, True), task, CPU)
    fit_trials([trial], task, False, FitSession(Silent()))
    (scores,) = task.judge([trial.model], "train")
    assert not trial.failed and scores.select > 90


def test_labels_of_a_batch_are_of_one_size(dense: NativeMaps) -> None:
    task = SegmentationTask(dense, Pictures(), IDS)
    labels = [task.labels(i) for i in ("t0", "t1")]
    assert [tuple(found.shape) for found in labels] == [(128, 128)] * 2
    classes = set(np.unique(labels[1].numpy()))
    assert classes == {0, 1, 2, IGNORED}
