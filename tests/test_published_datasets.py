"""Published layouts: what is read from a sound tree, and the line that a wrong one gets."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from published_trees import IMAGES, TREES, cifar, cityscapes, labels, picture, save, write
from pydantic import TypeAdapter
from scipy.io import savemat

from gate_cache.core.errors import DataError
from gate_cache.core.roots import Roots
from gate_cache.datasets.cityscapes import LABELS
from gate_cache.datasets.common.base import (
    IGNORED,
    SPLITS,
    ClassifiedDataset,
    CorrespondenceDataset,
    Pair,
    SegmentationDataset,
)
from gate_cache.datasets.common.images import read_labels
from gate_cache.datasets.registry import open_dataset
from gate_cache.extraction.plan import plan
from gate_cache.extraction.validate import validate
from gate_cache.learn.tasks.correspondence import sample
from gate_cache.manifest.dataset_specs import DatasetSpec
from gate_cache.manifest.load import load
from gate_cache.workspace.workspace import Workspace

MANIFESTS = Path(__file__).parents[1] / "manifests"
CORRESPONDENCE = ("spair", "pf-pascal")
SEGMENTATION = ("horse-21", "bedroom-28", "ade20k", "cityscapes")


def opened(data: Path, **section: Any) -> Any:
    """The data set of a manifest's section, below `data`."""
    spec: Any = TypeAdapter(DatasetSpec).validate_python(section)
    return open_dataset(spec, Roots(data=data))


def made(name: str, data: Path, **section: Any) -> Any:
    """A data set in its published layout."""
    TREES[name](data)
    return opened(data, name=name, **section)


def ids(dataset: Any) -> list[str]:
    return [s.id for s in dataset.samples()]


def splits(dataset: Any) -> Counter[str]:
    return Counter(dataset.split_of(i) for i in ids(dataset))


# --------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", [*TREES, "spair-released", "horse-21-released"])
def test_manifest_is_sound_and_counts_the_images_of_a_small_tree(
    tmp_path: Path, name: str,
) -> None:
    data = name.removesuffix("-released")
    TREES[data](tmp_path)
    loaded, roots = load(MANIFESTS / f"{name}.yaml"), Roots(
        tmp_path, tmp_path / "models", tmp_path / "stores", tmp_path / "runs")
    assert not [n for n in validate(Workspace(loaded, roots)).absent if "expected" in n]
    found = plan(Workspace(loaded, roots))
    assert found.images == IMAGES[data]
    assert any("counted as Stable Diffusion 1.5" in n for n in found.notes)
    first = next(line for line in found.lines if line.kind == "conv")
    assert first.shapes["up1"] == (1280, 32, 64 if name == "cityscapes" else 32)


@pytest.mark.parametrize(("name", "images"), [("spair", 1_800), ("cifar-10", 60_000)])
def test_a_plan_needs_no_data_set_that_is_published(tmp_path: Path, name: str, images: int) -> None:
    work = Workspace(load(MANIFESTS / f"{name}.yaml"), Roots(
        tmp_path, tmp_path / "models", tmp_path / "stores", tmp_path / "runs"))
    found = plan(work)
    assert found.images == images and found.unet_passes == images * found.pieces.unet_passes
    assert any(n.startswith(f"the data set is not here yet: counted as about {images:,} images")
               for n in found.notes)
    (tmp_path / str(work.manifest.dataset.root)).mkdir()  # there, and something is wrong with it
    with pytest.raises(DataError):
        plan(work)


@pytest.mark.parametrize("name", ["spair", "horse-21"])
def test_paper_and_released_code_differ_where_the_docs_say(tmp_path: Path, name: str) -> None:
    """One pass at t = 50 for features with ControlNet, or eleven from 61 to 51."""
    TREES[name](tmp_path)
    roots = Roots(tmp_path, tmp_path / "models", tmp_path / "stores", tmp_path / "runs")
    paper, code = (load(MANIFESTS / f"{n}.yaml") for n in (name, f"{name}-released"))
    assert paper.manifest.combos.keys() == code.manifest.combos.keys()
    assert {c.t for c in paper.manifest.combos.values()} == {50}
    assert {c.t for c in code.manifest.combos.values()} == {51}
    for loaded, conv, attention in ((paper, 1, 2), (code, 11, 11)):
        lines = {line.name: line for line in plan(Workspace(loaded, roots)).lines}
        assert lines["prompt-0"].unet_passes == IMAGES[name]
        assert lines["control-0"].unet_passes == conv * IMAGES[name]
        assert lines["attn-0"].unet_passes == attention * IMAGES[name]
        assert lines["attn-0"].shapes == {"attn1": (77, 16, 16), "attn2": (77, 32, 32)}
    assert code.manifest.train.weights == "channel" and code.manifest.train.assigners == 1


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda p: p.name)
def test_manifest_opens_with_a_command(path: Path) -> None:
    line = path.read_text(encoding="utf-8").splitlines()[0]
    assert line.startswith(("# make ", "# gate-cache ", "# python -m "))


@pytest.mark.parametrize("name", TREES)
def test_missing_data_set_says_where_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"not found; expected .*https?://.*--data\)") as caught:
        opened(tmp_path, name=name).samples()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TREES)
def test_empty_folder_gets_a_line(tmp_path: Path, name: str) -> None:
    shutil.rmtree(folder := TREES[name](tmp_path))
    folder.mkdir()
    with pytest.raises(DataError, match="expected "):
        opened(tmp_path, name=name).samples()


@pytest.mark.parametrize("name", TREES)
def test_ids_are_fixed_distinct_and_every_image_is_in_one_split(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    assert ids(data) == ids(opened(tmp_path, name=name))
    assert len(set(ids(data))) == IMAGES[name]
    assert set(splits(data)) <= set(SPLITS) and splits(data)["test"]
    assert not any(i.startswith("/") for i in ids(data))


@pytest.mark.parametrize("name", TREES)
def test_images_have_the_size_that_is_announced(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    for i in ids(data):
        assert data.image(i).shape == (*data.size(i), 3)
        assert len(data.sha256(i)) == 64


@pytest.mark.parametrize("name", [n for n in TREES if n != "cifar-10"])
def test_damaged_image_is_named(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    path = data.path(ids(data)[0])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{path.name}: cannot be read as an image"):
        data.image(ids(data)[0])


def test_listing_loads_no_library_of_arrays_or_images(tmp_path: Path) -> None:
    for tree in TREES.values():
        tree(tmp_path)
    code = f"""
import sys
from pathlib import Path
from pydantic import TypeAdapter
from gate_cache.manifest.dataset_specs import DatasetSpec
from gate_cache.datasets.registry import open_dataset
from gate_cache.core.roots import Roots
for name in {list(TREES)}:
    data = open_dataset(TypeAdapter(DatasetSpec).validate_python({{"name": name}}),
                        Roots(Path({str(tmp_path)!r})))
    assert [data.split_of(s.id) for s in data.samples()]
print(sorted({{"numpy", "cv2", "PIL", "scipy", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", TREES)
def test_protocols_that_a_set_keeps(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    assert isinstance(data, CorrespondenceDataset) == (name in CORRESPONDENCE)
    assert isinstance(data, SegmentationDataset) == (name in SEGMENTATION)
    assert isinstance(data, ClassifiedDataset) == (name == "cifar-10")
    assert len(data.protocol) > 20


# ------------------------------------------------------------------------------ correspondence


def test_spair_keeps_images_of_one_name_apart(tmp_path: Path) -> None:
    data = made("spair", tmp_path)
    assert {"cat/a.jpg", "dog/a.jpg"} <= set(ids(data))
    assert data.sha256("cat/c.jpg") == data.sha256("dog/c.jpg")
    assert (data.split_of("cat/c.jpg"), data.split_of("dog/c.jpg")) == ("val", "test")


def test_spair_pairs_are_the_published_ones_in_their_order(tmp_path: Path) -> None:
    data = made("spair", tmp_path)
    assert data.pairs("test") == [Pair("dog/c.jpg", "dog/d.jpg", "dog"),
                                  Pair("dog/d.jpg", "dog/c.jpg", "dog")]
    assert [len(data.pairs(s)) for s in (*SPLITS, None)] == [3, 1, 2, 6]
    assert opened(tmp_path, name="spair", layout="small").pairs("test") == data.pairs("test")


def test_spair_points_that_are_null_are_not_visible(tmp_path: Path) -> None:
    found = made("spair", tmp_path).keypoints("cat/a.jpg")
    hidden = (ord("a") + 3) % 3
    assert found.visible.nonzero()[0].tolist() == [i for i in range(3) if i != hidden]
    assert found.xy.shape == (30, 2) and found.size == (6, 8)
    np.testing.assert_array_equal(found.xy[2], [3.5, 4.5])
    np.testing.assert_array_equal(found.box, [1, 1, 7, 5])


def test_spair_points_are_read_where_dift_reads_them(tmp_path: Path) -> None:
    """DIFT enlarges maps to the picture, takes pixel [y, x] of a point and compares indices.

    A descriptor at a point is that pixel's, and the distance of two pixels is that of indices.
    """
    data = made("spair", tmp_path)
    kps = {"0": [2, 1], "1": [7, 5]}
    found = spair_annotation(data, kps=kps)
    maps = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(maps[None], found.size, mode="bilinear")[0]
    expected = F.normalize(torch.stack([enlarged[:, 1, 2], enlarged[:, 5, 7]]), dim=1)
    points = torch.from_numpy(found.xy[:2] / [8, 6]).float()
    torch.testing.assert_close(sample(maps, points), expected)
    assert np.hypot(*(found.xy[1] - found.xy[0])) == np.hypot(5, 4)


@pytest.mark.parametrize(("text", "reason"), [
    ("", "Expecting value"), ("[]", "indices must be"), ("{}", "no 'kps'"),
    ('{"kps": {"99": [1, 2]}}', "99 is not one of"), ('{"kps": {"0": [1]}}', "not 2 numbers"),
    ('{"kps": {"0": ["x", 2]}}', "could not convert"), ('{"kps": null}', "NoneType"),
    ('{"kps": {"0": null}, "bndbox": [1], "image_height": 1, "image_width": 1}', "not 4 numbers"),
    ('{"kps": {}, "bndbox": [0, 0, 1, 1], "image_height": Infinity}', "float infinity"),
])
def test_spair_annotation_that_makes_no_sense_is_named(
    tmp_path: Path, text: str, reason: str,
) -> None:
    data = made("spair", tmp_path)
    write(data.annotation("cat/a.jpg"), text)
    with pytest.raises(DataError, match=rf"a\.json: no key points can be read \(.*{reason}"):
        data.keypoints("cat/a.jpg")


def spair_annotation(data: Any, **fields: Any) -> Any:
    """Change an image's file; its picture is 6 × 8 (height × width)."""
    path = data.annotation("cat/a.jpg")
    write(path, json.dumps({**json.loads(path.read_text()), **fields}))
    return data.keypoints("cat/a.jpg")


def test_spair_points_outside_the_picture_are_not_visible(tmp_path: Path) -> None:
    kps = {"0": [400, 2], "1": [-1, -1], "2": [8, 6], "3": [0, 0], "4": [3, 6.5]}
    found = spair_annotation(made("spair", tmp_path), kps=kps)
    assert found.visible.nonzero()[0].tolist() == [2, 3]
    np.testing.assert_array_equal(found.xy[[2, 3]], [[8, 6], [0.5, 0.5]])


@pytest.mark.parametrize(("fields", "reason"), [
    ({"image_width": 16, "image_height": 12}, "is of an image of 16 × 12, and the file has 8 × 6"),
    ({"bndbox": [7, 5, 1, 1]}, "the box 7, 5, 1, 1 is not x0, y0, x1, y1 in a picture of 8 × 6"),
    ({"bndbox": [1, 1, 70, 5]}, "the box 1, 1, 70, 5 is not"),
])
def test_spair_annotation_of_another_picture_is_refused(tmp_path: Path, fields: Any,
                                                        reason: str) -> None:
    with pytest.raises(DataError, match=f"a.json: {reason}"):
        spair_annotation(made("spair", tmp_path), **fields)


def test_a_name_in_a_list_cannot_climb_out(tmp_path: Path) -> None:
    path = TREES["spair"](tmp_path) / "Layout" / "large" / "val.txt"
    for line in ("000001-../../x-a:cat", "000001-a-b:..", "000001-a-b:cat/.."):
        write(path, f"{line}\n")
        with pytest.raises(DataError, match=r"val\.txt:1: .* is not a pair"):
            opened(tmp_path, name="spair").samples()


def test_pf_pascal_reads_what_pandas_and_matlab_write(tmp_path: Path) -> None:
    data = made("pf-pascal", tmp_path)
    kps = np.array([[1, 2], [-1, -1], [9, 4], [8, 8]])
    savemat(data.annotation("aeroplane/a.jpg"), {"kps": kps, "bbox": [[1, 2, 7, 8]]})
    assert data.keypoints("aeroplane/a.jpg").visible.tolist() == [True, False, False, True]
    path = data.list_file("val")
    text = path.read_text()
    before = data.pairs("val")
    write(path, "\n".join([text.splitlines()[0], *(line.replace(",1,", ",1.0,")
                                                   for line in text.splitlines()[1:])]))
    assert opened(tmp_path, name="pf-pascal").pairs("val") == before


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png"])
def test_ade20k_images_of_other_suffixes_have_their_labels(tmp_path: Path, suffix: str) -> None:
    data = made("ade20k", tmp_path)
    first = data.path(ids(data)[0])
    save(first.with_suffix(suffix), picture(1))
    first.unlink()
    again = opened(tmp_path, name="ade20k")
    assert len(ids(again)) == 24 and again.mask(ids(again)[0]).shape == (8, 8)


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    data = made("ade20k", tmp_path)
    for i in ids(data)[3:8]:
        data.label_file(i).unlink()
    with pytest.raises(DataError, match=r"\(5 of 24 images have none\)"):
        data.samples()


@pytest.mark.parametrize("name", CORRESPONDENCE)
@pytest.mark.parametrize("kind", ["path", "annotation"])
def test_missing_file_of_a_listed_image_is_named(tmp_path: Path, name: str, kind: str) -> None:
    data = made(name, tmp_path)
    gone = getattr(data, kind)(ids(data)[-1])
    gone.unlink()
    with pytest.raises(DataError, match=rf"{gone.name}: (image|file of key points) not found"):
        data.samples()


def test_spair_missing_list_and_strange_lines_are_named(tmp_path: Path) -> None:
    path = TREES["spair"](tmp_path) / "Layout" / "large" / "val.txt"
    write(path, "000001-a-b:cat\nnonsense\n")
    with pytest.raises(DataError, match=r"val\.txt:2: 'nonsense' is not a pair; expected 000001-"):
        opened(tmp_path, name="spair").samples()
    path.unlink()
    with pytest.raises(DataError, match=r"val\.txt: not found; expected SPair-71k"):
        opened(tmp_path, name="spair").samples()


def test_pf_pascal_image_of_two_classes_is_two_samples(tmp_path: Path) -> None:
    data = made("pf-pascal", tmp_path)
    assert {"aeroplane/a.jpg", "bicycle/a.jpg"} <= set(ids(data))
    assert data.path("aeroplane/a.jpg") == data.path("bicycle/a.jpg")
    assert (data.split_of("aeroplane/a.jpg"), data.split_of("bicycle/a.jpg")) == ("train", "test")


def test_pf_pascal_flipped_repeats_count_once(tmp_path: Path) -> None:
    data = made("pf-pascal", tmp_path)
    assert [len(data.pairs(s)) for s in SPLITS] == [2, 1, 2]


def test_pf_pascal_points_are_matlabs(tmp_path: Path) -> None:
    found = made("pf-pascal", tmp_path).keypoints("bicycle/a.jpg")
    np.testing.assert_array_equal(found.xy[:2], [[0.5, 1.5], [2.5, 3.5]])
    assert found.visible.tolist() == [True, True, False]
    np.testing.assert_array_equal(found.box, [0.5, 1.5, 6.5, 7.5])


def test_pf_pascal_lists_have_either_name(tmp_path: Path) -> None:
    root = TREES["pf-pascal"](tmp_path)
    (root / "trn_pairs.csv").rename(root / "train_pairs_pf_pascal.csv")
    assert len(ids(opened(tmp_path, name="pf-pascal"))) == IMAGES["pf-pascal"]


@pytest.mark.parametrize(("text", "reason"), [
    ("source_image,target_image\n", r"no column 'class'; expected source_image"),
    ("source_image,target_image,class\na.jpg,b.jpg,21\n", r":2: class '21' is not 1 … 20"),
    ("source_image,target_image,class\na.jpg,,1\n", r":2: no 'target_image'"),
    ('source_image,target_image,class\na.jpg,"b.jpg,1\n', "not a table"),
])
def test_pf_pascal_strange_list_is_named(tmp_path: Path, text: str, reason: str) -> None:
    write(TREES["pf-pascal"](tmp_path) / "val_pairs.csv", text)
    with pytest.raises(DataError, match=rf"val_pairs\.csv.*{reason}"):
        opened(tmp_path, name="pf-pascal").samples()


def test_pf_pascal_damaged_points_are_named(tmp_path: Path) -> None:
    data = made("pf-pascal", tmp_path)
    data.annotation("bicycle/c.jpg").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match=r"c\.mat: no key points can be read"):
        data.keypoints("bicycle/c.jpg")


# -------------------------------------------------------------------------------- segmentation


@pytest.mark.parametrize(("name", "classes"), [
    ("horse-21", 21), ("bedroom-28", 28), ("ade20k", 150), ("cityscapes", 19), ("ffhq-34", 34),
    ("cat-15", 15), ("celeba-19", 19),
])
def test_classes_are_as_many_as_published_and_have_names(name: str, classes: int) -> None:
    names = opened(Path("gone"), name=name).classes
    assert len(names) == len(set(names)) == classes
    assert all(n == n.strip() and n for n in names)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_masks_have_the_images_size_and_known_classes(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    for i in ids(data):
        mask = data.mask(i)
        assert mask.shape == data.size(i) and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(data.classes)), IGNORED}


def relabel(data: Any, sample_id: str, values: Any) -> Path:
    path: Path = data.label_file(sample_id)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        save(path, values)
    return path


@pytest.mark.parametrize(("name", "label", "expected"), [
    ("horse-21", 0, 0), ("horse-21", 20, 20), ("horse-21", 255, IGNORED),
    ("bedroom-28", 0, IGNORED), ("bedroom-28", 28, 27),
    ("ade20k", 0, IGNORED), ("ade20k", 1, 0), ("ade20k", 150, 149),
    ("cityscapes", 0, IGNORED), ("cityscapes", 7, 0), ("cityscapes", 9, IGNORED),
    ("cityscapes", 26, 13), ("cityscapes", 33, 18),
])
def test_labels_are_translated_as_published(
    tmp_path: Path, name: str, label: int, expected: int,
) -> None:
    data = made(name, tmp_path)
    first = ids(data)[0]
    relabel(data, first, np.full((8, 8), label, np.uint8))
    assert set(np.unique(data.mask(first))) == {expected}


@pytest.mark.parametrize(("name", "label", "known"), [
    ("horse-21", 21, "0 … 20, 255"), ("bedroom-28", 29, "0 … 28, 255"), ("ade20k", 151, "0 … 150"),
    ("cityscapes", 34, "0 … 33, 255"),
])
def test_label_out_of_range_is_named(tmp_path: Path, name: str, label: int, known: str) -> None:
    data = made(name, tmp_path)
    values = np.zeros((8, 8), np.uint8)
    values[3, 5] = label
    path = relabel(data, ids(data)[0], values)
    with pytest.raises(DataError) as caught:
        data.mask(ids(data)[0])
    assert str(caught.value) == f"{path}: label {label} at x = 5, y = 3 is not one of {known}"


@pytest.mark.parametrize("name", SEGMENTATION)
def test_missing_and_damaged_labels_are_named(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    first = ids(data)[0]
    path = data.label_file(first)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DataError, match=f"{path.name}: cannot be read as labels"):
        data.mask(first)
    path.unlink()
    with pytest.raises(DataError, match=f"has no labels, .*{path.name} not found; expected"):
        data.samples()


@pytest.mark.parametrize("name", ["ade20k", "cityscapes"])
def test_labels_of_another_size_are_refused(tmp_path: Path, name: str) -> None:
    data = made(name, tmp_path)
    relabel(data, ids(data)[0], labels(9, height=4))
    with pytest.raises(DataError, match="4 × 8 labels for an image of 8 × 8"):
        data.mask(ids(data)[0])


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "cifar-10"])
def test_val_is_a_share_of_train_and_never_of_test(tmp_path: Path, name: str) -> None:
    plain, shared = made(name, tmp_path, val=0.0), opened(tmp_path, name=name, val=0.25)
    other = opened(tmp_path, name=name, val=0.25, split_seed=1)
    test = {i for i in ids(plain) if plain.split_of(i) == "test"}
    assert test == {i for i in ids(shared) if shared.split_of(i) == "test"}
    train = splits(plain)["train"]
    assert splits(shared) == {"train": train - round(train / 4), "val": round(train / 4),
                              "test": len(test)}
    assert [shared.split_of(i) for i in ids(shared)] != [other.split_of(i) for i in ids(other)]


def test_cityscapes_without_label_ids_reads_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, ["labelTrainIds"])
    data = opened(tmp_path, name="cityscapes")
    first = ids(data)[0]
    np.testing.assert_array_equal(data.mask(first), read_labels(data.label_file(first)))


def test_cityscapes_leaves_out_images_whose_labels_are_withheld(tmp_path: Path) -> None:
    data = made("cityscapes", tmp_path)
    assert {i.split("/")[0] for i in ids(data)} == {"train", "val"}
    assert sorted(c for c in LABELS.values() if c != IGNORED) == list(range(19))


# ------------------------------------------------------------------------- label-scarce splits


def test_folds_have_the_published_numbers_and_differ(tmp_path: Path) -> None:
    found = [made("horse-21", tmp_path)] + [opened(tmp_path, name="horse-21", fold=f)
                                            for f in range(1, 5)]
    assert all(splits(data) == {"train": 3, "test": 2} for data in found)
    assert len({tuple(ids(data)) for data in found}) == 1
    assert len({tuple(data.split_of(i) for i in ids(data)) for data in found}) > 1


def test_fold_is_the_shuffle_of_the_released_code(tmp_path: Path) -> None:
    data = made("horse-21", tmp_path, fold=3)
    pool = ids(data)
    random.seed(3)
    random.shuffle(pool)
    assert {i for i in pool if data.split_of(i) == "train"} == set(pool[:3])


def test_without_a_fold_the_folders_are_the_split(tmp_path: Path) -> None:
    data = made("bedroom-28", tmp_path, fold=None)
    assert all(i.split("/")[0] == data.split_of(i) for i in ids(data))


def test_scarce_val_is_a_share_of_the_folds_training_images(tmp_path: Path) -> None:
    plain, data = made("horse-21", tmp_path), opened(tmp_path, name="horse-21", val=0.34)
    assert splits(data) == {"train": 2, "val": 1, "test": 2}
    assert all(data.split_of(i) == "test" for i in ids(plain) if plain.split_of(i) == "test")


def test_scarce_labels_of_another_size_are_brought_to_the_images(tmp_path: Path) -> None:
    data = made("horse-21", tmp_path)
    first = ids(data)[0]
    small = labels(20, height=4, width=4)
    np.save(data.label_file(first), small)
    np.testing.assert_array_equal(data.mask(first), small.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("values", "reason"), [
    (np.zeros((2, 2, 3)), r"shape \(2, 2, 3\)"), (np.full((8, 8), 0.5), "not whole"),
    (np.array([["x"]]), "invalid literal"), (np.array([[{}]], dtype=object), "allow_pickle"),
    (np.full((8, 8), -1), "label -1"),
    (np.zeros((4, 8)), r"4 × 8 labels for an image of 8 × 8 \(height × width\): of another shape"),
])
def test_scarce_tables_that_are_no_labels_are_named(
    tmp_path: Path, values: Any, reason: str,
) -> None:
    data = made("horse-21", tmp_path)
    first = ids(data)[0]
    np.save(data.label_file(first), values)
    with pytest.raises(DataError, match=rf"img_0\.npy: .*{reason}"):
        data.mask(first)


# -------------------------------------------------------------------------------------- CIFAR


def test_cifar_records_are_planes_after_a_label(tmp_path: Path) -> None:
    data = made("cifar-10", tmp_path)
    record = (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").read_bytes()[3073 * 4:]
    assert data.label("train/00024") == record[0] == 4
    image = data.image("train/00024")
    assert image.shape == (32, 32, 3)
    assert image[0, 1].tolist() == [record[2], record[2 + 1024], record[2 + 2048]]
    assert ids(data)[-1] == "test/00004" and data.split_of("test/00004") == "test"


@pytest.mark.parametrize("beside", [True, False])
def test_cifar_python_version_is_refused_unread(tmp_path: Path, beside: bool) -> None:
    folder = "cifar-10-batches-py" if beside else "cifar-10-batches-bin"
    write(tmp_path / folder / "data_batch_1", "cos\nsystem\n")
    with pytest.raises(DataError, match=r"python version, .*not read; .*cifar-10-binary\.tar\.gz"):
        opened(tmp_path, name="cifar-10").samples()


def test_cifar_batches_that_are_missing_torn_or_damaged_are_named(tmp_path: Path) -> None:
    root = cifar(tmp_path)
    path = root / "data_batch_2.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: record of 'train/00010' is damaged"):
        opened(tmp_path, name="cifar-10").label("train/00010")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 30729 bytes are not whole records"):
        opened(tmp_path, name="cifar-10").samples()
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_2\.bin: not found; expected"):
        opened(tmp_path, name="cifar-10").samples()


# ------------------------------------------------------------------------------ label pictures

GREYS = np.array([[0, 1], [2, 3]], np.uint8)


def palette(pixels: Any) -> Image.Image:
    image = Image.fromarray(pixels).convert("P")
    image.putdata(pixels.ravel().tolist())
    image.putpalette([200, 9, 9] * 256)
    return image


PICTURES: dict[str, Callable[[Path], None]] = {
    "grey": lambda p: Image.fromarray(GREYS).save(p),
    "palette": lambda p: palette(GREYS).save(p),
    "palette of 2 bits": lambda p: palette(GREYS).save(p, bits=2),
    "16 bits": lambda p: Image.fromarray(GREYS.astype(np.uint16) * 300).save(p),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_label_pictures_of_every_kind_are_read_as_numbers(tmp_path: Path, kind: str) -> None:
    PICTURES[kind](tmp_path / "x.png")
    scale = 300 if kind == "16 bits" else 1
    np.testing.assert_array_equal(read_labels(tmp_path / "x.png"), GREYS.astype(int) * scale)


def test_grey_of_few_bits_is_not_scaled(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body))

    for bits, rows in ((4, b"\0\x01\0\x23"), (2, b"\0\x10\0\xb0")):
        head = struct.pack(">IIBBBBB", 2, 2, bits, 0, 0, 0, 0)
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
                                         + chunk(b"IDAT", zlib.compress(rows))
                                         + chunk(b"IEND", b""))
        np.testing.assert_array_equal(read_labels(tmp_path / "x.png"), GREYS)


def test_colour_picture_is_no_label_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", picture(0))
    with pytest.raises(DataError, match=r"x\.png: cannot be read as labels \(a picture of colours"):
        read_labels(path)
