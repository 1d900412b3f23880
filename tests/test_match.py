"""Points of one image found in another: the same matches as trainings judge, and what is drawn."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from test_train import COUNTS, ELSEWHERE, Finished, manifest, nn_run, root, run  # noqa: F401

from gate_cache.analysis.describe import Describer, TrainedFeature, of_combo, of_run
from gate_cache.analysis.match import Matches, match_images
from gate_cache.cli import main
from gate_cache.core.geometry import Frame
from gate_cache.core.roots import Roots
from gate_cache.datasets.toy import ToyWorld
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.similarity import comes_back, describe, match
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.report.figures.marks import BLUE, ORANGE, Canvas
from gate_cache.report.figures.match import page
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.workspace.workspace import Workspace

PAIR = ("test/aeroplane/00000", "test/aeroplane/00008")


def of(root: Path, to: Path, **fields: Any) -> tuple[Any, Roots]:  # noqa: F811
    to.mkdir(parents=True, exist_ok=True)
    return manifest(to, **fields), Roots(stores=root / "stores")


def matched(root: Path, to: Path, describer: Describer | str = "good",  # noqa: F811
            pair: tuple[str, str] = PAIR, grid: int | None = None) -> Matches:
    loaded, roots = of(root, to)
    if isinstance(describer, str):
        describer = of_combo(Workspace(loaded, roots, "cpu"), describer)
    return match_images(Workspace(loaded, roots), describer, pair, grid)


# ------------------------------------------------------------------------------------- matching


def test_a_feature_that_knows_the_points_finds_them(root: Path, tmp_path: Path) -> None:  # noqa: F811
    good, noise = (matched(root, tmp_path, name) for name in ("good", "noise-0"))
    assert good.judged is not None and noise.judged is not None
    assert good.judged.pck["image"] > 90 > 50 > noise.judged.pck["image"]
    assert good.judged.right.sum() > noise.judged.right.sum()
    assert good.judged.pck["box"] == pytest.approx(100 * good.judged.right.mean())


def test_right_is_what_the_radius_says(root: Path, tmp_path: Path) -> None:  # noqa: F811
    found = matched(root, tmp_path, "noise-0")
    assert found.judged is not None
    world = ToyWorld(COUNTS)
    x0, y0, x1, y1 = world.keypoints(PAIR[1]).box
    assert found.judged.radius == pytest.approx(0.1 * max(x1 - x0, y1 - y0))
    apart = np.hypot(*(found.found - found.judged.true).T)
    assert np.array_equal(found.judged.right, apart <= found.judged.radius)
    both = world.keypoints(PAIR[0]).visible & world.keypoints(PAIR[1]).visible
    assert np.array_equal(found.points, world.keypoints(PAIR[0]).xy[both])


def test_a_runs_matches_are_those_it_is_judged_by(root: Path, tmp_path: Path,  # noqa: F811
                                                  nn_run: Finished) -> None:  # noqa: F811
    loaded, roots = of(root, tmp_path, attention=None)
    describer = of_run(Workspace(loaded, roots, "cpu"), nn_run.trained.run)
    assert isinstance(describer.feature, TrainedFeature)
    found = match_images(Workspace(loaded, roots), describer, PAIR)
    study = open_any(Workspace(loaded, roots, "cpu"))
    assert isinstance(study, TrainingInputs)
    pair = next(p for p in study.pairs["test"] if (p.pair.source, p.pair.target) == PAIR)
    assert isinstance(study.task, CorrespondenceTask)
    (judged,) = study.task.match([describer.feature.model], [pair])
    assert np.allclose(judged.predictions[0].predicted, found.found, atol=1e-4)


def test_without_key_points_there_is_a_grid(root: Path, tmp_path: Path) -> None:  # noqa: F811
    other = (PAIR[0], "test/bird/00001")
    assert matched(root, tmp_path, pair=other).note.startswith("no key points in common")
    asked = matched(root, tmp_path, grid=3)
    assert (asked.judged, asked.note, asked.points.shape) == (None, "", (9, 2))
    assert asked.points[1].tolist() == [32.0, 64 / 6]


def test_an_image_is_found_in_itself(root: Path, tmp_path: Path) -> None:  # noqa: F811
    found = matched(root, tmp_path, "noise-0", (PAIR[0], PAIR[0]), 16)
    assert found.back.all()
    assert np.abs(found.found - found.points).max() <= 2  # half a cell


def test_points_of_padded_images_are_shares_of_the_image() -> None:
    """A wide image in a padded square: its own corner is found in a tall one's."""
    import torch

    square = Frame(16, "pad")
    wide, tall = square.place(8, 16).window(16), square.place(16, 8).window(16)
    values = torch.nn.functional.one_hot(torch.arange(128), 128).float().T
    one, other = torch.zeros(2, 128, 16, 16)
    wide.cut(one)[:] = values.reshape(128, 8, 16)
    tall.cut(other)[:] = values.reshape(128, 8, 16).transpose(1, 2)
    here, there = describe([one], wide), describe([other], tall)
    points = np.array([[0.5 / 16, 0.5 / 8], [15.5 / 16, 0.5 / 8]])
    found = match(here, there, points)
    assert np.allclose(found.points, points[:, ::-1])
    assert np.allclose(found.similarity, 1)
    assert comes_back(here, there, points, 0.01).all()


def test_what_does_not_come_back_is_seen() -> None:
    """Two cells that look alike are both found at one place, and only one of them comes back."""
    import torch

    window = Frame(4, "squash").place(4, 4).window(4)
    a = torch.eye(16).reshape(16, 4, 4)
    b = a.clone()
    a[:, 0, 3] = a[:, 0, 0]
    points = np.array([[0.125, 0.125], [0.875, 0.125], [0.125, 0.875]])
    assert comes_back(describe([a], window), describe([b], window), points, 0.1).tolist() == [
        True, False, True]


# ------------------------------------------------------------------------------------- pictures


def test_right_and_wrong_differ_in_shape_and_colour(root: Path, tmp_path: Path) -> None:  # noqa: F811
    def colours(name: str) -> tuple[int, int]:
        drawn = page(matched(root, tmp_path, name))
        legend = drawn.shape[0] - 26
        blue, orange = ((drawn[:legend] == c).all(2).sum() for c in (BLUE, ORANGE))
        return int(blue), int(orange)

    good, noise = colours("good"), colours("noise-0")
    assert good[0] > noise[0] and good[1] < noise[1]


def test_a_canvas_keeps_pictures_as_they_are() -> None:
    given = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    canvas = Canvas(20, 20)
    canvas.picture(given, (4, 5))
    assert np.array_equal(canvas.done()[5:14, 4:11], given)


def test_lines_can_be_dashed() -> None:
    def inked(dashed: bool) -> int:
        canvas = Canvas(100, 20)
        canvas.line((5, 10), (95, 10), BLUE, 4, dashed)
        return int((255 - canvas.done().astype(int)).sum())

    assert 0 < inked(True) < 0.8 * inked(False)


# -------------------------------------------------------------------------------------- command


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["gate-cache", "match", *map(str, words), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
                     capsys: pytest.CaptureFixture[str], nn_run: Finished) -> None:  # noqa: F811
    loaded, roots = of(root, tmp_path, attention=None)
    common = [loaded.path, *PAIR, "--stores", roots.stores, "--out", tmp_path / "out"]
    assert command(monkeypatch, *common, "--combo", "good") == 0
    said, path = capsys.readouterr().out.strip().splitlines()
    assert "combo good: PCK@0.1" in said
    with Image.open(path) as picture:
        assert picture.width > 700
    assert command(monkeypatch, *common, "--run", nn_run.trained.run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["pck@0.10"]) == {"box", "image"} and Path(found["picture"]).is_file()


def test_a_picture_is_called_after_the_run_and_its_trial(
        root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
        capsys: pytest.CaptureFixture[str], nn_run: Finished) -> None:  # noqa: F811
    loaded, roots = of(root, tmp_path / "m", attention=None)
    sweep = tmp_path / "out"
    (sweep / "trials").mkdir(parents=True)
    (sweep / "weights").mkdir()
    done = nn_run.trained.run
    spec = json.loads((done / "config.json").read_text())["manifest"]["train"]
    for name in ("lr=0.1", "lr=0.2"):
        told = {"name": name, "spec": spec, "method": "GATE"}
        (sweep / "trials" / f"{name}.json").write_text(json.dumps(told))
        shutil.copy(done / "gate-best.safetensors", sweep / "weights" / f"{name}.safetensors")
    pictures = []
    monkeypatch.chdir(sweep)
    for name in ("lr=0.1", "lr=0.2"):
        assert command(monkeypatch, loaded.path, *PAIR, "--stores", roots.stores, "--out",
                       tmp_path / "pictures", "--run", ".", "--trial", name) == 0
        said, path = capsys.readouterr().out.strip().splitlines()
        assert f"run out {name}: PCK" in said
        pictures.append(Path(path).name)
    assert [p.partition("run-")[2] for p in pictures] == ["out-lr=0.1.png", "out-lr=0.2.png"]


@pytest.mark.parametrize("asked, said", [
    ({"a": "test/aeroplain/00000"}, "is not an image of its data set (did you mean"),
    ({"a": "aeroplane"}, "fits 6 images"),
    ({"more": ["--combo", "goot"]}, "has no combo 'goot' (did you mean 'good'?)"),
    ({"more": ["--combo", "new"]}, "'new' is not extracted yet; run 'gate-cache extract'"),
    ({"more": ["--run", "none"]}, "holds no finished training"),
    ({"more": ["--run", "none", "--combo", "good"]}, "give one of the two"),
    ({"more": ["--last"]}, "which weights of --run"),
])
def test_bad_input_is_a_line(asked: dict[str, Any], said: str, root: Path,  # noqa: F811
                             tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    conv = {"good": {"prompt": "good"}, "new": {"prompt": "new"}}
    loaded, roots = of(root, tmp_path, conv=conv)
    assert command(monkeypatch, loaded.path, asked.get("a", PAIR[0]), PAIR[1], "--stores",
                   roots.stores, "--out", tmp_path, *asked.get("more", [])) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if not x.startswith("note"))
    assert said in line


def test_a_run_of_another_head_is_refused(root: Path, tmp_path: Path,  # noqa: F811
                                          monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    loaded, roots = of(root, tmp_path)
    other = tmp_path / "run"
    other.mkdir()
    (other / "gate-best.safetensors").write_bytes(b"")
    (other / "config.json").write_text(json.dumps({"manifest": {"train": {"head": "upernet"}}}))
    assert command(monkeypatch, loaded.path, *PAIR, "--stores", roots.stores, "--run", other) == 2
    assert "was trained with head 'upernet'" in capsys.readouterr().err


def test_your_own_images_are_matched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    world, images = ToyWorld(COUNTS), tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for name, i in (("a.png", PAIR[0]), ("b.png", PAIR[1])):
        Image.fromarray(world.image(i)[8:56]).save(images / name)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({
        "dataset": {"name": "folder", "root": "images"}, "model": {"source": "tiny"},
        "conv": {"plain": {"prompt": "a photo", "maps": ["up1", "up2"]}}}))
    roots = Roots(tmp_path / "data", tmp_path, tmp_path / "stores", tmp_path)
    extract(Workspace.open(tmp_path / "own.yaml", roots, "cpu"))
    assert command(monkeypatch, tmp_path / "own.yaml", "a", "b", "--stores", roots.stores,
                   "--grid", 5) == 0  # the data set is where extract found it
    said, path = capsys.readouterr().out.strip().splitlines()
    assert re.search(r"cycle-consistent: \d+ of 25 points$", said)
    assert Path(path).parent == roots.stores / "own-pictures"
