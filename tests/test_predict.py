"""Masks of trained runs as pictures: what is predicted, how sure, and in which colours."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_tasks import CPU, FAST, Pictures, fit, maps, task_of, trial  # noqa: F401

from gate_cache.cli import main
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import IGNORED
from gate_cache.learn.features.native import NativeMaps
from gate_cache.report.figures.marks import PAPER
from gate_cache.report.figures.masks import (
    BACKGROUND,
    COLOURS,
    GREY,
    enlarged,
    figure,
    painted,
    styles,
)
from gate_cache.report.figures.predict import page
from gate_cache.report.html.examples import masks
from gate_cache.training.predict import Predicted, Predictions, agreement
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

HEADS = ("upernet", "pixel-mlp")


# ---------------------------------------------------------------------------------- predictions


@pytest.mark.mostly_long("squash-*")
@pytest.mark.parametrize("head", HEADS)
def test_what_is_painted_is_what_is_judged(head: str, maps: NativeMaps) -> None:  # noqa: F811
    task = task_of(head, maps)
    (found,) = fit([trial(head, task)], task)
    world = Pictures()
    for name in ("t0", "t1"):
        painting = task.paint(found.model, name)
        assert painting.classes.shape == painting.uncertainty.shape == world.size(name)
        assert agreement(world.mask(name), painting.classes)[0] > 90
        assert painting.uncertainty.min() >= 0 and painting.uncertainty.max() <= painting.most
        if head == "upernet":
            ((judged, _),) = task.predict([found.model], name)
            assert np.array_equal(judged, painting.classes)


@pytest.mark.mostly_long("squash-*")
@pytest.mark.parametrize("head", HEADS)
def test_a_model_that_knows_nothing_doubts_more(head: str, maps: NativeMaps) -> None:  # noqa: F811
    task = task_of(head, maps)
    (found,) = fit([trial(head, task)], task)
    torch.manual_seed(0)
    fresh = trial(head, task).model.to(CPU)
    taught, blank = (task.paint(m, "t0").uncertainty.mean() for m in (found.model, fresh))
    assert taught < 0.8 * blank


def test_agreement_leaves_ignored_pixels_out() -> None:
    true = np.array([[0, 0, 1, IGNORED]], np.uint8)
    assert agreement(true, np.array([[0, 1, 1, 0]], np.uint8)) == pytest.approx((200 / 3, 50))
    assert np.isnan(agreement(np.full((1, 2), IGNORED, np.uint8), true[:, :2])).all()


# --------------------------------------------------------------------------------------- colours


def test_classes_are_told_apart_without_colours_red_and_green() -> None:
    """Under simulated deuteranopia (Viénot et al. 1999) and in pattern no two styles are alike."""
    known = list(styles([str(i) for i in range(64)]).values())
    assert len(set(known)) == 64
    drawn = {figure(style, (16, 16)).tobytes() for style in known}
    assert len(drawn) == 64
    eye = np.array([[0.2926, 0.7074, 0.0], [0.2926, 0.7074, 0.0], [-0.0223, 0.0223, 1.0]])
    seen = [eye @ ((np.array(c) / 255) ** 2.2) for c in (*COLOURS, BACKGROUND)]
    apart = [np.abs(np.clip(a, 0, 1) ** 0.45 - np.clip(b, 0, 1) ** 0.45).max()
             for a, b in combinations(seen, 2)]
    assert min(apart) > 0.08


def test_background_is_light_and_takes_no_colour() -> None:
    found = styles(["background", "cat", "dog"])
    assert (found[0].colour, found[1].colour) == (BACKGROUND, COLOURS[0])


def test_a_report_paints_classes_as_predict_does() -> None:
    """One look a class, whatever else is shown: in the sheets of `predict` and on the page."""
    names = [str(i) for i in range(150)]
    mask = np.array([[140, 3], [3, IGNORED]], np.uint8)
    data = SimpleNamespace(classes=names, mask=lambda _: mask,
                           image=lambda _: np.zeros((2, 2, 3), np.uint8))
    items = SimpleNamespace(ids=[("a", "")], scores=[50.0],
                            masks={"a": np.full((2, 2), 3, np.uint8)})
    html = str(masks(data, items, None)[-1])  # type: ignore[arg-type]
    uris = re.findall(r'src="(data:image/png[^"]+)"', html)[-2:]
    truth, found = (np.asarray(Image.open(BytesIO(b64decode(u.split(",")[1])))) for u in uris)
    look = styles(names)
    assert np.array_equal(truth, painted(enlarged(mask, 256), look))
    assert np.array_equal(found[:, :128], figure(look[3], (256, 256))[:, :128])


def test_ignored_pixels_are_hatched() -> None:
    mask = np.zeros((24, 24), np.uint8)
    mask[:, :8] = IGNORED
    drawn = painted(mask, styles(["cat"]))
    assert {tuple(c) for c in drawn[:, :8].reshape(-1, 3)} == {PAPER, GREY}
    assert (drawn[:, 8:] == COLOURS[0]).all()
    over = painted(np.zeros((24, 24), np.uint8), styles(["cat"]), mask)
    assert np.array_equal(over, drawn)


def test_a_sheet_has_all_images_and_names() -> None:
    from gate_cache.learn.tasks.task import Painted

    def row(h: int, w: int) -> Predicted:
        mask = np.arange(h * w, dtype=np.uint8).reshape(h, w) % 40
        uncertainty = np.linspace(0, 1, h * w, dtype=np.float32).reshape(h, w)
        return Predicted("a/b", np.zeros((h, w, 3), np.uint8), mask,
                         Painted(mask, uncertainty, "entropy", 1.0), 100.0, 100.0)

    few = Predictions("run", "upernet", tuple(f"class {i}" for i in range(40)), iter(()))
    one, two = page(few, [row(20, 40)]), page(few, [row(20, 40), row(40, 20)])
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] - one.shape[0] == 196 + 24


# --------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each head of segmentation on a small store of toyworld."""
    from gate_cache.extraction.extract import extract
    from gate_cache.manifest.load import overridden

    folder = tmp_path_factory.mktemp("masks")
    roots = Roots(stores=folder / "stores", runs=folder)
    for head in HEADS:
        path = folder / f"{head}.yaml"
        fields: dict[str, Any] = {**FAST[head], "steps": 2, "batch": 2, "head": head}
        if head == "pixel-mlp":
            fields["members"] = 2
        path.write_text(yaml.safe_dump({
            "dataset": {"name": "toyworld", "train": 4, "val": 0, "test": 8},
            "model": {"source": "tiny"}, "store": {"path": "toy.zarr"},
            "train": overridden(fields, {}),
            "conv": {"a": {"prompt": "a photo"}, "b": {"prompt": "a cat"}}}))
        extract(Workspace.open(path, roots, "cpu"))
        train(Workspace.open(path, roots, "cpu"), run=folder / head)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, home: Path, run: str, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["gate-cache", "predict", str(home / run), *map(str, words),
                                     "--stores", str(home / "stores"), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.long
@pytest.mark.parametrize("head", HEADS)
def test_the_command(head: str, home: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, home, head, "--manifest", home / f"{head}.yaml") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == home / head / "pictures" / "predictions-1.png"
    with Image.open(path) as picture:
        assert picture.height > 4 * 196


def test_many_images_fill_several_sheets(home: Path, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    names = ["aeroplane", "bird", "boat", "bottle"]
    asked = [w for s in ("train", "test") for n in names for w in ("--image", f"{s}/{n}")]
    assert command(monkeypatch, home, "upernet", "--manifest", home / "upernet.yaml", "--out",
                   tmp_path, *asked) == 0
    first, second = map(Image.open, capsys.readouterr().out.strip().splitlines())
    assert first.height > 6 * 196 > second.height > 2 * 196


@pytest.mark.parametrize("run, manifest, more, said", [
    ("none", "upernet", [], "holds no finished training"),
    ("nn", "upernet", [], "was trained with head 'nn', which predicts no masks"),
    ("upernet", "upernet", ["--image", "zebra"], "'zebra' is not an image of its data set"),
    ("upernet", "folder", [], "has no masks, and head 'upernet' needs them"),
])
def test_bad_input_is_a_line(run: str, manifest: str, more: list[str], said: str, home: Path,
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    (home / "folder.yaml").write_text(yaml.safe_dump({
        "dataset": {"name": "folder", "root": "images"}, "model": {"source": "tiny"},
        "conv": {"a": {"prompt": "a photo"}, "b": {"prompt": "a cat"}}}))
    (home / "images").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(home / "images" / "a.png")
    other = home / "nn"
    other.mkdir(exist_ok=True)
    (other / "gate-best.safetensors").write_bytes(b"")
    (other / "gate-last.safetensors").write_bytes(b"")
    (other / "config.json").write_text(json.dumps({"manifest": {"train": {"head": "nn"}}}))
    assert command(monkeypatch, home, run, "--manifest", home / f"{manifest}.yaml", "--data", home,
                   *more) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [each for each in lines if not each.startswith("data: ")]
    assert said in line
