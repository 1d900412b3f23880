"""`gate-cache data`: every figure against a tree made by hand, and all faults at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from published_trees import TREES, cifar, labels, pf_pascal, picture, save, write
from scipy.io import loadmat, savemat
from typer.testing import CliRunner

from gate_cache.cli import app
from gate_cache.core.errors import UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.datasets.summary.summary import Summary
from gate_cache.datasets.summary.survey import summarise
from gate_cache.datasets.toy import ToyWorld
from gate_cache.extraction.extract import extract
from gate_cache.extraction.validate import sample_problems, validate
from gate_cache.manifest.heads import head_of
from gate_cache.manifest.load import Loaded, load
from gate_cache.training.train import train
from gate_cache.workspace import data_summary
from gate_cache.workspace.data_summary import data, need_trainable, short
from gate_cache.workspace.workspace import Workspace

THING = np.zeros((8, 8), np.uint8)
THING[2:6, 2:6] = 1  # 16 of 64 pixels
NOTHING = np.full((8, 8), 255, np.uint8)
MASKS = {"name": "masks", "root": "own", "classes": ["ground", "thing", "rare"]}
FOLDER = {"name": "folder", "root": "own"}
PAIRS = {"name": "pairs", "root": "own"}


def manifest(home: Path, dataset: dict[str, Any], head: str = "upernet") -> Loaded:
    (home / "m.yaml").write_text(yaml.safe_dump({
        "dataset": dataset, "model": {"source": "tiny"}, "conv": {"a": {"prompt": "a photo"}},
        "train": {"head": head}}))
    return load(home / "m.yaml")


def roots(home: Path) -> Roots:
    return Roots(home, home / "models", home / "stores", home / "runs")


def counted(home: Path, dataset: dict[str, Any]) -> Summary:
    return data(Workspace(manifest(home, dataset), roots(home)))


def masks(home: Path, **of_split: list[Any]) -> Path:
    for split, pictures in of_split.items():
        for k, mask in enumerate(pictures):
            save(home / "own" / "images" / split / f"{k}.jpg", picture(k))
            save(home / "own" / "masks" / split / f"{k}.png", mask)
    return home


def folder(home: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        save(home / "own" / name, picture(k))
    return home


def table(home: Path, rows: str) -> Path:
    for i in {line.split(",")[0] for line in rows.split()}:
        save(home / "own" / i, picture(len(i)))
    write(home / "own" / "points.csv", "image,point,x,y\n" + "\n".join(rows.split()) + "\n")
    return home


# ------------------------------------------------------------------------------------ figures


def test_masks_are_counted_pixel_by_pixel(tmp_path: Path) -> None:
    half = np.where(np.arange(8)[:, None] < 4, 255, THING).astype(np.uint8)  # 32 of 64 ignored
    found = counted(masks(tmp_path, train=[THING, half, NOTHING], val=[THING], test=[THING * 2]),
                    MASKS)
    assert found.images == {"train": 3, "val": 1, "test": 1} and found.faults == []
    assert found.classes == {"ground": {"train": 2, "val": 1, "test": 1},
                             "thing": {"train": 2, "val": 1, "test": 0},
                             "rare": {"train": 0, "val": 0, "test": 1}}
    assert found.pixels["ground"] == {"train": 48 + 24, "val": 48, "test": 48}
    assert found.pixels["thing"] == {"train": 16 + 8, "val": 16, "test": 0}
    assert found.ignored == {"train": 32 + 64, "val": 0, "test": 0}
    assert found.blank == {"train": 1, "val": 0, "test": 0}
    assert found.notes == [
        "in no training image, so they cannot be learnt: classes rare (1 in test)",
        "1 of the 3 images of split 'train' have no pixel of a class"]
    assert short(found)[0] == ("data: 5 images (3 train, 1 val, 1 test); 3 classes; 70.0 % of"
                               " pixels labelled")


@pytest.mark.parametrize(("pictures", "note"), [
    ([THING, NOTHING, NOTHING], "66.7 % of the pixels of split 'train' have no class"),
    ([np.where(THING == 1, 255, 0).astype(np.uint8)] * 2 + [THING],
     "2 of the 3 masks of split 'train' show one class and what is ignored: is the"),
    ([np.where(THING == 1, 255, 0).astype(np.uint8)] + [THING] * 5,
     "1 of the 5 masks of split 'train' show one class and what is ignored"),
    ([THING], "1 of 3 classes never occur: rare"),
    ([np.pad(np.full((2, 2), 2, np.uint8), 1, constant_values=1)],
     "class 'thing', 'rare' is nowhere wider than two pixels"),
])
def test_odd_labels_are_told(tmp_path: Path, pictures: list[Any], note: str) -> None:
    for k, mask in enumerate(pictures):
        side = np.pad(mask, (8 - len(mask)) // 2)
        save(tmp_path / "own" / "images" / "train" / f"{k}.jpg", picture(k))
        save(tmp_path / "own" / "masks" / "train" / f"{k}.png", side)
    assert [n for n in counted(tmp_path, MASKS).notes if n.startswith(note)]


def test_black_and_white_is_told(tmp_path: Path) -> None:
    found = counted(masks(tmp_path, train=[THING * 255], test=[THING * 255]),
                    {**MASKS, "classes": ["ground", "thing"]})
    assert found.pixels["thing"] == {"train": 16, "val": 0, "test": 16}
    assert found.notes == ["all label pictures are black and white: 255 is read as 'thing'"]


def test_what_is_beside_images_is_told(tmp_path: Path) -> None:
    home = masks(tmp_path, train=[THING], test=[THING])
    save(home / "own" / "masks" / "train" / "lone.png", THING)
    write(home / "own" / "images" / "train" / "x.heic", "")
    write(home / "own" / "images" / "Thumbs.db", "")
    turned = Image.fromarray(picture(1))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(home / "own" / "images" / "train" / "0.jpg", exif=exif)
    found = counted(home, MASKS)
    assert found.passed_over == {".heic": 1}
    assert {"without an image: 1 label picture"} < set(found.notes)
    assert [n for n in found.notes if n.startswith("1 image is turned as their EXIF")]


def test_a_label_picture_behind_another_is_told(tmp_path: Path) -> None:
    home = masks(tmp_path, train=[THING], test=[THING])
    save(home / "own" / "masks" / "train" / "0.tif", THING * 2)
    found = counted(home, MASKS)
    assert found.pixels["rare"]["train"] == 0
    assert [n for n in found.notes if n.startswith("not read: 1 label picture called")]


def test_improbable_pairs_are_told(tmp_path: Path) -> None:
    home = table(tmp_path, """
        train/cat/a.png,nose,1,1 train/cat/b.png,nose,3,3 test/cat/a.png,nose,2,2""")
    rows = ("a.png,train/cat/b.png", "a.png,train/cat/b.png", "a.png,train/cat/a.png",
            "b.png,test/cat/a.png")
    write(home / "own" / "pairs.csv", "source,target\n"
          + "".join(f"train/cat/{row}\n" for row in rows))
    found = counted(home, {**PAIRS, "pairs": "pairs.csv"})
    assert found.pairs == {"train": 3, "val": 0, "test": 0}
    assert found.notes[:3] == [
        "pairs.csv: in no split: 1 of 4 pairs, whose images are in two",
        "pairs.csv: of an image with itself: 1 pair, whose points are easily found",
        "pairs.csv: listed again: 1 pair, counted as often"]


def test_points_as_shares_of_the_picture_are_told(tmp_path: Path) -> None:
    shares = "train/a.png,nose,0.4,0.5 train/b.png,nose,0.9,0.1 test/a.png,nose,1,0.2"
    told = [n for n in counted(table(tmp_path, shares), PAIRS).notes if "first pixel" in n]
    assert told == ["all points lie in the first pixel of their picture: are they shares of its"
                    " width and height? x and y are in pixels"]
    found = counted(table(tmp_path, shares + " test/b.png,nose,1.5,0.2"), PAIRS)
    assert not [n for n in found.notes if "first pixel" in n]


def test_images_in_the_lists_of_several_splits_are_told(tmp_path: Path) -> None:
    root = TREES["spair"](tmp_path)
    assert not [n for n in counted(tmp_path, {"name": "spair"}).notes if "several splits" in n]
    lists = root / "Layout" / "large"
    write(lists / "val.txt", (lists / "trn.txt").read_text())
    ends = [re.split("[-:]", line)[1:] for line in (lists / "val.txt").read_text().split()]
    images = len({(category, i) for *pair, category in ends for i in pair})
    assert [n for n in counted(tmp_path, {"name": "spair"}).notes if re.match(
        rf"in the lists of several splits: {images} of \d+ images", n)]


def test_a_published_point_outside_its_picture_is_told(tmp_path: Path) -> None:
    path = TREES["spair"](tmp_path) / "ImageAnnotation" / "cat" / "a.json"
    data = json.loads(path.read_text())
    data["kps"]["0"] = [400, 2]
    write(path, json.dumps(data))
    found = counted(tmp_path, {"name": "spair"})
    assert found.points["outside"] == 1
    assert "1 point outside its picture is not visible (of cat/a.jpg)" in found.notes


def test_a_box_of_another_object_is_told(tmp_path: Path) -> None:
    """Of the two points of the image, (1.5, 2.5) and (2.5, 3.5) or behind them."""
    path = TREES["spair"](tmp_path) / "ImageAnnotation" / "cat" / "a.json"
    data = json.loads(path.read_text())
    write(path, json.dumps({**data, "bndbox": [6, 0, 8, 1]}))
    found = counted(tmp_path, {"name": "spair"})
    assert [n for n in found.notes if "box" in n] == [
        "most points lie outside their object's box in 1 image (cat/a.jpg): is it another"
        " object's?"]


def test_points_and_pairs_are_counted(tmp_path: Path) -> None:
    """Pictures of 8 × 8: three cats of which one lacks the ear, two dogs with no name in common."""
    found = counted(table(tmp_path, """
        train/cat/a.png,nose,1,1 train/cat/a.png,ear,2,5
        train/cat/b.png,nose,3,3 train/cat/b.png,ear,900,3
        train/cat/c.png,nose,-1,-1 train/cat/c.png,ear,4,4
        test/dog/a.png,paw,1,1 test/dog/b.png,tail,2,2"""), PAIRS)
    assert found.images == {"train": 3, "val": 0, "test": 2}
    assert found.categories == {"cat": 3, "dog": 2}
    assert found.point_names == {"cat": ["nose", "ear"], "dog": ["paw", "tail"]}
    assert found.points == {"visible": 6, "outside": 1}
    assert found.pairs == {"train": 6, "val": 0, "test": 2}
    assert found.category_pairs == {"cat": 6, "dog": 2}
    assert found.shared == {"train": 4, "val": 0, "test": 0}  # b and c show nothing in common
    assert found.boxless == 4  # all but a
    assert found.notes[:2] == [
        "points.csv: 1 point without a place (empty, nan or -1, -1): not visible",
        "1 point outside its picture is not visible (of train/cat/b.png)"]


def test_classes_are_counted_by_split(tmp_path: Path) -> None:
    found = counted(folder(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/3.png",
                           "Test/cat/4.png", "Test/owl/5.png"), FOLDER)
    assert found.classes == {"cat": {"train": 2, "test": 1}, "dog": {"train": 1},
                             "owl": {"test": 1}}
    assert found.notes == [
        "in no training image, so they cannot be learnt: classes owl (1 in test)"]


def test_toyworld_is_counted_as_it_is_drawn() -> None:
    world = ToyWorld({"train": 9, "val": 0, "test": 8})
    found = summarise(world, Silent())
    assert sum(sum(c.values()) for c in found.pixels.values()) == 17 * 64 * 64
    assert found.classes["aeroplane"] == {"train": 2, "val": 0, "test": 1}
    assert found.pairs == {"train": 2, "val": 0, "test": 0} == found.shared
    assert found.points["visible"] == sum(int(world.scene(s.id).visible.sum())
                                          for s in world.samples())
    assert not summarise(world, Silent(), read=False).pixels


@pytest.mark.parametrize("name", sorted(TREES))
def test_published_trees_have_no_fault(tmp_path: Path, name: str) -> None:
    TREES[name](tmp_path)
    found = counted(tmp_path, {"name": name})
    dataset: Any = open_dataset(manifest(tmp_path, {"name": name}).manifest.dataset,
                                roots(tmp_path))
    assert found.faults == [] and sum(found.images.values()) == len(dataset.samples())
    if found.pairs:
        assert sum(found.pairs.values()) == len(dataset.pairs(None))


# ------------------------------------------------------------------------------------- faults


def test_all_faults_come_together_with_counts(tmp_path: Path) -> None:
    found = counted(masks(tmp_path, train=[THING, THING * 7, THING * 7, THING[:6]],
                          test=[THING, THING * 3, THING[:5]]), MASKS)
    above, wrong, sizes = (next(f for f in found.faults if text in f) for text in
                           ("label 3", "label 7", "labels for an image of 8 × 8"))
    assert len(found.faults) == 3
    assert above.endswith("try dataset.ignore: 3, or classes: 4 names")
    assert wrong.endswith("(2 files)") and sizes.endswith("(2 files)")


@pytest.mark.parametrize("stage", ["validate", "extract", "train"])
def test_faults_are_told_before_anything_is_paid(tmp_path: Path, stage: str) -> None:
    loaded = manifest(masks(tmp_path, train=[THING], test=[THING * 9, THING[:6]]), MASKS)
    run: Any = {"validate": validate, "extract": extract, "train": train}[stage]
    with pytest.raises(UserError, match="label 9") as caught:
        run(Workspace(loaded, roots(tmp_path), "cpu"))
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "stores").exists() and not (tmp_path / "runs").exists()


def test_train_ids_in_files_of_label_ids_are_a_fault(tmp_path: Path) -> None:
    root = TREES["cityscapes"](tmp_path)
    for k, path in enumerate(root.rglob("*_labelIds.png")):
        save(path, labels(18, k))
    (fault,) = counted(tmp_path, {"name": "cityscapes"}).faults
    assert "hold no label above 18, so these are train ids" in fault


def test_reduced_labels_are_a_fault(tmp_path: Path) -> None:
    root = TREES["ade20k"](tmp_path)
    for path in root.rglob("annotations/*/*.png"):
        save(path, np.asarray(Image.open(path)) - 1)
    faults = counted(tmp_path, {"name": "ade20k"}).faults
    assert "24 label pictures have 255, so 1 was taken" in faults[-1]


def test_a_malformed_table_is_no_missing_data_set(tmp_path: Path) -> None:
    home = table(tmp_path, "cat/a.png,nose,one,1")
    with pytest.raises(UserError, match="are not numbers"):
        validate(Workspace(manifest(home, PAIRS), roots(home)))
    home = tmp_path / "other"
    home.mkdir()
    assert "not found" in validate(Workspace(manifest(home, PAIRS), roots(home))).absent[0]


@pytest.mark.parametrize(("make", "dataset", "head", "line"), [
    (lambda home: masks(home, train=[NOTHING] * 2, test=[THING]), MASKS, "upernet",
     "none of the 2 images of split 'train' has a pixel of a class: all are ignored"),
    (lambda home: masks(home, train=[THING], test=[NOTHING]), MASKS, "pixel-mlp",
     "none of the 1 images of split 'test' has a pixel"),
    (lambda home: masks(home, train=[THING * 0], test=[THING]), MASKS, "upernet",
     "split 'train' shows the class 'ground' alone"),
    (lambda home: folder(home, "train/cat/1.png", "test/cat/2.png"), FOLDER, "classifier",
     "split 'train' shows the class 'cat' alone"),
    (lambda home: folder(home, "1.png", "2.png"), FOLDER, "classifier",
     r"1\.png: is in no class folder; .* \(2 files\)"),
    (lambda home: folder(home, "train/cat/1.png", "train/dog/2.png", "test/Dog/3.png"), FOLDER,
     "classifier", "classes 'Dog', 'dog' differ by case, spaces"),
    (lambda home: table(home, "train/a.png,nose,1,1 train/b.png,ear,1,1 test/a.png,nose,1,1"
                              " test/b.png,nose,1,1"), PAIRS, "nn",
     "split 'train' has 2 pairs of images, and no two have a point of one name"),
])
def test_what_cannot_be_trained_on_is_one_line(tmp_path: Path, make: Any, dataset: Any, head: str,
                                               line: str) -> None:
    work = Workspace(manifest(make(tmp_path), dataset, head), roots(tmp_path))
    with pytest.raises(UserError, match=f"m.yaml: dataset: .*{line}") as caught:
        need_trainable(work, data(work), head_of(head).task)
    assert "\n" not in str(caught.value)
    assert re.search(f"note: train will refuse this: .*{line}",
                     validate(work).data[-1])
    with pytest.raises(UserError, match=line):
        train(work)


@pytest.mark.parametrize(("head", "needs"), [("upernet", "masks"), ("nn", "key points")])
def test_a_head_that_the_data_set_cannot_serve_is_told_before_extraction(
        tmp_path: Path, head: str, needs: str) -> None:
    loaded = manifest(folder(tmp_path, "train/cat/1.png", "test/cat/2.png"), FOLDER, head)
    assert validate(Workspace(loaded, roots(tmp_path), "cpu")).data[-1] == (
        f"note: train will refuse this: data set 'folder' has no {needs}")


def test_a_damaged_record_of_cifar_is_a_fault(tmp_path: Path) -> None:
    root = cifar(tmp_path)
    path = root / "data_batch_2.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    (fault,) = counted(tmp_path, {"name": "cifar-10", "root": root.name}).faults
    assert "data_batch_2.bin: record of 'train/00010' is damaged" in fault


@pytest.mark.parametrize(("combo", "notes", "said"), [
    ({"prompt": "x", "controlnet": {"source": "tiny", "images": "nets"}}, 0,
     r".*nets: no control image for '2\.png' \(and 1 more\); put one there"),
    ({"prompt": "{caption}"}, 1,
     r".*c\.jsonl: '2\.png' \(and 1 more\) has no caption; run 'gate-cache caption'"),
])
def test_images_without_what_a_combo_wants_of_each_are_told_before_anything_is_paid(
        tmp_path: Path, combo: Any, notes: int, said: str) -> None:
    folder(tmp_path, "1.png", "2.png", "3.png")
    save(tmp_path / "nets" / "1.png", picture(1))
    lines = [{"id": i, "sha256": "0" * 64, "caption": "x"} for i in ("1.png", "9.png")]
    (tmp_path / "c.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({
        "dataset": FOLDER, "model": {"source": "tiny"}, "conv": {"a": combo},
        "captions": "c.jsonl"}))
    loaded = load(tmp_path / "m.yaml")
    wrong, told = sample_problems(loaded.manifest, roots(tmp_path), ["1.png", "2.png", "3.png"])
    assert re.fullmatch(f"{said}.*", *wrong)
    assert told == [f"{tmp_path}/c.jsonl: 1 caption is of no image (9.png)"] * notes
    with pytest.raises(UserError, match=said):
        validate(Workspace(loaded, roots(tmp_path), "cpu"))
    with pytest.raises(UserError, match=said):
        extract(Workspace(loaded, roots(tmp_path), "cpu"))
    assert not (tmp_path / "stores").exists()


def test_empty_captions_are_told(tmp_path: Path) -> None:
    folder(tmp_path, "1.png", "2.png")
    lines = [{"id": f"{i}.png", "sha256": "0" * 64, "caption": c} for i, c in ((1, " "), (2, "x"))]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({
        "dataset": FOLDER, "model": {"source": "tiny"}, "conv": {"a": {"prompt": "{caption}"}},
        "captions": "c.jsonl"}))
    told = validate(Workspace(load(tmp_path / "m.yaml"), roots(tmp_path))).data
    assert f"note: {tmp_path}/c.jsonl: empty: 1 caption (1.png)" in told


@pytest.mark.parametrize("uneven", [False, True])
def test_images_of_a_category_have_as_many_points(tmp_path: Path, uneven: bool) -> None:
    root = pf_pascal(tmp_path)
    file = sorted(root.glob("Annotations/*/*.mat"))[0]
    known = loadmat(file)
    if uneven:
        savemat(file, {"kps": known["kps"][:-1], "bbox": known["bbox"]})
    found = counted(tmp_path, {"name": "pf-pascal", "root": root.name})
    assert bool(found.faults) == uneven and (not uneven or re.fullmatch(
        r"pf-pascal: images of category '\w+' have different numbers of points \(\d+ in \S+,"
        r" \d+ in \S+\), so which .* \(NaN for none\)", found.faults[0]))


# -------------------------------------------------------------------------------- remembering


def test_labels_are_read_once_until_a_file_changes(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[str] = []

    def counting(dataset: Any, show: Any, **more: Any) -> Summary:
        read.append(dataset.name)
        return summarise(dataset, show, **more)

    monkeypatch.setattr(data_summary, "summarise", counting)
    home = masks(tmp_path, train=[THING], test=[THING])
    first = counted(home, MASKS)
    assert counted(home, MASKS) == first and len(read) == 1
    save(home / "own" / "masks" / "test" / "0.png", THING * 2)
    again = counted(home, MASKS)
    assert again.pixels["rare"]["test"] == 16 and len(read) == 2
    assert counted(home, {**MASKS, "ignore": 0}).pixels["ground"]["train"] == 0
    for n, text in enumerate(("{torn", '{"found": {"name": "masks", "images": []}, "sha256": ""}')):
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_text(text)
        assert counted(home, MASKS) == again and len(read) == 4 + n


def test_a_machine_without_a_home_reads_again(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "nowhere")
    home = masks(tmp_path, train=[THING], test=[THING])
    assert counted(home, MASKS) == counted(home, MASKS)


# -------------------------------------------------------------------------------- the command


def test_the_command_prints_tables_or_json(tmp_path: Path) -> None:
    manifest(masks(tmp_path, train=[THING, NOTHING], test=[THING]), MASKS)
    told = CliRunner().invoke(app, ["data", str(tmp_path / "m.yaml"), "--data", str(tmp_path)])
    assert told.exit_code == 0
    rows = [line.split() for line in told.stdout.splitlines()]
    assert ["images", "2", "0", "1", "3"] in rows
    assert ["thing", "1", "0", "1", "25.0", "%"] in rows
    assert "labelled 66.7 % of all pixels, ignored 33.3 %" in told.stdout
    plain = CliRunner().invoke(app, ["data", str(tmp_path / "m.yaml"), "--data", str(tmp_path),
                                     "--json"])
    assert json.loads(plain.stdout)["pixels"]["thing"] == {"train": 16, "val": 0, "test": 16}


def test_the_command_ends_with_2_where_something_is_wrong(tmp_path: Path) -> None:
    manifest(masks(tmp_path, train=[THING * 9], test=[THING]), MASKS)
    told = CliRunner().invoke(app, ["data", str(tmp_path / "m.yaml"), "--data", str(tmp_path)])
    assert told.exit_code == 2 and "fault: " in told.stdout and "label 9" in told.stdout
