"""Probes against scikit-learn and calculations by hand; what ``probe`` ranks; schedules."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from test_tasks import (
    ATTENTION,
    CONV,
    FAST,
    IDS,
    Pictures,
    fit,
    home,
    manifest,
    maps,
    one_thread,
    same,
    task_of,
    trial,
    write,
)
from test_train import ELSEWHERE, build
from test_train import manifest as points_manifest

from gate_cache.analysis.probe import Probed, ProbeOptions, ProbeTable, _ranked, probe
from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.bucket import nbytes
from gate_cache.learn.features.feed import Feed
from gate_cache.learn.features.native import NativeMaps
from gate_cache.learn.features.pixel_grid import centres
from gate_cache.learn.fit.order import share_of_lr
from gate_cache.learn.fit.trials import solve
from gate_cache.learn.metrics.pck import SELECT
from gate_cache.learn.metrics.pck import share as percent
from gate_cache.learn.mixing.vectors import Reading
from gate_cache.learn.modules.probes import (
    NEIGHBOURS,
    STRENGTH,
    TEMPERATURE,
    TOLERANCE,
    KNNProbe,
    LinearProbe,
)
from gate_cache.learn.tasks.matching import judge
from gate_cache.learn.tasks.whole_image import WholeImage
from gate_cache.manifest.load import load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.manifest.train_spec import OF_A_RUN, TrainSpec
from gate_cache.report.html.write import write_report
from gate_cache.report.terminal.trials import show_probed
from gate_cache.training.evaluate import evaluate
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.training.sweep import sweep
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

__all__ = ["home", "maps", "one_thread"]  # fixtures


def blobs(classes: int = 4, count: int = 120, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that overlap, in channels of very different scales."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(count) % classes
    x = torch.randn(classes, width, generator=g)[y] + torch.randn(count, width, generator=g)
    return x * torch.logspace(-2, 2, width) + 5, y


def scaled(x: torch.Tensor) -> Any:
    return StandardScaler().fit_transform(x.double().numpy())


# --------------------------------------------------------------------------------------- solved


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_is_scikit_learns_regression_on_standardised_features(classes: int) -> None:
    x, y = blobs(classes)
    head = LinearProbe(12, classes)
    head.solve(x, y)
    model = LogisticRegression(C=STRENGTH / 12, tol=1e-8, max_iter=5000).fit(scaled(x), y)
    np.testing.assert_allclose(head.logits(x).softmax(1).detach().numpy(),
                               model.predict_proba(scaled(x)), atol=2e-3)


def test_linear_is_at_the_optimum() -> None:
    """The gradient of Σ cross-entropy + D / C · ‖W‖² / 2, written out here, vanishes."""
    x, y = blobs()
    head = LinearProbe(12, 4)
    head.solve(x, y)
    z = torch.from_numpy(scaled(x))
    weight, bias = (p.detach().double().requires_grad_() for p in head.linear.parameters())

    def gradient() -> float:
        loss = F.cross_entropy(z @ weight.T + bias, y, reduction="sum") \
            + 12 / STRENGTH * weight.square().sum() / 2
        return float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (weight, bias))]
                               ).norm()) / len(y)
    solved = gradient()
    with torch.no_grad():
        weight[0, 0] += 0.05
    assert solved <= TOLERANCE * math.sqrt(4 * 13) < gradient() / 3


def test_linear_with_classes_that_are_not_there() -> None:
    x, y = blobs()
    head = LinearProbe(12, 6)
    head.solve(x, y + 1)
    found = head.logits(x).argmax(1)
    assert set(found.tolist()) == {1, 2, 3, 4} and (found == y + 1).float().mean() > 0.9
    head.solve(x, torch.full_like(y, 3))
    assert (head.logits(x).argmax(1) == 3).all()


def test_knn_is_scikit_learns_with_its_weights() -> None:
    x, y = blobs()
    head = KNNProbe(12, 4)
    head.solve(x[:100], y[:100])
    scaler = StandardScaler().fit(x[:100].double().numpy())
    z, query = (scaler.transform(part.double().numpy()) for part in (x[:100], x[100:]))
    model = KNeighborsClassifier(
        NEIGHBOURS, metric="cosine", weights=lambda d: np.exp((1 - d) / TEMPERATURE))
    model.fit(z, y[:100])
    found = head.eval().logits(x[100:]).softmax(1).numpy()
    np.testing.assert_allclose(found, model.predict_proba(query), atol=1e-4)


def test_knn_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache.learn.modules import probes

    monkeypatch.setattr(probes, "NEIGHBOURS", 2)
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # standardised as it is
    head = KNNProbe(2, 3)
    head.solve(x, torch.tensor([0, 1, 2, 2]))
    found = head.eval().logits(torch.tensor([[2.0, 1.0]])).exp()[0]
    near, next_ = 3 / math.sqrt(10), 1 / math.sqrt(10)  # cosines to (1, 1) and to (1, -1)
    share = 1 / (1 + math.exp((next_ - near) / TEMPERATURE))
    torch.testing.assert_close(found, torch.tensor([share, 1 - share, 0.0]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [LinearProbe, KNNProbe])
def test_solving_again_gives_the_same_bytes(kind: Any) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        head = kind(12, 4)
        head.solve(*blobs())
        states.append({k: v.numpy().tobytes() for k, v in head.state_dict().items()})
    assert states[0] == states[1]


def test_a_bank_is_loaded_whatever_its_size() -> None:
    x, y = blobs()
    head, other = KNNProbe(12, 4), KNNProbe(12, 4)
    head.solve(x, y)
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.eval().logits(x), other.eval().logits(x))


# ----------------------------------------------------------------------------------- of images


def test_maps_are_averaged_to_a_grid(maps: NativeMaps,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "spec", replace(maps.spec, pool=2))
    pooled = maps._pooled
    found = Feed(pooled._reader, pooled._row, pooled._make, nbytes, maps.device, 0)("t1").conv[0, 0]
    place, channel = maps.place("t1"), maps("t1").levels[2][0, 0]
    cut = place.window(channel.shape).cut(channel)
    h, w = cut.shape
    first = 4 * sum(maps.level_channels[:2])
    expected = [cut[:h // 2, :w // 2].mean(), cut[:h // 2, w // 2:].mean(),
                cut[h // 2:, :w // 2].mean(), cut[h // 2:, w // 2:].mean()]
    torch.testing.assert_close(found[first:first + 4], torch.stack(expected))


def test_a_probe_of_the_finest_map_is_the_same_pixel_by_pixel(maps: NativeMaps) -> None:
    """A 1×1 convolution and bilinear interpolation may change places."""
    task = task_of("pixel-linear", maps)
    model = Reading(LinearProbe(6, 3, members=True), [1], slice(12, 18))
    solve(model, task)
    with torch.inference_mode():
        expected = model(maps.at(maps("t0"), "t0", centres(Pictures().size("t0"))))
    (found,) = WholeImage(maps, "t0", Pictures().size("t0")).outputs(model, slice(None))
    torch.testing.assert_close(found.values, expected.values, atol=2e-3, rtol=1e-3)
    assert (found.values.argmax(-1) == expected.values.argmax(-1)).float().mean() > 0.999


def test_votes_of_pixels_are_shares(maps: NativeMaps) -> None:
    task = task_of("pixel-knn", maps)
    model = Reading(KNNProbe(6, 3, members=True), [1], slice(12, 18)).eval()
    solve(model, task)
    (found,) = WholeImage(maps, "t0", Pictures().size("t0")).outputs(model, slice(None))
    torch.testing.assert_close(found.values.exp().sum(-1), torch.ones(1, found.values.shape[1]))


# ------------------------------------------------------------------------------------ schedules


def test_warm_up_and_cosine_by_hand() -> None:
    spec = TrainSpec(steps=10, warmup=0.2, schedule="cosine")
    found = [share_of_lr(spec, i) for i in (0, 1, 2, 6, 10)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])
    assert [share_of_lr(TrainSpec(steps=4, warmup=0.25), i) for i in (0, 1, 3)] == [0.5, 1, 1]


def test_a_training_follows_its_schedule_and_resumes_in_it(maps: NativeMaps) -> None:
    task = task_of("classifier", maps)
    fields: dict[str, Any] = {"steps": 6, "validate_steps": 2, "schedule": "cosine", "warmup": 0.2}
    (whole,) = fit([trial("classifier", task, **fields)], task)
    (constant,) = fit([trial("classifier", task, **{**fields, "schedule": "constant"})], task)
    assert not same(whole, constant)
    again = trial("classifier", task, **fields)
    first = trial("classifier", task, **fields)

    def stop(seen: int) -> None:
        again.load(first.state())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit([first], task, keep=stop)
    fit([again], task, start=2 * FAST["classifier"]["batch"])
    assert same(whole, again)


def test_runs_from_before_keep_their_schedule_and_their_means() -> None:
    old = TrainSpec.model_validate({"head": "classifier"}, context=OF_A_RUN)
    assert (old.schedule, old.warmup, old.head.pool) == ("constant", 0, 1)  # type: ignore[attr-defined]
    assert TrainSpec(head="classifier").head.pool == 2  # type: ignore[arg-type, attr-defined]


# ----------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def probed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Probed:
    return probe(work(home, tmp_path_factory.mktemp("probed")))


def work(home: Path, to: Path) -> Workspace:
    return Workspace(manifest(to), Roots(stores=home / "stores"), "cpu")


def table(found: Probed, task: str) -> ProbeTable:
    return next(t for t in found.tables if t.task == task)


def test_every_task_ranks_what_knows_first(probed: Probed) -> None:
    assert [t.task for t in probed.tables] == ["segmentation", "classification"]
    for found in probed.tables:
        best, worst = found.rows[0], found.rows[-1]
        assert "good" in best.combos and best.behind == 0 and best.equal
        assert "good" not in worst.combos and worst.behind_interval.low > 0 and not worst.equal


def test_features_are_combos_maps_and_their_mean(probed: Probed) -> None:
    levels = [("up0", "up1", "up2"), ("up0",), ("up1",), ("up2",)]
    expected = {(c, m) for c in (("noise",), ("good",), ("noise", "good")) for m in levels}
    expected |= {(("attn",), m) for m in (("attn0", "attn1"), ("attn0",), ("attn1",))}
    for found in probed.tables:
        assert {(r.combos, r.maps) for r in found.rows} == expected
        values = [r.value for r in found.rows]
        assert values == sorted(values, reverse=True)
        for r in found.rows:
            assert r.behind == pytest.approx(values[0] - r.value)
            assert r.interval.low <= r.interval.high
            assert r.behind_interval.low <= r.behind_interval.high


def test_a_row_is_what_scikit_learn_finds(probed: Probed, home: Path, tmp_path: Path) -> None:
    """Accuracy of one feature, from the store to the figure, by the library alone."""
    loaded = work(home, tmp_path)
    store, data = loaded.store(), loaded.dataset()
    view = next(v for v in store.views() if v.label == "noise")
    x: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    y: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, name in enumerate(store.samples.ids):
        split = data.split_of(name)
        level = torch.from_numpy(view["up1"][row]).float()
        x[split].append(F.adaptive_avg_pool2d(level, 2).ravel())
        y[split].append(data.label(name))
    scaler = StandardScaler().fit(torch.stack(x["train"]).double())
    a, b = (scaler.transform(torch.stack(x[s]).double()) for s in ("train", "val"))
    model = LogisticRegression(C=STRENGTH / a.shape[1], max_iter=1000).fit(a, y["train"])
    (found,) = (r for r in table(probed, "classification").rows
                if r.combos == ("noise",) and r.maps == ("up1",))
    assert found.value == pytest.approx(100 * model.score(b, y["val"]))


@pytest.mark.mostly_long("linear")
@pytest.mark.parametrize("by", ["linear", "knn"])
def test_the_same_twice(by: Any, home: Path, tmp_path: Path) -> None:
    a, b = (probe(work(home, tmp_path), ProbeOptions(by, "test", 1, 3)) for _ in range(2))
    assert replace(a, seconds=0) == replace(b, seconds=0)
    assert [t.judged for t in a.tables] == [3, 3] and a.split == "test"


def test_the_table_fits_80_columns(probed: Probed, capsys: pytest.CaptureFixture[str]) -> None:
    show_probed(probed)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "mean of 2" in text and "behind the best" in text


@pytest.mark.long
def test_own_masks(tmp_path: Path) -> None:
    """Pictures and masks of a user, in a folder: features are ranked by them, linear and k-NN."""
    pixels = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for folder in ("images", "masks"):
            (tmp_path / "own" / folder / split).mkdir(parents=True)
        for i in IDS["train"]:
            mask = Pictures().mask(i)
            Image.fromarray(pixels.integers(0, 255, (*mask.shape, 3), np.uint8)).save(
                tmp_path / "own" / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(tmp_path / "own" / "masks" / split / f"{i}.png")
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({
        "dataset": {"name": "masks", "root": "own", "classes": ["left", "right", "sky"]},
        "model": ELSEWHERE, "conv": CONV, "attention": ATTENTION, "store": {"path": "own.zarr"}}))
    roots = Roots(data=tmp_path, stores=tmp_path / "stores")
    opened = Workspace(load(path), roots, "cpu")
    data: Any = open_dataset(opened.manifest.dataset, roots)
    data.label = lambda _: 0  # for `write` alone
    write(tmp_path / "stores" / "own.zarr", "squash", data, [s.id for s in data.samples()],
          opened.loaded)
    for by in ("linear", "knn"):
        (found,) = probe(opened, ProbeOptions(by)).tables  # type: ignore[arg-type]
        assert found.task == "segmentation" and found.judged == 8 and found.solved == 8
        assert "good" in found.rows[0].combos and found.rows[0].value > 80 > found.rows[-1].value
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump({
        "train": {"steps": 1, "validate_steps": 1, "batch": 2, "hidden": 4, "attention": False},
        "grid": {"head": ["pixel-linear", {"name": "upernet", "decoder_channels": 8}]}}))
    swept = sweep(opened, load_sweep(tmp_path / "heads.yaml", opened.loaded), tmp_path / "heads")
    page = write_report(swept.folder, roots).read_text()
    assert not swept.failed and "pixel-linear" in page and "upernet" in page
    best = max(swept.rows, key=lambda r: r.test["mIoU"])
    assert best.method.head == "pixel-linear" and best.test["mIoU"] > 80


def test_where_nothing_counts_no_feature_is_ranked() -> None:
    with pytest.raises(UserError, match="nothing that is evaluated counts"):
        _ranked([], [np.zeros((3, 2)), np.zeros((3, 2))], percent)


@pytest.mark.long
def test_points_are_ranked_as_training_judges_its_single_features(tmp_path: Path) -> None:
    loaded = points_manifest(tmp_path, attention=False)
    build(tmp_path / "stores", loaded)
    opened = Workspace(loaded, Roots(stores=tmp_path / "stores"), "cpu")
    found = table(probe(opened), "correspondence")
    study = open_any(opened)
    assert isinstance(study, TrainingInputs)
    whole = {r.combos: r for r in found.rows if len(r.maps) == 2}
    assert whole["noise-0", "good", "noise-1"].value < whole["good",].value
    for name in study.combos:
        expected = judge(study.single(study.spec, name), study.features, study.pairs["val"])
        assert whole[name,].value == pytest.approx(expected.values[SELECT])


def test_nothing_to_judge_on_is_told(home: Path, tmp_path: Path) -> None:
    loaded = manifest(tmp_path, dataset={"name": "toyworld", "train": 8, "val": 0, "test": 8})
    with pytest.raises(UserError, match="split 'val' has no images; pass --split test"):
        probe(Workspace(loaded, Roots(stores=home / "stores"), "cpu"))


@pytest.mark.parametrize("head", ["linear", "pixel-knn"])
def test_a_solved_head_is_evaluated_again(head: str, home: Path, tmp_path: Path) -> None:
    loaded = manifest(tmp_path, head=head, steps=2, batch=8)
    opened = Workspace(loaded, Roots(stores=home / "stores", runs=tmp_path), "cpu")
    first = train(opened, run=tmp_path / "run")
    rows = json.loads((first.run / "metrics.json").read_text())["tables"][0]["rows"]
    again = evaluate(opened, first.run)
    assert again.values == {k: rows[-1][k] for k in again.values}
