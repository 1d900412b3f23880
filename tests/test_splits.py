"""Splits by folders and by shares: near names are splits or refused, and no image moves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from published_trees import deal

from gate_cache.core.errors import DataError
from gate_cache.datasets.common.splits import Shares, SplitRule, Tree, split_named
from gate_cache.datasets.folder import ImageFolder

ROOT = Path("root")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(("names", "split"), [
    ("train Train TRAIN training trn train2017 train_set train-images images_train tr", "train"),
    ("val Val valid validation dev val2017 valid_set", "val"),
    ("test Test testing tst test2017 test_images te", "test"),
])
def test_near_names_are_the_split(names: str, split: str) -> None:
    assert {split_named(name) for name in [*names.split(), f" {split} "]} == {split}


@pytest.mark.parametrize("name", ["cat", "trained", "value", "latest", "contest", "tester",
                                  "strain", "trainer", "valley", "training day"])
def test_other_names_are_none(name: str) -> None:
    assert split_named(name) is None


@pytest.mark.parametrize(("ids", "expected"), [
    ("train/cat/1 validation/cat/2 Test/dog/3", "train:cat val:cat test:dog"),
    ("cat/train/1 cat/test/2 dog/test/3", "train:cat test:cat test:dog"),
    ("root/train/cat/1 root/val/dog/2", "train:cat val:dog"),
    ("train/train/1 train/bus/2 test/train/3", "train:train train:bus test:train"),
    ("test/cat/1 val/dog/2", "test:cat val:dog"),
    ("cat/1 dog/2", "train:cat train:dog"),
    ("bullet_train/1 bus/2", "train:bullet_train train:bus"),
])
def test_folders_say_split_and_class(tmp_path: Path, ids: str, expected: str) -> None:
    names = [f"{i}.png" for i in ids.split()]
    data = ImageFolder(touch(tmp_path, *names))
    assert [f"{data.split_of(i)}:{data.classes[data.label(i)]}" for i in names] == expected.split()


@pytest.mark.parametrize("ids", [
    "train/cat/1 cat/2", "cat/1 test/2", "train/1 trainval/2", "cat/train/1 dog/2", "train/1 2",
    "eval/cat/1", "cat/kitten/test/1 cat/kitten/2", "train/a/1 tests/a/2",
    "trainA/1 testB/2", "0_train/cat/1 1_test/cat/2", "trains/cat/1 vals/cat/2"])
def test_folders_of_both_kinds_are_refused(ids: str) -> None:
    with pytest.raises(DataError, match=r"like splits \(.*\), .*split_folders: false") as caught:
        Tree(ROOT, ids.split(), SplitRule())
    assert "\n" not in str(caught.value)
    assert set(Tree(ROOT, ids.split(), SplitRule(by_folder=False)).split_of.values()) == {"train"}


@pytest.mark.parametrize("ids", ["test/train/cat/1 test/val/cat/2", "train/train/1 test1/test1/2"])
def test_splits_in_splits_are_no_classes(ids: str) -> None:
    with pytest.raises(DataError, match=r"two folders called like splits; .*split_folders: false"):
        Tree(ROOT, ids.split(), SplitRule())


def test_classes_above_and_below_the_split_are_refused(tmp_path: Path) -> None:
    data = ImageFolder(touch(tmp_path, "a/train/cat/1.png", "b/train/dog/2.png"))
    with pytest.raises(DataError, match="classes lie both above the folders"):
        data.label("a/train/cat/1.png")


def place(seed: int, sample_id: str) -> float:
    """The definition: the sha256 as a number from 0 to 1."""
    return int(hashlib.sha256(f"{seed}/{sample_id}".encode()).hexdigest(), 16) / 2**256


@pytest.mark.parametrize("seed", [0, 7])
def test_shares_are_thresholds_on_a_hash(seed: int) -> None:
    ids = [f"cat/{k}.png" for k in range(3000)]
    found = deal(ids, {"val": 0.1, "test": 0.25}, seed)
    for i in ids:
        p = place(seed, i)
        assert found[i] == ("test" if p < 0.25 else "val" if p < 0.35 else "train")
    assert abs(list(found.values()).count("test") - 750) < 80
    assert abs(list(found.values()).count("val") - 300) < 60


def test_no_image_moves_when_others_come_or_go() -> None:
    shares = {"val": 0.2, "test": 0.3}
    ids = [f"{c}/{k}.png" for c in ("cat", "dog") for k in range(40)]
    every = Tree(ROOT, ids, SplitRule(shares, 3)).split_of
    for some in (ids[::3], ids[:7], ids[40:], [*reversed(ids)]):
        assert Tree(ROOT, some, SplitRule(shares, 3)).split_of == {i: every[i] for i in some}


def test_shares_of_one_split_do_not_depend_on_the_other() -> None:
    ids = [f"{k}.png" for k in range(200)]
    test = {i for i, s in deal(ids, {"test": 0.3}, 0).items() if s == "test"}
    assert test == {i for i, s in deal(ids, {"test": 0.3, "val": 0.3}, 0).items() if s == "test"}


@pytest.mark.parametrize("shares", [{}, {"val": 0.2}, {"test": 0.3}, {"val": 0.5, "test": 0.5}])
@pytest.mark.parametrize("named", ["", "train/", "test/"])
def test_many_are_split_as_each_is(tmp_path: Path, shares: Shares, named: str) -> None:
    ids = [f"{named}cat/{i} ü.jpg" for i in range(300)]
    tree = Tree(tmp_path, ids, SplitRule(shares, 3))
    assert tree.splits() == [tree.split(i) for i in ids] == list(tree.split_of.values())
    if not named:
        assert tree.splits() == list(deal(ids, shares, 3).values())
