"""Segmentation, label-scarce segmentation and classification on features that tell the classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
import yaml
from test_train import CPU, DATASET, ELSEWHERE, recipe
from torch.utils._python_dispatch import TorchDispatchMode

from gate_cache.core.errors import GateCacheError, UserError
from gate_cache.core.geometry import Frame
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.core.size import Sides
from gate_cache.datasets.common.base import IGNORED, Sample, Split
from gate_cache.datasets.toy import ToyWorld
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.features.pixel_grid import centres, read_at
from gate_cache.learn.features.reservoir import Draw, fill, pixel_bytes, sample_pixels, share_out
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.mixing.vectors import RowNorm
from gate_cache.learn.modules.pixel_mlp import PixelMLPs, disagreement, entropy, vote, widths
from gate_cache.learn.modules.upernet import UPerNet
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.segmentation import SegmentationTask, mask_loss, to_pixels
from gate_cache.learn.tasks.whole_image import WholeImage
from gate_cache.manifest.load import Loaded, load, overridden
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.store.format.layout import blocks_of
from gate_cache.store.format.samples import NewSample
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import open_writer
from gate_cache.training.sweep import sweep
from gate_cache.training.train import TrainedRun, train
from gate_cache.workspace.workspace import Workspace

Array = npt.NDArray[Any]
CLASSES = ("left", "right", "sky")
SIDES = {"up0": 4, "up1": 8, "up2": 16}
IDS: dict[Split, list[str]] = {"train": [f"t{i}" for i in range(8)], "val": [], "test": ["t0"]}
CONV = {"noise": {"prompt": "noise"}, "good": {"prompt": "good"}}
ATTENTION = {"attn": {"prompt": "attention"}}
PROBES = ("linear", "knn", "pixel-linear", "pixel-knn")
HEADS = ("upernet", "pixel-mlp", "classifier", *PROBES)
FAST: dict[str, dict[str, Any]] = {
    "upernet": {"steps": 20, "batch": 8, "lr": 6e-3, "decoder_channels": 16, "hidden": 8},
    "pixel-mlp": {"steps": 100, "batch": 128, "lr": 1e-2, "hidden": 8, "members": 3},
    "classifier": {"steps": 40, "batch": 8, "lr": 3e-2, "hidden": 8},
    **{head: {"steps": 10, "batch": 8, "hidden": 8} for head in PROBES},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Pictures:
    """Eight pictures of different sizes; a third of each is one class, a border is ignored."""

    name, protocol, classes = "pictures", "all pixels", CLASSES

    def samples(self) -> Sequence[Sample]:
        return [Sample(i) for i in IDS["train"]]

    def sha256(self, sample_id: str) -> str:
        return "00" * 32

    def size(self, sample_id: str) -> tuple[int, int]:
        return (24, 48) if int(sample_id[1:]) % 2 else (48, 32)

    def image(self, sample_id: str) -> npt.NDArray[np.uint8]:
        return np.zeros((*self.size(sample_id), 3), np.uint8)

    def mask(self, sample_id: str) -> npt.NDArray[np.uint8]:
        height, width = self.size(sample_id)
        found = np.zeros((height, width), np.uint8)
        found[:, width // 2:] = 1
        found[:height // 4 * (1 + int(sample_id[1:]) % 3)] = 2
        found[:, :2] = IGNORED
        return found

    def label(self, sample_id: str) -> int:
        return int(sample_id[1:]) % 3

    def split_of(self, sample_id: str) -> Split:
        return "train"


def told(mask: Array, square: Frame, side: int, label: int) -> Array:
    """Maps whose channels say the class of each cell, and of the whole picture."""
    placed = square.place(*mask.shape).labels_to_frame(mask, IGNORED)
    step = square.size.height // side
    cells = placed[step // 2::step, step // 2::step]
    classes = range(len(CLASSES))
    return np.stack([*(2.0 * (cells == c) for c in classes),
                     *(np.full(cells.shape, float(label == c)) for c in classes)])


def write(path: Path, fit: str, data: Any, ids: Sequence[str], manifest: Loaded | None = None,
          labels: int = len(CLASSES), whole: Sides = 64) -> None:
    """A store in which ``good`` tells the classes, ``noise`` nothing, ``ddpm`` a bit."""
    square = Frame(whole, fit)  # type: ignore[arg-type]
    with open_writer(path, data.name, 8, 4) as writer:
        writer.append([NewSample(i, data.sha256(i), *data.size(i)) for i in ids])
        for name in ("noise", "good", "attn", "ddpm"):
            rng = np.random.default_rng(len(name))
            sides = {"attn0": 8, "attn1": 16} if name == "attn" else SIDES
            maps = []
            for i in ids:
                found = {m: told(data.mask(i), square, s, data.label(i)) for m, s in sides.items()}
                if name != "good":
                    found = {m: rng.normal(0, 1, v.shape) for m, v in found.items()}
                maps.append(found)
            shapes = {m: v.shape for m, v in maps[0].items()}
            kept = {"kind": "conv", "combo": name, "size": whole, "resize": fit}
            about: dict[str, Any] = {}
            if manifest and name != "ddpm":
                from gate_cache.diffusion.techniques.registry import sources

                kept = {**recipe(manifest, name, list(shapes), "w"), "resize": "squash"}
                about = {"source": sources(manifest.manifest.combos[name]),
                         "model": manifest.manifest.model.source}
            group = writer.require(name, kept, shapes, "float16", about)
            group.fit()
            for block in blocks_of(len(ids), 8):
                group.write(block, {m: np.stack([maps[r][m] for r in block]) for m in shapes})


@pytest.fixture(scope="module", params=[("squash", 64), ("pad", [48, 96])],
                ids=["squash", "pad-wide"])
def maps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeMaps:
    path = tmp_path_factory.mktemp("dense") / "pictures.zarr"
    fit, whole = request.param
    write(path, fit, Pictures(), IDS["train"], whole=whole)
    return native(path)


def native(path: Path, levels: int | None = None) -> NativeMaps:
    store = FeatureStore.open(path)
    groups = {v.label: v.name for v in store.views()}
    spec = NativeSpec((groups["noise"], groups["good"]), groups["attn"], None, (groups["ddpm"],),
                      levels)
    rows = {name: row for row, name in enumerate(store.samples.ids)}
    return NativeMaps(store, spec, CPU, rows, Pictures().size)


def task_of(head: str, maps: NativeMaps, bound: int = 2**28) -> Any:
    if head == "upernet":
        return SegmentationTask(maps, Pictures(), IDS)
    if head.startswith("pixel"):
        return PixelTask(maps, Pictures(), IDS, bound)
    return ClassificationTask(maps, Pictures(), IDS)


def trial(head: str, task: Any, name: str = "", **fields: Any) -> Trial:
    spec = TrainSpec(head=head, **{**FAST[head], "gamma1": 0.0, "gamma2": 0.0, **fields})  # type: ignore[arg-type]
    make = partial(task.model, spec, [0, 1], None, spec.attention is not False)
    return Trial(name or head, spec, make, task, CPU)


def fit(trials: list[Trial], task: Any, **more: Any) -> list[Trial]:
    fit_trials(trials, task, False, FitSession(Silent(), **more))
    return trials


def same(a: Trial, b: Trial) -> bool:
    return all(torch.equal(v, b.fitted.last[k]) for k, v in a.fitted.last.items())


# ------------------------------------------------------------------------------------ learning


@pytest.mark.mostly_long("squash-*")
@pytest.mark.parametrize("head", HEADS)
def test_eight_samples_are_learnt(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    (found,) = fit([trial(head, task)], task)
    (scores,) = task.judge([found.model], "train")
    assert not found.failed
    assert scores.select > {"upernet": 95, "pixel-linear": 95, "pixel-knn": 95}.get(head, 99)


SHORT: dict[str, dict[str, Any]] = {
    "upernet": {"steps": 3, "batch": 2, "validate_steps": 1},
    "pixel-mlp": {"steps": 3, "batch": 32, "validate_steps": 1},
    **{h: {"steps": 3, "batch": 4, "validate_steps": 1} for h in ("classifier", *PROBES)},
}


@pytest.mark.mostly_long("squash-*")
@pytest.mark.parametrize("head", HEADS)
def test_trials_together_equal_trials_alone(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    settings: list[dict[str, Any]] = [{}, {"gamma1": 0.5, "assigners": 3}, {"attention": False}]
    together = fit([trial(head, task, str(i), **SHORT[head], **s)
                    for i, s in enumerate(settings)], task)
    for i in (0, 2):
        (alone,) = fit([trial(head, task, **SHORT[head], **settings[i])], task)
        assert same(alone, together[i])
    assert not same(together[0], together[1])


@pytest.mark.parametrize("head", HEADS)
def test_a_resumed_training_ends_the_same(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    (whole,) = fit([trial(head, task, **SHORT[head])], task)
    first, states = trial(head, task, **SHORT[head]), []

    def keep(seen: int) -> None:
        states.append((seen, json.loads(json.dumps(seen)), first.state()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit([first], task, keep=keep)
    again = trial(head, task, **SHORT[head])
    again.load(states[0][2])
    fit([again], task, start=states[0][0])
    assert same(whole, again)


@pytest.mark.parametrize("head", HEADS)
def test_another_seed_gives_another_model(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    a, b = (fit([trial(head, task, seed=s, shuffle=0, **SHORT[head])], task)[0] for s in (0, 1))
    assert not same(a, b)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one_can_be_learnt(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    (found,) = fit([trial(head, task, steps=1, batch=1)], task)
    assert not found.failed


@pytest.mark.parametrize("head", HEADS)
def test_a_baseline_has_the_given_weights(head: str, maps: NativeMaps) -> None:
    task = task_of(head, maps)
    spec = TrainSpec(head=head, **FAST[head])  # type: ignore[arg-type]
    model = task.model(spec, [1], [1.0], False).eval()
    output = model(next(task.feed([list(task.items()[:2])])))
    assert (output.weights == 1).all() and output.weights.shape[-2:] == (1, 1)


# --------------------------------------------------------------------- original coordinates


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("size", [(48, 32), (24, 48), (64, 64)])
def test_logits_go_back_to_where_the_labels_came_from(fit: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((size[0] // 4, size[1] // 4), int))
    place = Frame((64, 96), fit).place(*size)  # type: ignore[arg-type]
    square = torch.from_numpy(place.labels_to_frame(mask, 0))
    logits = F.one_hot(square, 3).permute(2, 0, 1)[None].float()
    assert (to_pixels(logits, place, size) == mask).mean() > 0.98


def test_reading_at_pixels_is_bilinear_resizing() -> None:
    logits = torch.randn(2, 3, 8, 12)
    found = read_at(logits, Frame((64, 96), "squash").place(32, 48), centres((32, 48)))
    expected = F.interpolate(logits, (32, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected.flatten(2).permute(2, 0, 1), atol=1e-5, rtol=1e-5)


def test_padding_is_never_read() -> None:
    place = Frame(64, "pad").place(32, 64)
    logits = torch.full((1, 1, 8, 8), 9.0)
    place.window(8).cut(logits)[:] = 1
    assert (read_at(logits, place, centres((32, 64))) == 1).all()


def test_judging_counts_the_image_s_own_pixels(maps: NativeMaps) -> None:
    task = task_of("pixel-mlp", maps)
    model = task.model(TrainSpec(head="pixel-mlp", members=2), [1], [1.0], False)
    (scores,) = task.judge([model], "test")
    assert scores.details["images"] == 1 and 0 <= scores.details["members that disagree"] <= 50
    (found,) = task_of("upernet", maps).predict(
        [task_of("upernet", maps).model(TrainSpec(head="upernet", decoder_channels=8), [1], [1.0],
                                        False)], "t0")
    assert found[0].shape == Pictures().size("t0")


@pytest.mark.parametrize("head", ["pixel-mlp", "classifier"])
def test_attention_in_the_bucket_is_mixed_as_part_of_every_feature(
    head: str, maps: NativeMaps,
) -> None:
    """Against vectors to which it is concatenated by hand, without attention beside them."""
    task = task_of(head, maps)
    spec = TrainSpec(head=head, attention_in="bucket")  # type: ignore[arg-type]
    model = task.model(spec, [0, 1], None, True).eval()
    batch = next(task.feed([list(task.items()[:3])]))
    each = batch.attention[:, None].expand(-1, 2, -1)
    joined = torch.cat([batch.conv, each], 2)
    assert joined.shape[2] == maps.channels + maps.tokens
    found = model(batch)
    by_hand = type(model)(model.mixer, model.head, None, None)(
        batch._replace(conv=joined, attention=None))
    torch.testing.assert_close(found.values, by_hand.values)
    torch.testing.assert_close(found.weights, by_hand.weights)
    plain = task.model(spec, [0], [1.0], False)(batch)  # the single feature is read without it
    assert plain.values.isfinite().all()


@pytest.mark.parametrize("mixed", ["assigners", "fixed", "no attention", "inside", "fixed inside",
                                   "inside by channel"])
def test_whole_images_are_judged_as_pixel_by_pixel(maps: NativeMaps, mixed: str) -> None:
    """Linear layers before or after the interpolation: the same values, attention and extra too."""
    sample_id, size = "t0", Pictures().size("t0")
    task = task_of("pixel-mlp", maps)
    spec = TrainSpec(head="pixel-mlp", members=3, assigners=2,
                     weights="channel" if "channel" in mixed else "map",
                     attention_in="bucket" if "inside" in mixed else "head")
    model = task.model(spec, [1, 0], [0.3, 0.7] if "fixed" in mixed else None,
                       mixed != "no attention")
    for each in model.modules():  # as if it were trained
        if isinstance(each, RowNorm):
            assert each.running_mean is not None and each.running_var is not None
            each.running_mean.normal_(), each.running_var.uniform_(0.5, 2)
    model.eval()
    with torch.inference_mode():
        native = task.maps(sample_id)
        expected = model(task.maps.at(native, sample_id, centres(size)))
    image = WholeImage(task.maps, sample_id, size)
    half = size[0] * size[1] // 2 + 5
    found = [*image.outputs(model, slice(0, half)), *image.outputs(model, slice(half, None))]
    values = torch.cat([f.values for f in found], 1)
    weights = torch.cat([f.weights for f in found], 1)
    torch.testing.assert_close(values, expected.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weights.flatten(0, 1), expected.weights, atol=1e-5, rtol=1e-4)
    assert expected.values.std() > 1e-3


def test_ignored_labels_never_count() -> None:
    logits, labels = torch.randn(1, 3, 4, 4), torch.full((1, 8, 8), IGNORED)
    assert mask_loss(logits, labels) == 0
    labels[0, 0, 0] = 1
    one = mask_loss(logits, labels)
    resized = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(one, F.cross_entropy(resized[:, :, 0, 0], torch.tensor([1])))


def test_padding_is_ignored_in_the_square(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", "pad", Pictures(), IDS["train"])
    labels = task_of("upernet", native(tmp_path / "a.zarr")).labels("t1")
    assert labels.shape == (64, 64)
    assert (labels[:16] == IGNORED).all() and (labels[20:44, 8:] != IGNORED).all()


# ----------------------------------------------------------------------------------- reservoir


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
@pytest.mark.parametrize("pixels", [10, 1000, 10**6])
def test_the_bound_holds(maps: NativeMaps, sampling: Any, pixels: int) -> None:
    bound = pixels * pixel_bytes(maps)
    found = fill(maps, Pictures(), IDS["train"], Draw(bound, sampling))
    known = sum(int((Pictures().mask(i) != IGNORED).sum()) for i in IDS["train"])
    assert found.nbytes <= bound
    assert len(found) == min(pixels, known) if pixels != 1000 or sampling == "uniform" else True
    assert IGNORED not in found.labels.tolist()


def test_a_reservoir_holds_the_features_of_its_pixels(maps: NativeMaps) -> None:
    found = fill(maps, Pictures(), ["t1"], Draw(50 * pixel_bytes(maps)))
    chosen = sample_pixels(Pictures().mask("t1").ravel(), 50, "uniform", seed_of("t1"))
    expected = maps.at(maps("t1"), "t1", centres((24, 48), chosen))
    for a, b in zip(found(range(50)), expected, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)
    assert (found.labels.numpy() == Pictures().mask("t1").ravel()[chosen]).all()


def seed_of(sample_id: str) -> int:
    from gate_cache.learn.features import reservoir

    return reservoir._seed(sample_id)


def test_balanced_pixels_are_as_many_of_each_class() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [2] * 3 + [IGNORED] * 50)
    chosen = labels[sample_pixels(labels, 23, "balanced", 0)]
    assert np.bincount(chosen).tolist() == [10, 10, 3]


@pytest.mark.parametrize(("sizes", "total", "expected"), [
    ([5, 5], 100, [5, 5]), ([1, 10, 10], 11, [1, 5, 5]), ([], 3, []), ([4, 0], 3, [3, 0])])
def test_shares(sizes: list[int], total: int, expected: list[int]) -> None:
    assert share_out(sizes, total) == expected


# --------------------------------------------------------------------------------------- heads


def test_votes() -> None:
    sure = torch.eye(3)[torch.tensor([[0, 1], [0, 2], [1, 2]])] * 50  # (3 members, 2 pixels, 3)
    assert vote(sure).tolist() == [0, 2]
    torch.testing.assert_close(disagreement(sure), torch.tensor([1 / 3, 1 / 3]))
    assert entropy(sure)[0].item() == pytest.approx(0.6365, abs=1e-3)


def test_members_are_trained_as_if_alone() -> None:
    """Parallel layers are what separate ones compute."""
    torch.manual_seed(0)
    head = PixelMLPs(6, 0, 3, 2).train()
    x = torch.randn(2, 16, 1, 6)
    alone = []
    for m in range(2):
        h = x[m, :, 0]
        for linear in range(2):
            layer: Any = head.layers[2 * linear]
            h = F.batch_norm((h @ layer.weight[m] + layer.bias[m]).relu(), None, None,
                             training=True)
        last: Any = head.layers[4]
        alone.append(h @ last.weight[m] + last.bias[m])
    torch.testing.assert_close(head(x, None, None), torch.stack(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("classes", "expected"), [(21, (128, 32)), (29, (128, 32)),
                                                   (30, (256, 128)), (34, (256, 128))])
def test_widths(classes: int, expected: tuple[int, int]) -> None:
    assert widths(classes) == expected


def test_upernet_sees_attention_at_its_levels(maps: NativeMaps) -> None:
    task = task_of("upernet", maps)
    batch, wide = next(task.feed([["t0", "t1"]])), maps.frame.size.width // maps.frame.size.height
    assert [a if a is None else tuple(a.shape[1:]) for a in batch.attention] == [
        None, (6, 8, 8 * wide), (6, 16, 16 * wide)]
    assert batch.joined.shape == (2, 2, 18, 16, 16 * wide)
    net = UPerNet([6, 6, 6], 3, 8, [0, 6, 6])
    logits = net([x[:, 0] for x in batch.levels], batch.attention).logits
    assert logits.shape == (2, 3, 16, 16 * wide)


# -------------------------------------------------------------------------------------- wiring


def manifest(folder: Path, name: str = "toy", dataset: dict[str, Any] | None = None,
             **fields: Any) -> Loaded:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({
        "dataset": dataset or SMALL, "model": ELSEWHERE, "conv": CONV, "attention": ATTENTION,
        "store": {"path": "toy.zarr"}, "train": overridden({"hidden": 8}, fields)},
        sort_keys=False))
    return load(path)


SMALL = {**DATASET, "train": 8, "val": 8, "test": 8}
WHOLE = ("classifier", "linear", "knn")
WIRED: dict[str, dict[str, Any]] = {
    "upernet": {"steps": 2, "batch": 2, "decoder_channels": 8},
    "pixel-mlp": {"steps": 2, "batch": 32, "members": 2, "reservoir_mb": 1, "extra": ["ddpm"]},
    "classifier": {"steps": 20, "batch": 8, "lr": 3e-2},
    **{head: {"steps": 2, "batch": 8} for head in PROBES},
}


@dataclass
class Toy:
    """The masks and labels of toyworld's pictures as `Pictures` has them."""

    world: ToyWorld
    name: str = "toyworld"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    def mask(self, sample_id: str) -> Array:
        return self.world.mask(sample_id) % len(CLASSES)

    def label(self, sample_id: str) -> int:
        return self.world.label(sample_id) % len(CLASSES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete store of toyworld, which no test writes to."""
    folder = tmp_path_factory.mktemp("wired")
    counts: dict[Split, int] = {"train": 8, "val": 8, "test": 8}
    world = ToyWorld(counts)
    write(folder / "stores" / "toy.zarr", "squash", Toy(world), [s.id for s in world.samples()],
          manifest(folder))
    return folder


def trained(home: Path, to: Path, head: str, **fields: Any) -> TrainedRun:
    loaded = manifest(to, **{"head": head, **WIRED[head], **fields})
    return train(Workspace(loaded, Roots(stores=home / "stores", runs=to), "cpu"), run=to / "run")


@pytest.mark.mostly_long("upernet", "classifier", "linear", "knn")
@pytest.mark.parametrize("head", HEADS)
def test_train_compares_single_uniform_and_gate(head: str, home: Path, tmp_path: Path) -> None:
    found = trained(home, tmp_path, head, baseline="noise")
    metrics = json.loads((found.run / "metrics.json").read_text())
    (table,) = metrics["tables"]
    floors = ["majority class", "commonest class at each place"]
    assert [r["method"] for r in table["rows"]] == [
        *floors[:1 if head in WHOLE else 2], "single feature: noise",
        "all features, uniform weights + attention", "GATE: 2 assigners + attention"]
    metric = "accuracy" if head in WHOLE else "mIoU"
    for row in table["rows"][-3:]:  # draws without a class that a floor misses are above it
        low, high = row["details"]["interval"][metric]
        assert low <= row[metric] <= high
    assert set(table["rows"][-1]["details"]["weights"]["overlap"]) == {"none", "top1", "top2"}
    assert {p.name for p in found.run.glob("*.safetensors")} == {
        f"{n}-{w}.safetensors" for n in ("single", "uniform", "gate") for w in ("best", "last")}
    assert found.splits["test"] == {"images": 8}


@pytest.mark.mostly_long("upernet", "classifier", "linear", "knn")
@pytest.mark.parametrize("head", HEADS)
def test_sweep_has_what_train_has(head: str, home: Path, tmp_path: Path) -> None:
    loaded = manifest(tmp_path, head=head, **WIRED[head])
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"grid": {"seed": [0, 1]}}))
    found = sweep(Workspace(loaded, Roots(stores=home / "stores", runs=tmp_path), "cpu"),
                  load_sweep(tmp_path / "s.yaml", loaded), tmp_path / "out")
    assert [r.name for r in found.rows][-2:] == ["seed=0", "seed=1"]
    floors = [r.method.role for r in found.rows if not r.trained]
    assert floors == (["majority"] if head in WHOLE else ["majority", "prior"])
    assert len(found.rows) == 6 + len(floors) and not found.failed
    assert found.select == ("accuracy" if head in WHOLE else "mIoU")
    (tmp_path / "one").mkdir()
    alone = trained(home, tmp_path / "one", head, seed=1)
    rows: Any = alone.tables[0].rows
    swept = {r.name: r.test for r in found.rows}
    assert swept["seed=1"] == rows[-1].scores.values
    assert swept[f"head {head}, single feature: noise,seed=1"] == rows[-3].scores.values
    assert swept["majority class"] == rows[0].scores.values


def test_the_report_shows_intervals(home: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    from gate_cache.report.terminal.tables import show_trained

    show_trained(trained(home, tmp_path, "classifier"))
    text = capsys.readouterr().out
    assert "class accuracy" in text and "GATE: 2 assigners + attention" in text and "–" in text


@pytest.mark.parametrize(("head", "text"), [("upernet", "has no masks, and head 'upernet'"),
                                            ("classifier", "has no classes of images")])
def test_a_data_set_that_lacks_what_a_head_needs_is_refused(
        home: Path, tmp_path: Path, head: str, text: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Bare:
        name: str = "bare"

    monkeypatch.setattr("gate_cache.training.inputs.open_dataset", lambda *_: Bare())
    with pytest.raises(GateCacheError, match=text):
        trained(home, tmp_path, head)


def test_an_extra_combo_that_is_nowhere_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.head\.extra: 'gone' is neither"):
        trained(home, tmp_path, "pixel-mlp", extra=["gone"])


def test_extra_is_for_pixels_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nn' has no such option; it is one of"):
        manifest(tmp_path, head="nn", extra=["ddpm"])


def test_defaults_of_a_head_count_where_nothing_is_said() -> None:
    spec = TrainSpec(head="pixel-mlp", lr=0.5)
    assert (spec.batch, spec.lr, spec.weight_decay) == (64, 0.5, 0)
    assert TrainSpec().batch == 4 and "batch" not in spec.model_fields_set


class Waits(TorchDispatchMode):
    """Counts what waits for a device: numbers read from it, positions counted there."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense,
                                              torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("head", HEADS)
def test_no_step_waits_for_the_device(head: str, maps: NativeMaps,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(head, maps)
    found = trial(head, task)
    items = list(task.items()[:2])
    inputs = next(task.feed([items]))
    monkeypatch.setattr(found._optimiser, "step", lambda: None)  # counts its steps on this side
    with Waits() as waits:
        found.step(inputs, items)
    assert waits.count == 0
    with Waits() as waits:
        found.look()
    assert waits.count == 1


def test_a_loss_that_is_not_finite_ends_that_trial_alone(maps: NativeMaps) -> None:
    task = task_of("classifier", maps)
    wild, tame = trial("classifier", task, "wild"), trial("classifier", task, "tame")
    with torch.no_grad():
        next(wild.model.parameters()).fill_(math.nan)
    fit([wild, tame], task)
    assert "not finite any more" in wild.failed and not tame.failed
    assert all(torch.isfinite(v).all() for v in tame.fitted.last.values())
