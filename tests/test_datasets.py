"""Data sets: what is listed, how images are read, and what damaged files say."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import savemat

from gate_cache.core.errors import DataError, UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset
from gate_cache.datasets.common.images import read_rgb, size_of, to_frame
from gate_cache.datasets.folder import ImageFolder
from gate_cache.datasets.pf_willow import PFWillow
from gate_cache.datasets.registry import open_dataset
from gate_cache.datasets.toy import ToyWorld, _drawer
from gate_cache.manifest.dataset_specs import FolderSpec, PFWillowSpec, ToyWorldSpec
from gate_cache.toyworld import CATEGORIES

Pixels = npt.NDArray[np.uint8]
REAL_WILLOW = Path(os.environ.get("GATE_CACHE_DATA", "data")) / "PF-dataset-WILLOW"
ORIENTATION = 0x0112


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[np.generic], orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif) if orientation > 1 else image.save(path)
    return path


def ids(folder: Path) -> list[str]:
    return [s.id for s in ImageFolder(folder).samples()]


# ------------------------------------------------------------------------------------ folder


def test_folder_lists_nested_images_of_every_extension_sorted(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.JPG", "a/deep/x.webp", "top.jpeg", "a.tiff"]
    for name in [*names, "notes.txt", "b/2.png.bak", ".hidden.png", ".cache/y.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert ids(tmp_path) == sorted(names)


def test_folder_survives_links_that_lead_to_each_other(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").touch()
        (tmp_path / name / "link").symlink_to(tmp_path / other, target_is_directory=True)
    ids = [s.id for s in ImageFolder(tmp_path).samples()]
    assert ids == ["a/a.png", "a/link/b.png", "b/b.png", "b/link/a.png"]


def test_folder_survives_links_that_loop(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert ids(tmp_path) == ["a/x.png"]


def test_folder_follows_links_to_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cats").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert ids(tmp_path / "root") == ["cats/x.png"]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no images below it that can be read \(1 file passed over:"
                                        r" 1 \.txt\)$"):
        ids(tmp_path)


@pytest.mark.parametrize("data", [ImageFolder, PFWillow])
def test_missing_root_names_it_and_the_way_out(
    tmp_path: Path, data: type[ImageFolder | PFWillow],
) -> None:
    with pytest.raises(DataError, match=r"gone: .* not found; .*--data"):
        data(tmp_path / "gone").samples()


def test_file_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(DataError):
        ids(tmp_path)


def test_a_line_break_in_a_file_name_is_told_before_extraction(tmp_path: Path) -> None:
    save(tmp_path / "a\nb.png", noise(4, 4))
    with pytest.raises(DataError, match=r"the file name 'a\\nb\.png' is not UTF-8, or has a line"):
        ids(tmp_path)


def test_files_are_named_once_however_they_are_spelt(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(4, 4))
    assert [s.id for s in ImageFolder(tmp_path, files=["./a.png"]).samples()] == ["a.png"]
    with pytest.raises(DataError, match=r"dataset\.files names 'a\.png' 2 times"):
        ImageFolder(tmp_path, files=["a.png", "./a.png"]).samples()


def test_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, noise(4, 4))
    save(tmp_path / "c.png", noise(4, 4, seed=1))
    os.utime(tmp_path / "a.png", (1, 1))
    data = ImageFolder(tmp_path)
    assert data.sha256("a.png") == data.sha256("b.png") != data.sha256("c.png")


@pytest.mark.parametrize(("spec", "kind"), [
    (ToyWorldSpec(name="toyworld"), ToyWorld),
    (FolderSpec(name="folder", root="x"), ImageFolder),
    (PFWillowSpec(name="pf-willow"), PFWillow),
])
def test_opening_a_data_set_touches_no_file(
    tmp_path: Path, spec: ToyWorldSpec | FolderSpec | PFWillowSpec, kind: type,
) -> None:
    assert isinstance(open_dataset(spec, Roots(data=tmp_path / "gone")), kind)


@pytest.mark.parametrize("root", ["/abs", "../x"])
def test_dataset_root_stays_below_the_data_root(root: str) -> None:
    with pytest.raises(UserError, match=r"^dataset\.root: "):
        open_dataset(FolderSpec(name="folder", root=root), Roots())


# ------------------------------------------------------------------------------------ images

UPRIGHT = noise(6, 4)
STORED = {  # what a camera stores for each EXIF orientation, so that turning it gives UPRIGHT
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "x.png", np.ascontiguousarray(STORED[orientation]), orientation)
    np.testing.assert_array_equal(read_rgb(path), UPRIGHT)


@pytest.mark.parametrize(("extension", "orientation"), [
    ("jpg", 1), ("jpg", 3), ("jpg", 6), ("png", 6), ("webp", 8), ("tif", 1),
    ("tif", 6),
])
def test_size_agrees_with_the_image_that_is_read(
    tmp_path: Path, extension: str, orientation: int,
) -> None:
    path = save(tmp_path / f"x.{extension}", noise(6, 4), orientation)
    assert size_of(path) == read_rgb(path).shape[:2]


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, extension: str) -> None:
    grey = np.array([[0, 255, 256], [32768, 40000, 65535]], np.uint16)
    read = read_rgb(save(tmp_path / f"x.{extension}", grey))
    np.testing.assert_array_equal(read, np.repeat((grey >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "LA", "CMYK"])
def test_every_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    extension = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(tmp_path / f"x.{extension}")
    read = read_rgb(tmp_path / f"x.{extension}")
    assert (read.shape, read.dtype, read.min()) == ((3, 5, 3), np.uint8, 255)


def test_palette_images_keep_their_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2), (200, 30, 40))
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    assert read_rgb(tmp_path / "x.png")[0, 0].tolist() == [200, 30, 40]


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_images_are_named(tmp_path: Path, extension: str, share: float) -> None:
    path = save(tmp_path / f"x.{extension}", noise(64, 64))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"x\.{extension}: cannot be read as an image"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"just text", b"<html>404</html>"])
def test_files_that_are_no_image_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    for read in (read_rgb, size_of):
        with pytest.raises(DataError, match=r"x\.jpg: cannot be read as an image"):
            read(tmp_path / "x.jpg")


def test_missing_image_is_named(tmp_path: Path) -> None:
    for read in (read_rgb, size_of):
        with pytest.raises(DataError, match=r"gone\.png"):
            read(tmp_path / "gone.png")


@pytest.mark.parametrize("shape", [(8, 8), (3, 17), (90, 40), (1, 1), (16, 300)])
def test_to_square_squashes_any_shape(shape: tuple[int, int]) -> None:
    square = to_frame(np.full((*shape, 3), 77, np.uint8), 16)
    assert square.shape == (16, 16, 3) and square.dtype == np.uint8 and (square == 77).all()


def test_the_first_release_averaged_areas_when_shrinking() -> None:
    image = noise(8, 8)
    blocks = image.reshape(2, 4, 2, 4, 3).mean((1, 3))
    np.testing.assert_allclose(to_frame(image, 2, resample="opencv"), blocks, atol=0.51)


def test_to_square_leaves_an_image_of_that_size_alone() -> None:
    np.testing.assert_array_equal(to_frame(noise(8, 8), 8), noise(8, 8))


# --------------------------------------------------------------------------------- PF-WILLOW

CLASSES = ("car(G)", "car(S)", "duck(S)")
REPEATED = 4
"""Photographs of car(G) that car(S) shows again, under other names."""


def points(count: int = 10) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).uniform(1, 8, (2, count))


@pytest.fixture
def willow(tmp_path: Path) -> PFWillow:
    """A tree in the published layout: three sub-classes of ten, some photographs twice."""
    root = tmp_path / "PF-dataset-WILLOW"
    for c, name in enumerate(CLASSES):
        for i in range(10):
            seed = i if name == "car(S)" and i < REPEATED else 100 * c + i
            image = save(root / name / f"{name}_{i + 1:03d}.png", noise(8, 8, seed))
            savemat(image.with_suffix(".mat"), {"pts_coord": points()})
    return PFWillow(root)


def assert_splits_are_apart(data: PFWillow) -> None:
    """No photograph, by content, is in two splits."""
    splits: dict[str, set[str]] = {}
    for sample in data.samples():
        splits.setdefault(data.sha256(sample.id), set()).add(data.split_of(sample.id))
    assert all(len(found) == 1 for found in splits.values())


def assert_pairs_stay_inside(data: CorrespondenceDataset) -> None:
    """Pairs join two different images of one split and one category, and none comes twice."""
    for split in SPLITS:
        pairs = data.pairs(split)
        assert pairs and len(set(pairs)) == len(pairs)
        for pair in pairs:
            assert pair.source != pair.target
            assert {data.split_of(pair.source), data.split_of(pair.target)} == {split}
            assert pair.category in pair.source.split("/")
            assert pair.category in pair.target.split("/")


def test_willow_protocol_is_every_ordered_pair_inside_a_subclass(willow: PFWillow) -> None:
    assert Counter(p.category for p in willow.pairs(None)) == dict.fromkeys(CLASSES, 10 * 9)


def test_willow_splits_are_made_of_whole_photographs(willow: PFWillow) -> None:
    assert len({willow.sha256(s.id) for s in willow.samples()}) == 30 - REPEATED
    assert_splits_are_apart(willow)


def test_willow_pairs_stay_inside_split_and_subclass(willow: PFWillow) -> None:
    assert_pairs_stay_inside(willow)


def test_willow_splits_have_their_shares_in_every_subclass(willow: PFWillow) -> None:
    found = Counter((s.id.split("/")[0], willow.split_of(s.id)) for s in willow.samples())
    expected = {"test": 3, "val": 2, "train": 5}
    assert found == {(c, split): n for c in CLASSES for split, n in expected.items()}


def test_willow_split_is_decided_by_its_seed(willow: PFWillow) -> None:
    def split(seed: int) -> list[str]:
        data = PFWillow(willow.root, PFWillowSpec(name="pf-willow", split_seed=seed))
        return [data.split_of(s.id) for s in data.samples()]

    assert split(0) == split(0) != split(1)


def test_willow_points_count_from_the_corner_of_the_first_pixel(willow: PFWillow) -> None:
    sample = willow.samples()[0].id
    found = willow.keypoints(sample)
    np.testing.assert_allclose(found.xy, points().T - 0.5)
    np.testing.assert_allclose(found.box, [*found.xy.min(0), *found.xy.max(0)])
    assert found.visible.all() and found.size == (8, 8)


def test_willow_image_without_points_is_named(willow: PFWillow) -> None:
    lone = willow.samples()[0].id
    willow.path(lone).with_suffix(".mat").unlink()
    with pytest.raises(DataError, match=r"car\(G\)_001\.png: no key points beside it; expected"):
        willow.samples()


def test_willow_root_without_images_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images; expected .*PF-dataset\.zip from http"):
        PFWillow(tmp_path).samples()


BAD_POINTS = [
    pytest.param({"pts_coord": points().T}, id="transposed"),
    pytest.param({"pts_coord": np.full((2, 10), np.nan)}, id="not finite"),
    pytest.param({"pts_coord": "no numbers"}, id="text"),
    pytest.param({"other": points()}, id="absent"),
    pytest.param({"pts_coord": np.zeros((2, 0))}, id="empty"),
]


@pytest.mark.parametrize("variables", BAD_POINTS)
def test_willow_points_that_make_no_sense_are_named(
    willow: PFWillow, variables: dict[str, object],
) -> None:
    sample = willow.samples()[0].id
    savemat(willow.path(sample).with_suffix(".mat"), variables)
    with pytest.raises(DataError, match=r"car\(G\)_001\.mat: "):
        willow.keypoints(sample)


@pytest.mark.parametrize(("compressed", "kept"), [
    (False, 0), (False, 60), (False, 200), (True, 126),
])
def test_willow_truncated_points_are_named(willow: PFWillow, compressed: bool, kept: int) -> None:
    sample = willow.samples()[0].id
    path = willow.path(sample).with_suffix(".mat")
    savemat(path, {"pts_coord": points()}, do_compression=compressed)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"car\(G\)_001\.mat: no key points can be read"):
        willow.keypoints(sample)


needs_willow = pytest.mark.skipif(
    not REAL_WILLOW.is_dir(), reason="PF-WILLOW is not below GATE_CACHE_DATA")


@needs_willow
def test_the_published_willow_has_100_images_and_900_pairs() -> None:
    data = PFWillow(REAL_WILLOW)
    assert (len(data.samples()), len(data.pairs(None))) == (100, 900)
    assert_splits_are_apart(data)
    assert_pairs_stay_inside(data)


@needs_willow
def test_the_published_willow_has_ten_points_inside_every_image() -> None:
    data = PFWillow(REAL_WILLOW)
    for sample in data.samples():
        found = data.keypoints(sample.id)
        assert found.xy.shape == (10, 2)
        assert (found.xy >= 0).all() and (found.xy <= found.size[::-1]).all()


# ---------------------------------------------------------------------------------- toyworld

TOY = ToyWorld({"train": 18, "val": 17, "test": 16}, image_size=32)


def test_toyworld_ids_are_split_category_and_number() -> None:
    found = [s.id for s in TOY.samples()]
    assert found[:2] == [f"train/{CATEGORIES[0]}/00000", f"train/{CATEGORIES[1]}/00001"]
    assert len(set(found)) == len(found) == 18 + 17 + 16


@pytest.mark.parametrize("split", SPLITS)
def test_toyworld_is_balanced_in_every_split(split: str) -> None:
    parts = [s.id.split("/") for s in TOY.samples()]
    counts = Counter(category for of, category, _ in parts if of == split)
    assert set(counts) == set(CATEGORIES) and max(counts.values()) - min(counts.values()) <= 1


def test_toyworld_split_is_the_first_part_of_the_id() -> None:
    assert all(s.id.startswith(f"{TOY.split_of(s.id)}/") for s in TOY.samples())


def test_toyworld_pairs_stay_inside_split_and_category() -> None:
    assert_pairs_stay_inside(TOY)


def test_toyworld_pairs_of_all_splits_are_those_of_each() -> None:
    assert TOY.pairs(None) == [pair for split in SPLITS for pair in TOY.pairs(split)]


def test_toyworld_visible_points_and_boxes_lie_in_the_picture() -> None:
    for sample in TOY.samples():
        found = TOY.keypoints(sample.id)
        inside = found.xy[found.visible]
        assert found.visible.any() and found.size == (32, 32)
        assert (inside >= 0).all() and (inside <= 32).all()
        x0, y0, x1, y1 = found.box
        assert 0 <= x0 < x1 <= 32 and 0 <= y0 < y1 <= 32


def test_toyworld_pictures_are_all_different_and_as_large_as_asked() -> None:
    assert {TOY.image(s.id).shape for s in TOY.samples()} == {(32, 32, 3)}
    assert len({TOY.sha256(s.id) for s in TOY.samples()}) == len(TOY.samples())


def test_toyworld_at_dusk_has_the_same_points_in_darker_pictures() -> None:
    dusk = ToyWorld({"train": 4}, image_size=32, style="dusk")
    for sample in dusk.samples():
        day, late = (world.keypoints(sample.id) for world in (TOY, dusk))
        assert np.array_equal(day.xy, late.xy) and np.array_equal(day.visible, late.visible)
        assert dusk.image(sample.id).mean() < TOY.image(sample.id).mean()
        assert dusk.sha256(sample.id) != TOY.sha256(sample.id)


def test_toyworld_has_styles_in_which_every_picture_lacks_something() -> None:
    flawed = ToyWorld({"test": 16}, image_size=32, style="flawed")
    covered = ToyWorld({"test": 16}, image_size=32, style="covered")
    ids = [s.id for s in flawed.samples()]
    assert all(flawed.scene(i).quality.startswith("low quality") for i in ids)
    assert 0 < sum(TOY.scene(i).quality.startswith("low quality") for i in ids) < len(ids)
    for i in ids:  # the same scene
        assert np.array_equal(flawed.keypoints(i).xy, TOY.keypoints(i).xy)
        assert np.array_equal(covered.keypoints(i).xy, TOY.keypoints(i).xy)
    hidden = [sum((~w.keypoints(i).visible).sum() for i in ids) for w in (TOY, covered)]
    assert hidden[1] > 2 * hidden[0]


def test_toyworld_keeps_a_gigabyte_of_pictures_at_most() -> None:
    kept = {side: _drawer(side).cache_parameters()["maxsize"] for side in (64, 512, 2048)}
    assert kept == {64: 4096, 512: 1024, 2048: 64}  # of four bytes a pixel


def test_toyworld_without_pictures_is_an_error() -> None:
    with pytest.raises(DataError, match="no pictures; give train, val or test a number above 0"):
        ToyWorld({"train": 0}).samples()
