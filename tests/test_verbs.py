"""`gate_cache.extract`, `match`, `train`: in Python, without a manifest of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import gate_cache
from gate_cache.core.errors import DataError, StoreError, UserError
from gate_cache.datasets.toy import ToyWorld
from gate_cache.manifest.yaml_source import read_yaml, to_yaml
from gate_cache.store.reader import FeatureStore
from gate_cache.verbs import workspace_of
from gate_cache.workspace.own_images import WRITTEN
from gate_cache.workspace.workspace import Workspace

COUNT = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, with a store of their features."""
    folder = tmp_path_factory.mktemp("verbs")
    world = ToyWorld({"train": COUNT, "val": 0, "test": 0})
    (folder / "photos").mkdir()
    for number, sample in enumerate(world.samples()):
        Image.fromarray(world.image(sample.id)).save(folder / "photos" / f"{number:02}.png")
    gate_cache.extract(folder / "photos", to=folder / "photos.zarr", device="cpu", quiet=True)
    return folder


@pytest.fixture
def store(home: Path) -> FeatureStore:
    return FeatureStore.open(home / "photos.zarr")


def test_a_folder_becomes_a_store(store: FeatureStore) -> None:
    assert store.combos == ("plain",) and len(store.samples) == COUNT
    assert repr(store.samples).startswith(f"<{COUNT} samples: ")
    assert store["plain"].recipe["settings"]["prompt"] == "a photo"
    assert repr(store).endswith("photos.zarr: 24 images, combos plain>")
    assert "up2 (64, 16, 16)" in repr(store["plain"])
    assert "(24, 64, 16, 16)" in repr(store["plain"]["up2"])


def test_maps_are_indexed_by_id(store: FeatureStore) -> None:
    maps = store["plain"]["up2"]
    assert np.array_equal(maps["07.png"], maps[7])
    assert np.array_equal(maps["07.png", 3], maps[7, 3])
    with pytest.raises(StoreError, match=r"no sample '7\.png'.*did you mean"):
        maps["7.png"]


def test_the_manifest_beside_the_store_is_as_good_as_ones_own(home: Path) -> None:
    work = workspace_of(home / "photos.zarr")
    assert work.loaded.path == home / "photos.yaml" and work.roots.data == home
    assert gate_cache.extract(work).combos == ("plain",)  # nothing to do
    alone = Workspace.open(home / "photos.yaml")
    assert alone.manifest == work.manifest


def test_more_combos_are_added_to_the_store(home: Path) -> None:
    files = [home / "photos" / "03.png", home / "more" / ".." / "photos" / "01.png"]
    to = home / "more" / "two.zarr"
    first = gate_cache.extract(files, to=to, device="cpu", quiet=True)
    before = first["plain"]["up1"][:]
    again = gate_cache.extract([str(f) for f in files], to=to, device="cpu", quiet=True, combos={
        "plain": "a photo", "late": {"prompt": "a photo", "t": 200}})
    assert set(again.combos) == {"plain", "late"} and again.samples.ids == ("03.png", "01.png")
    assert np.array_equal(again["plain"]["up1"][:], before)
    assert again["late"].recipe["settings"]["t"] == 200


@pytest.mark.parametrize(("given", "said"), [
    ({"images": []}, "expected a folder or paths"), ({"images": 7}, "expected a folder or paths"),
    ({"images": "nowhere"}, "nowhere: no such image"),
    ({"combos": {"plain": {"promt": "x"}}},
     r"x\.yaml:9: conv\.plain\.promt: unknown field .*did you mean 'prompt'"),
    ({"combos": {"A b": "x"}}, "A b")])
def test_what_is_not_meant_so_leaves_nothing(given: dict[str, object], said: str, home: Path,
                                             tmp_path: Path) -> None:
    images = given.pop("images", home / "photos")
    with pytest.raises(UserError, match=said):
        gate_cache.extract(images, to=tmp_path / "x.zarr", quiet=True, **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["dataset: {name: toyworld}\nmodel: {source: tiny}\n", "\xff"])
def test_a_manifest_of_ones_own_is_not_written_over(home: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"x\.yaml: is there, and not written by"):
        gate_cache.extract(home / "photos", to=tmp_path / "x.zarr", quiet=True)


def test_points_are_matched(home: Path, store: FeatureStore) -> None:
    found = gate_cache.match(store, "02.png", "02.png", xy=[(10.5, 20.5), (40, 33)])
    assert found.found == pytest.approx(found.points, abs=1)
    assert found.similarity == pytest.approx([1, 1], abs=0.05)
    one = gate_cache.match(home / "photos.zarr", "02.png", "10.png", xy=(40, 33), combo="plain")
    assert one.found.shape == (1, 2)
    with pytest.raises(UserError, match=r"02\.png: x = 65, y = 1 is outside; it has 64 x 64"):
        gate_cache.match(store, "02.png", "10.png", xy=(65, 1))


def test_labels_are_learnt(home: Path, store: FeatureStore, tmp_path: Path) -> None:
    labels = {s: "low" if int(s[:2]) % 2 else "high" for s in store.samples.ids}
    done = gate_cache.train(store, labels, run=tmp_path / "run", steps=2)
    assert "classifier" in (done.run / "report.html").read_text(encoding="utf-8")
    assert done.head == "classifier" and sum(s["images"] for s in done.splits.values()) == COUNT
    assert len(done.scores) == 4
    assert all(values.keys() == {"accuracy", "class accuracy"} for values in done.scores.values())
    with pytest.raises(DataError, match=r"1 image not there, such as '2\.png'"):
        gate_cache.train(store, {**labels, "2.png": "high"}, run=tmp_path / "other")


def test_a_store_of_a_manifest_is_trained_by_its_workspace(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.zarr: has no manifest of gate_cache\.extract beside"):
        gate_cache.train(tmp_path / "x.zarr")


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    data = {"conv": {"x": {"prompt": "1e-4"}}, "files": ["010", "1:30", "no.png", "2020-01-01"],
            "on": "off", "size": 64, "scale": 0.5}
    (tmp_path / "x.yaml").write_text(WRITTEN + to_yaml(data))
    assert read_yaml(tmp_path / "x.yaml").data == data


# -------------------------------------------------------------------------------- the command line


def test_two_files_are_matched_at_a_pixel(home: Path, tmp_path: Path) -> None:
    from gate_cache.cli import app

    out = tmp_path / "m.png"
    done = CliRunner().invoke(app, [
        "match", str(home / "photos" / "02.png"), str(home / "photos" / "02.png"), "--at", "40,33",
        "--at", "10.5,20.5", "--out", str(out), "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert np.allclose(found["found"], [(40, 33), (10.5, 20.5)], atol=1)
    assert found["picture"] == str(out) and Image.open(out).format == "PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.parametrize(("more", "said"), [
    (["--at", "40"], r"--at 40: expected X,Y"), (["--at", "1,2", "--grid", "3"], "give one of"),
    (["--combo", "x"], "are for two images of a manifest"),
    (["--out", "x.jpg"], "pictures are PNG files"), (["third.png"], "takes a manifest and two")])
def test_match_refuses(more: list[str], said: str, home: Path) -> None:
    from gate_cache.cli import app

    names = [str(home / "photos" / "02.png"), str(home / "photos" / "03.png")]
    done = CliRunner().invoke(app, ["match", *names, *more])
    assert done.exit_code != 0
    with pytest.raises(UserError, match=said):
        raise done.exception  # type: ignore[misc]


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((Path(__file__).parents[1] / "docs" / "first-steps.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["done"].scores) == 4 and "late" in names["store"].combos  # type: ignore[attr-defined]
