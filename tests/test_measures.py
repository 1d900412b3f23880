"""Judged beside GATE, and as the peers judge: floors, verdicts, channels, the released head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_cli import gate  # noqa: F401
from test_own_datasets import masks
from test_report import plain, record_of, result
from test_tasks import home, one_thread, trained  # noqa: F401
from test_train import CHANNELS, CONV, finished, manifest, root, run  # noqa: F401

from gate_cache.analysis.describe import of_combo
from gate_cache.core.geometry import Frame
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import IGNORED, Split
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.bucket import standardised
from gate_cache.learn.features.reservoir import without_specks
from gate_cache.learn.features.similarity import match
from gate_cache.learn.metrics.intervals import Interval
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import BROADER, SELECTED, metric_name
from gate_cache.learn.modules.matching import ReleasedConvHead
from gate_cache.learn.tasks.correspondence import CorrespondenceLoss
from gate_cache.learn.tasks.floors import label_floor, mask_floors
from gate_cache.manifest.heads import Sizes, head_of, parse_head
from gate_cache.manifest.load import load
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.report.html.compare import verdict
from gate_cache.report.html.record import Result, read_record
from gate_cache.report.html.results import findings, lead
from gate_cache.report.html.write import write_report
from gate_cache.training.evaluate import evaluate
from gate_cache.training.hints import hints
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

SHORT: dict[str, Any] = {"steps": 3, "batch": 2, "validate_steps": 1}
STANDARD = {"name": "nn", "standardise": "image"}
RELEASED = {"steps": 2, "batch": 1, "validate_steps": 1, "hidden": 4}


# --------------------------------------------------------------------------------------- floors


class Masks:
    """Four training pictures and one of test, of 2 × 2 pixels and 4 × 4."""

    classes = ("a", "b", "c")
    drawn: ClassVar[dict[str, Any]] = {
        "1": [[0, 1], [2, 2]], "2": [[0, 1], [2, 2]], "3": [[1, 1], [2, 2]],
        "4": [[0, IGNORED], [IGNORED, 2]], "t": np.kron([[0, 1], [1, 2]], np.ones((2, 2)))}

    def mask(self, sample_id: str) -> Any:
        return np.array(self.drawn[sample_id], np.uint8)


IDS: dict[Split, list[str]] = {"train": ["1", "2", "3", "4"], "val": [], "test": ["t"]}


def test_floors_of_masks_are_the_commonest_classes() -> None:
    """Class 2 is commonest (7 of 14 pixels); by place it is 0 and 1 above, 2 and 2 below.

    The test picture has 4 pixels of 0, 8 of 1 and 4 of 2.
    """
    found = mask_floors(Masks(), IDS)  # type: ignore[arg-type]
    majority, prior = found["majority"].values, found["prior"].values
    assert majority["aAcc"] == 25 and prior["aAcc"] == 75
    assert majority["mIoU"] == pytest.approx(100 * (0 + 0 + 4 / 16) / 3)
    assert prior["mIoU"] == pytest.approx(100 * (4 / 4 + 4 / 8 + 4 / 8) / 3)
    assert found["prior"].items is not None and found["prior"].details["interval"].keys() == {
        "mIoU", "aAcc", "mAcc"}


def test_the_floor_of_classes_is_the_commonest_one() -> None:
    labels = {"1": 1, "2": 1, "3": 0, "x": 0, "y": 1, "z": 1, "w": 2}
    ids: dict[Split, list[str]] = {"train": ["1", "2", "3"], "val": [], "test": [*"xyzw"]}
    (found,) = label_floor(labels, ["a", "b", "c"], ids).values()
    assert found.values == {"accuracy": 50, "class accuracy": pytest.approx(100 / 3)}
    assert found.items is not None and found.items.more["confidence"] == pytest.approx([2 / 3] * 4)


def test_specks_are_left_out_of_training() -> None:
    mask = np.array([[0, 0, 0, 1], [0, 2, 2, IGNORED]], np.uint8)
    assert without_specks(mask, 2).tolist() == [[0, 0, 0, 255], [0, 2, 2, 255]]
    assert (without_specks(mask, 0) == mask).all()


@pytest.mark.long
def test_own_masks_give_floors_and_upernet_in_one_report(tmp_path: Path) -> None:
    """From pictures to the page: the rows, and a verdict that names the one that wins."""
    masks(tmp_path / "data", count=8)
    (tmp_path / "own.yaml").write_text(
        "dataset: {name: masks, root: beach}\nmodel: {source: tiny, size: 32}\n"
        "conv: {plain: {prompt: a photo}}\n"
        "train: {head: {name: upernet, decoder_channels: 8}, steps: 2, batch: 2, hidden: 4}\n")
    roots = Roots(*(tmp_path / n for n in ("data", "models", "stores", "runs")))
    work = Workspace(load(tmp_path / "own.yaml"), roots, "cpu")
    extract(work)
    found = train(work, tmp_path / "runs" / "one")
    rows = json.loads((found.run / "metrics.json").read_text())["tables"][0]["rows"]
    assert [(r["role"], r["trained"]) for r in rows] == [
        ("majority", False), ("prior", False), ("baseline", True), ("uniform", True),
        ("gate", True)]
    page = plain(write_report(found.run, roots).read_text())
    assert "majority class" in page and "commonest class at each place" in page
    told = verdict(read_record(found.run))
    best = max(rows, key=lambda r: r["mIoU"])
    assert told and told.rival
    assert best["mIoU"] == max(told.rival.mean(), told.gate.mean())


# ------------------------------------------------------------------------------------- verdicts


def counted(name: str, right: Sequence[int], role: Any) -> Result:
    """A row that gets so many points of 10 of each pair right."""
    units = np.array([[n, 10] for n in right])
    made = result(name, 10 * float(np.mean(right)), 50, role)
    if role == "uniform":
        made = replace(made, method=replace(made.method, attention=True))
    made.__dict__["items"] = Items(np.array([["a", str(i)] for i in range(len(right))]),
                                   np.array(right) * 10.0, units)
    return made


@pytest.mark.parametrize(("gate_right", "other", "role", "words"), [
    ([9] * 30, [4] * 30, "baseline", "GATE wins. GATE 90.0 %, single feature: x 40.0 %"),
    ([4] * 30, [9] * 30, "baseline", "Single feature: x wins. GATE 40.0 %"),
    ([4] * 30, [9] * 30, "floor", "Copy the position wins. GATE 40.0 %"),
    ([4] * 30, [9] * 30, "uniform", "Uniform weights with attention wins. GATE 40.0 %"),
    ([5, 6] * 15, [6, 5] * 15, "uniform", "Undecided: no row is clearly the best."),
])
def test_the_verdict_names_the_row_that_wins(gate_right: list[int], other: list[int], role: Any,
                                             words: str) -> None:
    record = record_of([counted("g", gate_right, "gate"), counted("o", other, role)])
    found = verdict(record)
    assert found and found.rival and found.against
    told = plain("<body>" + str(lead(record, found))).replace("\u00a0", " ")
    assert told.strip().startswith(words)
    assert found.against.points == pytest.approx(10 * (np.mean(gate_right) - np.mean(other)))


def test_a_gain_over_the_single_feature_is_named_where_uniform_weights_have_it_too() -> None:
    rows = [counted("g", [5, 6] * 15, "gate"), counted("b", [2, 3] * 15, "baseline"),
            counted("u", [6, 5] * 15, "uniform")]
    rows[0] = replace(rows[0], method=replace(rows[0].method, attention=True))
    rows[0].__dict__["items"] = counted("g", [5, 6] * 15, "gate").items
    found = verdict(record_of(rows))
    assert found
    lines = findings(found)
    assert lines[0].startswith(
        "GATE beats the single feature; not decided against uniform weights with")
    assert lines[1].startswith("+30.0 points over the single feature")
    assert lines[2].endswith(": no clear difference")


def test_without_items_the_highest_row_is_named() -> None:
    record = record_of([result("g", 50, 10), result("o", 60, role="floor")])
    told = plain("<body>" + str(lead(record, verdict(record))))
    assert told.strip().startswith("Highest: copy the position.")


def test_where_the_radius_is_less_than_a_cell_the_image_leads(root: Path,  # noqa: F811
                                                              tmp_path: Path) -> None:
    lines: list[str] = []

    class Heard(Silent):
        def say(self, line: str) -> None:
            lines.append(line)

    loaded = manifest(tmp_path, head={"name": "nn", "resolution": 8}, **SHORT)
    work = Workspace(loaded, Roots(stores=root / "stores", runs=tmp_path), "cpu", Heard())
    found = train(work, tmp_path / "run").run
    study = open_any(work)
    assert isinstance(study, TrainingInputs)
    cells = json.loads((found / "config.json").read_text())["radius_in_cells"]
    boxes = [p.target.box for p in study.pairs["test"]]
    sides = [max(b[2] - b[0], b[3] - b[1]) for b in boxes]
    assert cells == pytest.approx(np.median(sides) / 10 * 8 / 64) and cells < 1
    assert any(f"radius of {metric_name(SELECTED)} is {cells:.2f} cells" in line for line in lines)
    record = read_record(found)
    assert (record.select, record.chooser) == (BROADER, SELECTED)
    told = verdict(record)
    assert told and told.gains["baseline"].points == pytest.approx(
        told.gate.mean(BROADER) - told.baselines["baseline"].mean(BROADER))
    rows = json.loads((found / "metrics.json").read_text())["tables"][0]["rows"]
    assert told.gate.interval == pytest.approx(Interval(*rows[-1]["interval"][BROADER]))
    config = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps({**config, "radius_in_cells": 1.5}))
    assert read_record(found).select == SELECTED


# ------------------------------------------------------------------------ standardised channels


def test_channels_are_standardised_over_the_cells_that_show_the_image() -> None:
    """By hand: 1, 3 over the image's two rows become -1, 1; a constant channel becomes 0."""
    level = torch.tensor([[[1.0] * 4, [3.0] * 4, [1.0] * 4, [3.0] * 4], [[7.0] * 4] * 4])
    found = standardised(level, Frame(32, "squash").place(32, 32))
    assert found[0, :, 0].tolist() == [-1, 1, -1, 1] and (found[1] == 0).all()
    wide = Frame(32, "pad").place(16, 32)  # the two rows in the middle
    level[0, 0], level[0, 3] = 100, 5
    assert standardised(level, wide)[0, :, 0].tolist() == [98, 1, -1, 3]
    half = standardised(torch.randn(5, 8, 8).half() * 1e-3, wide)
    seen = wide.window(8).cut(half)
    torch.testing.assert_close(seen.mean((1, 2)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((1, 2), correction=0), torch.ones(5), atol=1e-4, rtol=0)


def test_nn_and_match_describe_by_standardised_channels(root: Path,  # noqa: F811
                                                        tmp_path: Path) -> None:
    loaded, roots = manifest(tmp_path, head=STANDARD), Roots(stores=root / "stores")
    work = Workspace(loaded, roots, "cpu")
    study = open_any(work)
    assert isinstance(study, TrainingInputs)
    pair = study.pairs["test"][0]
    store = study.store
    bucket = study.features.named(pair.pair.source)
    row = store.samples.row(pair.pair.source)
    view = next(v for v in store.views() if v.label == "good")
    parts = []
    for name in ("up0", "up1"):
        level = torch.from_numpy(view[name][row]).double()
        level = (level - level.mean((1, 2), keepdim=True)) / level.std((1, 2), correction=0,
                                                                       keepdim=True)
        level = level.nan_to_num(0)  # a channel that is the same everywhere
        parts.append(F.interpolate(level[None], (16, 16), mode="bilinear")[0])
    at = list(study.combos).index("good")
    torch.testing.assert_close(bucket.conv[at].double(), torch.cat(parts), atol=1e-4, rtol=1e-4)
    describer = of_combo(work, "good")
    found = match(describer(pair.pair.source), describer(pair.pair.target), pair.source_shares)
    (judged,) = study.task.match([study.single(study.spec, "good")], [pair])
    np.testing.assert_allclose(found.points, judged.by_pair[pair], atol=1e-3)
    assert describer.feature.about == "good, channels standardised"


def test_a_run_keeps_how_its_channels_were_compared(root: Path, tmp_path: Path) -> None:  # noqa: F811
    """`evaluate` of another manifest takes the run's own."""
    kept = run(root, tmp_path / "one", head=STANDARD, **SHORT)
    config = json.loads((kept.run / "config.json").read_text())
    assert config["manifest"]["train"]["head"]["standardise"] == "image"
    loaded = manifest(tmp_path)
    again = evaluate(Workspace(loaded, Roots(stores=root / "stores"), "cpu"), kept.run)
    rows = json.loads((kept.run / "metrics.json").read_text())["tables"][0]["rows"]
    assert again.values[SELECTED] == pytest.approx(rows[-1][SELECTED])


def test_a_level_that_drowns_the_others_is_told(root: Path, tmp_path: Path) -> None:  # noqa: F811
    study = open_any(Workspace(manifest(tmp_path), Roots(stores=root / "stores"), "cpu"))
    assert isinstance(study, TrainingInputs)
    pairs, group = study.pairs["test"], study.features.spec.combos[0]
    assert not any("squared length" in h for h in hints(study.features, group, pairs))
    alone = study.features.of((group,))
    energy = [alone.named(p.pair.source).conv[0].square().sum((1, 2)) for p in pairs[:40]]
    assert sum(alone.levels.values()) == 2 * CHANNELS and energy[0].shape == (2 * CHANNELS,)

    class Loud:
        """The same with one channel of its own level, ten times as loud."""

        spec, resolution, channels = alone.spec, alone.resolution, 2 * CHANNELS

        @property
        def levels(self) -> dict[str, int]:
            return {"up0": 2 * CHANNELS - 1, "up2": 1}

        def of(self, _: Any) -> Any:
            return self

        def named(self, sample_id: str) -> Any:
            conv = torch.ones(1, 2 * CHANNELS, 4, 4)
            conv[:, -1] = 10
            return alone.named(sample_id)._replace(conv=conv)

    (told,) = [h for h in hints(Loud(), group, pairs) if "squared" in h]  # type: ignore[arg-type]
    share = 100 / (100 + 2 * CHANNELS - 1)
    assert told.startswith(f"up2 (1 of {2 * CHANNELS} channels) holds {100 * share:.0f} %")


# -------------------------------------------------------------------------------- conv, released


def test_the_released_head_has_the_released_sizes() -> None:
    """3520 + 154 channels in and out for Stable Diffusion 1.5 at 512, no bias."""
    with torch.device("meta"):
        head = head_of("conv-released").build(parse_head("conv-released"),
                                              Sizes(1, 3520, tokens=154))
    (weight,) = head.parameters()
    assert weight.shape == (3674, 3674, 3, 3)


def test_the_released_head_convolves_attention_as_it_is() -> None:
    torch.manual_seed(0)
    head, maps, attention = ReleasedConvHead(3, 2, 2), torch.randn(2, 2, 3, 5, 5), \
        torch.rand(2, 2, 5, 5)
    parts = [F.conv2d(torch.cat([maps[:, j], attention], 1), head.convs[j].weight, padding=1)
             for j in range(2)]
    expected = torch.cat(parts, 1)
    torch.testing.assert_close(head(maps, attention),
                               expected / expected.norm(dim=1, keepdim=True))


def test_a_fixed_temperature_is_not_learnt() -> None:
    for learnt in (True, False):
        loss = CorrespondenceLoss(learnt)
        a, b = F.normalize(torch.randn(2, 4, 3, 3, requires_grad=True), dim=1)
        points = torch.tensor([[0.5, 0.5]])
        loss(a, b, points, points).backward()
        assert (loss.log_scale.grad is not None) == learnt
        assert loss.log_scale.exp().item() == pytest.approx(1 / 0.07)


def test_the_released_preset_is_one_name() -> None:
    spec = TrainSpec(head="conv-released")  # type: ignore[arg-type]
    assert (spec.assigners, spec.weights, spec.dropout) == (1, "channel", 0.5)
    assert spec.head.temperature == "fixed"  # type: ignore[attr-defined]
    other = TrainSpec(head={"name": "conv-released", "temperature": "learnt"},  # type: ignore[arg-type]
                      weights="map", assigners=2)
    assert (other.assigners, other.weights, other.dropout) == (2, "map", 0.5)


@pytest.mark.parametrize("attention", ["attn", False])
def test_the_released_preset_trains_and_comes_back(root: Path, tmp_path: Path,  # noqa: F811
                                                   attention: Any) -> None:
    kept = finished(root, tmp_path, head="conv-released", attention=attention, **RELEASED)
    state = kept.weights("gate-best")
    tokens = 6 if attention else 0
    assert state["head.convs.0.weight"].shape[:2] == (2 * CHANNELS + tokens,) * 2
    assert state["mixer.assigners.0.body.6.weight"].shape[0] == 2 * CHANNELS
    means = kept.gate["weights"]["mean"]
    assert len(means) == 1 and len(means[0]) == len(CONV) and sum(means[0]) == pytest.approx(1)
    again = evaluate(Workspace(manifest(tmp_path), Roots(stores=root / "stores"), "cpu"),
                     kept.trained.run)
    assert again.values[SELECTED] == pytest.approx(kept.gate[SELECTED])


@pytest.mark.mostly_long("classifier")
@pytest.mark.parametrize("head", ["upernet", "pixel-mlp", "classifier"])
def test_weights_of_channels_train_every_head(home: Path, tmp_path: Path, head: str) -> None:  # noqa: F811
    found = trained(home, tmp_path, head, weights="channel")
    rows = json.loads((found.run / "metrics.json").read_text())["tables"][0]["rows"]
    for weights in rows[-1]["details"]["weights"]["mean"]:
        assert len(weights) == 2 and sum(weights) == pytest.approx(1, abs=1e-5)
