"""Data sets of one's own: classes by folder, masks, tables of key points; and toyworld's tasks."""

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import deal, labels, picture, save, write
from pydantic import TypeAdapter

from gate_cache.core.errors import DataError, ManifestError, did_you_mean
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import (
    IGNORED,
    SPLITS,
    ClassifiedDataset,
    CorrespondenceDataset,
    Pair,
    SegmentationDataset,
)
from gate_cache.datasets.common.splits import SplitRule
from gate_cache.datasets.folder import ImageFolder
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.pairs import load_pairs
from gate_cache.manifest.dataset_specs import DatasetSpec
from gate_cache.manifest.load import load
from gate_cache.toyworld.names import CATEGORIES

REAL_CIFAR = Path(os.environ.get("GATE_CACHE_DATA", "data")) / "cifar-10-images.zip"
MANIFEST = "dataset: {%s}\nmodel: {source: tiny}\nconv: {a: {prompt: x}}\n"


def opened(data: Path, **section: Any) -> Any:
    """The data set of a manifest's section, below `data`."""
    spec: Any = TypeAdapter(DatasetSpec).validate_python(section)
    return open_dataset(spec, Roots(data=data))


def ids(dataset: Any) -> list[str]:
    return [s.id for s in dataset.samples()]


def by_split(dataset: Any) -> Counter[str]:
    return Counter(dataset.split_of(i) for i in ids(dataset))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# ------------------------------------------------------------------------------------- folder


def test_folder_after_the_split_is_the_class(tmp_path: Path) -> None:
    data = ImageFolder(touch(tmp_path, "train/cat/1.png", "train/dog/deep/2.png", "val/cat/3.png",
                             "test/dog/4.png", "test/owl/5.png"))
    assert data.classes == ("cat", "dog", "owl") and isinstance(data, ClassifiedDataset)
    assert [(data.split_of(i), data.label(i)) for i in ids(data)] == [
        ("test", 1), ("test", 2), ("train", 0), ("train", 1), ("val", 0)]


def test_folder_without_split_folders_is_train_unless_shares_are_given(tmp_path: Path) -> None:
    root = touch(tmp_path / "own", *(f"{c}/{i}.png" for c in ("cat", "test") for i in range(10)))
    assert by_split(ImageFolder(root, SplitRule(by_folder=False))) == {"train": 20}
    data = opened(tmp_path, name="folder", root="own", val=0.2, test=0.3, split_folders=False)
    assert data.classes == ("cat", "test")
    assert {i: data.split_of(i) for i in ids(data)} == deal(ids(data), {"val": 0.2, "test": 0.3}, 0)
    assert set(by_split(data)) == {"train", "val", "test"}


def test_folder_takes_shares_for_missing_split_folders_only(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"train/cat/{i}.png" for i in range(10)), "test/cat/x.png")
    data = ImageFolder(root, SplitRule({"val": 0.2, "test": 0.5}))
    train = [f"train/cat/{i}.png" for i in range(10)]
    expected = {**deal(train, {"val": 0.2}, 0), "test/cat/x.png": "test"}
    assert {i: data.split_of(i) for i in ids(data)} == expected
    assert by_split(data) == {"train": 9, "val": 1, "test": 1}


def test_folder_share_of_an_image_does_not_depend_on_other_classes(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"cat/{i}.png" for i in range(10)))
    before = ImageFolder(root, SplitRule({"test": 0.5}))
    known = {i: before.split_of(i) for i in ids(before)}
    after = ImageFolder(touch(root, "dog/1.png", "dog/2.png"),
                        SplitRule({"test": 0.5}))
    assert known == {i: after.split_of(i) for i in known}


def test_folder_image_without_a_class_is_named(tmp_path: Path) -> None:
    data = ImageFolder(touch(tmp_path, "train/1.png", "train/cat/2.png"))
    assert data.classes == ("cat",)
    with pytest.raises(DataError, match=r"1\.png: is in no class folder; move it to <class>/"):
        data.label("train/1.png")


@pytest.mark.parametrize("section", [
    "name: folder, root: x, val: 0.6, test: 0.4", "name: masks, root: x, val: 0.9",
    "name: pairs, root: x, test: 0.95", "name: pf-willow, val: 0.7"])
def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path, section: str) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST % section)
    with pytest.raises(ManifestError, match=r"dataset\.test: val and test together leave nothing"):
        load(tmp_path / "m.yaml")


@pytest.mark.parametrize(("section", "reason"), [
    ("name: horse-21, fold: 5", r"dataset\.fold: must be at most 4, got 5"),
    ("name: horses", r"unknown name 'horses' \(did you mean 'horse-21'\?\)"),
    ("name: spair, layout: medium", r"dataset\.layout: expected 'large' or 'small'"),
    ("name: ade20k, val: 1.0", r"dataset\.val: must be less than 1"),
    ("name: bedroom-28, rot: x", r"unknown field \(did you mean 'root'\?\)"),
    ("name: masks, root: x, classes: []", r"dataset\.classes: must not be empty"),
    ("name: masks, root: x, classes: ['']", r"dataset\.classes\[0\]: must not be empty"),
    ("name: folder, root: x, labels: {1.png: ''}", r"labels\.1\.png: must not be empty"),
])
def test_sections_are_checked(tmp_path: Path, section: str, reason: str) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST % section)
    with pytest.raises(ManifestError, match=reason):
        load(tmp_path / "m.yaml")


@pytest.mark.skipif(not REAL_CIFAR.is_file(), reason="CIFAR-10's images are not there")
def test_real_images_as_class_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(REAL_CIFAR) as archive:
        names = [n for n in archive.namelist() if n.endswith(("0001.jpg", "0002.jpg"))]
        archive.extractall(tmp_path / "cifar", names)
    data = opened(tmp_path, name="folder", root="cifar", val=0.5)
    assert len(data.classes) == 10 and by_split(data)["test"] == 20
    assert set(by_split(data)) == set(SPLITS)
    assert {data.image(i).shape for i in ids(data)} == {(32, 32, 3)}


# -------------------------------------------------------------------------------------- masks


def masks(data: Path, count: int = 10, names: str | None = "sky\nsea\nsand\n") -> Path:
    root = data / "beach"
    for i in range(count):
        save(root / "images" / "day" / f"{i:02d}.jpg", picture(i))
        save(root / "masks" / "day" / f"{i:02d}.png", labels(2, i))
    if names is not None:
        write(root / "classes.txt", names)
    return root


def test_masks_are_read_with_their_classes(tmp_path: Path) -> None:
    masks(tmp_path)
    data = opened(tmp_path, name="masks", root="beach")
    assert isinstance(data, SegmentationDataset)
    assert data.classes == ("sky", "sea", "sand")
    assert {i: data.split_of(i) for i in ids(data)} == deal(ids(data), {"val": 0.1, "test": 0.2}, 0)
    np.testing.assert_array_equal(data.mask("day/03.jpg"), labels(2, 3))
    assert opened(tmp_path, name="masks", root="beach", classes=["a", "b", "c"]).classes[0] == "a"


def test_masks_ignore_one_label(tmp_path: Path) -> None:
    root = masks(tmp_path, 1)
    save(root / "masks" / "day" / "00.png", np.array([[0, 1] * 4] * 8, np.uint8))
    data = opened(tmp_path, name="masks", root="beach", ignore=0)
    assert set(np.unique(data.mask("day/00.jpg"))) == {1, IGNORED}


@pytest.mark.parametrize(("names", "reason"), [
    (None, r"classes\.txt: not found; expected"), ("\n \n", r"0 classes; expected 1 … 255"),
])
def test_masks_without_classes_say_where_to_name_them(
    tmp_path: Path, names: str | None, reason: str,
) -> None:
    masks(tmp_path, 1, names)
    with pytest.raises(DataError, match=reason):
        opened(tmp_path, name="masks", root="beach").mask("day/00.jpg")


def test_masks_that_are_missing_or_out_of_range_are_named(tmp_path: Path) -> None:
    root = masks(tmp_path)
    data = opened(tmp_path, name="masks", root="beach")
    save(root / "masks" / "day" / "00.png", np.full((8, 8), 300, np.uint16))
    with pytest.raises(DataError, match="label 300 at x = 0, y = 0 is not one of 0 … 2, 255"):
        data.mask("day/00.jpg")
    (root / "masks" / "day" / "01.png").unlink()
    with pytest.raises(DataError, match=r"01\.jpg: has no labels, .*01\.png not found; expected"):
        data.samples()
    (root / "masks").rename(root / "labels")
    with pytest.raises(DataError, match=r"masks: folder not found; expected <root>/images/"):
        data.samples()


OBJECT = np.zeros((8, 8), np.uint8)
OBJECT[2:6, 3:7] = 1
RED, BLUE = (np.array(c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))


def one_mask(data: Path, pixels: Any, *others: Any, name: str = "00.png", **section: Any) -> Any:
    """A data set of masks of two classes, of which the first has these pixels."""
    for i, labelled in enumerate((pixels, *others)):
        save(data / "beach" / "images" / f"{i:02d}.jpg", picture(i))
        save(data / "beach" / "masks" / (name if not i else f"{i:02d}.png"), labelled)
    return opened(data, name="masks", root="beach", **{"classes": ["ground", "thing"], **section})


@pytest.mark.parametrize("pixels", [
    OBJECT, OBJECT * 255, OBJECT.astype(bool), np.stack([OBJECT] * 3, -1),
    np.stack([OBJECT * 255] * 3, -1), np.stack([OBJECT * 255] * 4, -1),
    np.stack([OBJECT, OBJECT * 0 + 255], -1), OBJECT.astype(np.uint16)])
def test_the_object_is_the_object_however_it_is_saved(tmp_path: Path, pixels: Any) -> None:
    data = one_mask(tmp_path, pixels)
    np.testing.assert_array_equal(data.mask("00.jpg"), OBJECT)


@pytest.mark.parametrize("name", ["00.PNG", "00.tif", "00.bmp"])
def test_label_pictures_may_have_any_lossless_suffix(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(one_mask(tmp_path, OBJECT, name=name).mask("00.jpg"), OBJECT)


def test_255_does_not_count_where_other_labels_do(tmp_path: Path) -> None:
    data = one_mask(tmp_path, OBJECT * 255, OBJECT)
    assert set(np.unique(data.mask("00.jpg"))) == {0, IGNORED}
    data = one_mask(tmp_path / "b", OBJECT * 255, ignore=255)
    assert set(np.unique(data.mask("00.jpg"))) == {0, IGNORED}


def test_black_and_white_for_three_classes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    data = one_mask(tmp_path, OBJECT * 255, OBJECT * 255, classes=["a", "b", "c"])
    with pytest.raises(DataError, match=r"dataset\.values: \{0: background, 255: object\}"):
        data.mask("00.jpg")
    values = {0: "a", 255: "c"}
    data = one_mask(tmp_path, OBJECT * 255, classes=["a", "b", "c"], values=values)
    np.testing.assert_array_equal(data.mask("00.jpg"), OBJECT * 2)


def test_values_say_what_labels_and_colours_mean(tmp_path: Path) -> None:
    data = one_mask(tmp_path, OBJECT * 18 + 4, values={4: "ground", 22: "thing"})
    np.testing.assert_array_equal(data.mask("00.jpg"), OBJECT)
    coloured = np.where(OBJECT[..., None] == 1, RED, BLUE)
    given = {"#0000ff": None, "#ff0000": "thing"}
    data = one_mask(tmp_path, coloured, values=given, classes=None)
    assert data.classes == ("thing",)
    np.testing.assert_array_equal(data.mask("00.jpg"), np.where(OBJECT == 1, 0, IGNORED))
    for values, reason in (({"#0000ff": "ground"}, "colour #ff0000 at x = 3, y = 2 .*'#ff0000'"),
                           ({"red": "ground"}, "'red' is not a label"),
                           ({-1: "ground"}, "'-1' is not a label: expected whole .* 0 … 65535"),
                           ({65536: "ground"}, "'65536' is not a label"),
                           ({0: "thin"}, r"'thin' is none .*did you mean 'thing'")):
        with pytest.raises(DataError, match=reason):
            wrong = one_mask(tmp_path, coloured, values=values)
            wrong.mask(ids(wrong)[0])


@pytest.mark.parametrize(("section", "hint"), [
    ({"classes": ["a", "a"]}, "class 'a' is named twice, in dataset.classes"),
    ({"classes": None, "values": {0: "a", 1: "b"}, "ignore": 1}, "1: 'b', but dataset.ignore"),
    ({"classes": None, "values": {"#0000ff": "a", "#0000FF": "b"}}, "#0000FF: 'b', but"),
])
def test_labels_that_mean_two_things_are_refused(tmp_path: Path, section: Any, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        one_mask(tmp_path, OBJECT, **section).samples()


@pytest.mark.parametrize(("pixels", "section", "hint"), [
    (OBJECT * 2, {}, "label 2 at x = 3, y = 2 .*try dataset.ignore: 2, or classes: 3 names"),
    (OBJECT + 1, {}, r"dataset.values: \{1: …, 2: …\}"),
    (OBJECT * 200, {}, "which class each label is in dataset.values"),
    (OBJECT * 255, {"ignore": "none"}, "dataset.ignore: 255 if it does not count"),
    (OBJECT[:6], {}, "6 × 8 labels for an image of 8 × 8 .*; make them as large as the upright"),
    (np.where(OBJECT[..., None] == 1, RED, BLUE), {}, r"dataset.values, as in \{'#ff0000': car"),
])
def test_labels_of_no_class_are_named_with_the_way_out(tmp_path: Path, pixels: Any,
                                                       section: Any, hint: str) -> None:
    with pytest.raises(DataError, match=hint) as caught:
        one_mask(tmp_path, pixels, OBJECT, **section).mask("00.jpg")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "hint"), [
    ("00.jpg", "JPEG does not keep labels"), ("00_mask.png", "there is 00_mask.png, which is")])
def test_missing_label_pictures_say_what_is_there(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(DataError, match=f"has no labels, .*{hint}"):
        one_mask(tmp_path, OBJECT, name=name).samples()


def test_two_images_cannot_share_a_label_picture(tmp_path: Path) -> None:
    data = one_mask(tmp_path, OBJECT)
    save(tmp_path / "beach" / "images" / "00.png", picture(5))
    with pytest.raises(DataError, match=r"'00\.png' has the same name but for its suffix"):
        data.samples()


# -------------------------------------------------------------------------------------- pairs

HEAD = "image,point,x,y\n"


def table(data: Path, text: str, **section: Any) -> Any:
    for name in ("a", "b", "c"):
        for folder in ("cat", "dog"):
            save(data / "pets" / folder / f"{name}.png", picture(ord(name)))
    write(data / "pets" / "points.csv", text)
    return opened(data, name="pairs", root="pets", val=0.0, **{"test": 0.0, **section})


def test_points_are_named_by_category_and_missing_ones_are_invisible(tmp_path: Path) -> None:
    data = table(tmp_path, "image,point,x,y,visible\n"
                 "cat/a.png,nose,1,2.5,\ncat/a.png,ear,3,4,1\n"
                 "cat/b.png,tail,5,6,no\ncat/b.png,ear,7,7,true\ndog/a.png,paw,1,1,1\n")
    assert isinstance(data, CorrespondenceDataset)
    assert ids(data) == ["cat/a.png", "cat/b.png", "dog/a.png"]
    found = data.keypoints("cat/b.png")
    assert found.visible.tolist() == [False, True, False] and found.size == (8, 8)
    np.testing.assert_array_equal(found.xy, [[np.nan, np.nan], [7, 7], [5, 6]])
    np.testing.assert_array_equal(found.box, [7, 7, 7, 7])
    assert len(data.keypoints("dog/a.png").xy) == 1
    assert data.pairs("train") == [Pair("cat/a.png", "cat/b.png", "cat"),
                                   Pair("cat/b.png", "cat/a.png", "cat")]
    assert [p.shared.sum() for p in load_pairs(data, None)] == [1, 1]


def test_pairs_may_be_listed(tmp_path: Path) -> None:
    points = HEAD + "".join(f"cat/{n}.png,nose,1,1\n" for n in "abc") + "dog/a.png,nose,1,1\n"
    write(tmp_path / "pets" / "pairs.csv", "source,target\ncat/a.png,cat/c.png\n")
    data = table(tmp_path, points, pairs="pairs.csv")
    assert data.pairs(None) == data.pairs("train") == [Pair("cat/a.png", "cat/c.png", "cat")]
    for line, reason in (("cat/a.png,cat/d.png", r"'cat/d\.png' has no points in points\.csv"),
                         ("cat/a.png,dog/a.png", "are of two categories")):
        write(tmp_path / "pets" / "pairs.csv", f"source,target\n{line}\n")
        with pytest.raises(DataError, match=rf"pairs\.csv:2: .*{reason}"):
            table(tmp_path, points, pairs="pairs.csv").pairs(None)


def test_of_many_wrong_lines_one_is_explained(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for the nearest name among all images, for every line, would take hours."""
    asked: list[str] = []
    monkeypatch.setattr("gate_cache.datasets.pairs.did_you_mean",
                        lambda name, _: asked.append(name) or "")
    write(tmp_path / "pets" / "pairs.csv", "source,target\na.png,c.png\nb.png,c.png\n")
    points = HEAD + "".join(f"cat/{n}.png,nose,1,1\n" for n in "abc")
    with pytest.raises(DataError, match=r"pairs\.csv:2: 'a\.png' has no .*\(2 lines are wrong\)"):
        table(tmp_path, points, pairs="pairs.csv").pairs(None)
    assert asked == ["a.png"] and did_you_mean("12", map(str, range(10**6))) == ""


def test_listed_pairs_across_splits_are_in_none(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / "own" / split / "cat" / "a.png", picture(1))
    write(tmp_path / "own" / "points.csv", HEAD + "train/cat/a.png,nose,1,1\n"
                                                  "test/cat/a.png,nose,1,1\n")
    write(tmp_path / "own" / "pairs.csv", "source,target\ntrain/cat/a.png,test/cat/a.png\n")
    data = opened(tmp_path, name="pairs", root="own", pairs="pairs.csv")
    assert [len(data.pairs(s)) for s in (*SPLITS, None)] == [0, 0, 0, 1]
    assert data.category("test/cat/a.png") == "cat"


@pytest.mark.parametrize(("text", "reason"), [
    ("image,point,x\n", r"no column 'y'; expected image, point, x, y"),
    (HEAD, "no points; expected"),
    (HEAD + "cat/a.png,nose,one,2\n", r":2: x = 'one', y = '2' are not numbers"),
    (HEAD + "cat/a.png,nose,nan,2\n", ":2: no 'x', and there is the other"),
    (HEAD + "cat/a.png,nose,1\n", ":2: no 'y'"),
    (HEAD + "cat/a.png,nose,1,2\ncat/a.png,nose,1,2\n", ":3: .*has a point 'nose' already"),
    (HEAD + "cat/z.png,nose,1,2\n", r"z\.png: image not found, and points\.csv has points"),
    ("image,point,x,y,visible\ncat/a.png,nose,1,2,perhaps\n", ":2: visible is 'perhaps'"),
])
def test_strange_tables_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        table(tmp_path, text).samples()
    assert "\n" not in str(caught.value)


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    data = table(tmp_path, "\ufeffimage,point,x,y,note\r\n"
                 '"cat/a.png", nose ,1,2,"a, b"\r\n\r\n')
    assert data.keypoints("cat/a.png").xy.tolist() == [[1, 2]]


# ----------------------------------------------------------------------------------- toyworld


def toyworld(**section: Any) -> Any:
    return opened(Path("gone"), name="toyworld", train=8, val=8, test=8, **section)


def test_toyworld_runs_every_task() -> None:
    data = toyworld()
    for kind in (CorrespondenceDataset, SegmentationDataset, ClassifiedDataset):
        assert isinstance(data, kind)
    assert [data.classes[data.label(i)] for i in ids(data)] == [i.split("/")[1] for i in ids(data)]


def test_toyworld_masks_show_the_category_and_background() -> None:
    data = toyworld()
    for i in ids(data):
        assert set(np.unique(data.mask(i))) == {data.label(i), len(CATEGORIES)}
        np.testing.assert_array_equal(data.mask(i) != len(CATEGORIES), data.scene(i).parts > 0)


def test_toyworld_parts_are_named_after_their_category() -> None:
    data = toyworld(masks="parts")
    assert len(set(data.classes)) == len(data.classes) and data.classes[-1] == "background"
    for i in ids(data):
        category = i.split("/")[1]
        shown = {data.classes[c] for c in np.unique(data.mask(i))} - {"background"}
        assert shown and all(name.startswith(f"{category} ") for name in shown)
        assert len(shown) == len(np.unique(data.scene(i).parts)) - 1
    with pytest.raises(DataError, match="set 'masks: categories'"):
        data.label(ids(data)[0])
