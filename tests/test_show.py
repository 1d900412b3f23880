"""Pictures of a store: colours that can be compared, pages that say what they show."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import WriteManifest
from PIL import Image

from gate_cache import FeatureStore
from gate_cache.analysis.session import open_session
from gate_cache.analysis.show import ShownImages, open_shown, show
from gate_cache.cli import main
from gate_cache.core.errors import UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.learn.features.pca import ColourPCA
from gate_cache.manifest.load import Loaded
from gate_cache.report.figures.pictures import PictureCell, PictureRow, fitted, heat, save, sheet
from gate_cache.report.figures.show import draw, file_name, page, written

Toy = tuple[Loaded, Roots, Path]


@pytest.mark.parametrize("name", ["T.YAML", "t.Yml"])
def test_a_manifest_is_one_whatever_the_case_of_its_suffix(toy: Toy, tmp_path: Path,
                                                           name: str) -> None:
    """As for `verify`; so it is for `view`."""
    loaded, roots, store = toy
    path = Path(shutil.copy(loaded.path, tmp_path / name))
    path.write_text(f"{path.read_text()}\n  path: {store.name}\n")
    assert open_shown(path, roots, Silent()).dataset is not None
    assert open_session(path, roots, Silent(), device="cpu").has_originals


# ------------------------------------------------------------------------------------- colours


def maps(count: int = 3, channels: int = 8, side: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    spread = np.array([9.0, 4.0, 2.0, *([0.01] * (channels - 3))])[:, None, None]
    return [(generator.standard_normal((channels, side, side)) * spread).astype(np.float32)
            for _ in range(count)]


def test_colours_are_the_first_three_components() -> None:
    found = maps()
    colours = ColourPCA(np.concatenate(found, 1))
    red = np.concatenate([colours(m)[..., 0].ravel() for m in found]).astype(float)
    first = np.concatenate([m[0].ravel() for m in found])
    inside = (red > 0) & (red < 255)
    assert abs(np.corrcoef(red[inside], first[inside])[0, 1]) > 0.99


def test_one_value_has_one_colour_in_every_image() -> None:
    a, b = maps(2)
    b[:, 2, 3] = a[:, 1, 1]
    colours = ColourPCA(np.concatenate([a, b], 1))
    assert np.array_equal(colours(a)[1, 1], colours(b)[2, 3])


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 4), (8, 1, 1), (5, 3, 2)])
def test_few_channels_and_positions_have_colours_too(shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert ColourPCA(values)(values).shape == (*shape[1:], 3)


def test_a_constant_map_is_no_error() -> None:
    flat = np.ones((4, 3, 3), np.float32)
    assert len(np.unique(ColourPCA(flat)(flat).reshape(-1, 3), axis=0)) == 1


def test_heat_goes_from_dark_to_light() -> None:
    light = heat(np.linspace(0, 1, 50)[None]).astype(int).sum(2)[0]
    assert (np.diff(light) >= 0).all() and light[-1] > 3 * light[0]
    assert heat(np.zeros((2, 2))).shape == (2, 2, 3)


# --------------------------------------------------------------------------------------- pages


def test_cells_keep_their_shape_and_values() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert fitted(picture, 8).shape == (8, 8, 3)
    assert np.array_equal(fitted(picture, 8)[::4, ::4], picture)
    assert fitted(np.zeros((10, 20, 3), np.uint8), 8).shape == (4, 8, 3)


def test_a_sheet_holds_all_its_pictures() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    cells = [PictureCell(np.full((4, 4, 3), c, np.uint8), "a caption " * 20) for c in colours]
    page = sheet([PictureRow("one", cells[:2]),
                  PictureRow("a very long title " * 30, cells[2:])], "title").done()
    for colour in colours:
        assert (page == colour).all(2).sum() >= 100 * 100


def test_a_picture_is_written_whole(tmp_path: Path) -> None:
    path = save(np.zeros((3, 5, 3), np.uint8), tmp_path / "deep" / "a.png")
    with Image.open(path) as found:
        assert found.size == (5, 3)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


# --------------------------------------------------------------------------------------- stores


@pytest.fixture
def source(toy: Toy) -> ShownImages:
    return open_shown(toy[0].path, toy[1], Silent())


def test_all_combos_and_words_are_shown(source: ShownImages) -> None:
    found = list(show(source))
    assert len(found) == 4
    for each in found:
        assert set(each.conv) == {"plain", "seed-1", "lora", "control"}
        assert [m.shape for m in each.conv["plain"].values()] == [
            (4, 4, 3), (8, 8, 3), (16, 16, 3), (16, 16, 3)]
        assert [word for word, _ in each.attention["attn"]] == ["photo"]
        assert each.image is not None and each.image.shape == (64, 64, 3)


def test_what_is_asked_for_is_shown(source: ShownImages) -> None:
    name = source.store.samples[2]
    (found,) = show(source, [name], ["lora", "attn"], ["a"])
    assert found.id == name and list(found.conv) == ["lora"]
    assert [word for word, _ in found.attention["attn"]] == ["a"]


def test_words_that_are_left_out_are_counted(source: ShownImages) -> None:
    name = source.store.samples[2]
    (few,), (asked,) = (show(source, [name], ["attn"], words) for words in ([], ["a"]))
    shown = [word for word, _ in few.attention["attn"]]
    assert f"{len(shown)} of " in few.about["attn"] and "--token WORD" in few.about["attn"]
    assert all(len(word) >= 3 for word in shown) and "--token" not in asked.about["attn"]


@pytest.mark.parametrize("asked, said", [
    ({"images": ["nowhere"]}, "'nowhere' is not an image of this store"),
    ({"images": ["train"]}, "'train' fits 4 images"),
    ({"combos": ["plan"]}, "did you mean 'plain'"),
    ({"tokens": ["hose"]}, "its prompt has no word 'hose'"),
])
def test_what_is_not_there_is_named(source: ShownImages, asked: dict[str, list[str]],
                                    said: str) -> None:
    with pytest.raises(UserError, match=said):
        list(show(source, **asked))


def test_pages_are_drawn(source: ShownImages, tmp_path: Path) -> None:
    paths = list(draw(source, [], [], [], tmp_path / "out"))
    assert len(paths) == len({p.name for p in paths}) == 4
    for path in paths:
        with Image.open(path) as page:
            assert page.width > 700 and page.height > 900


def test_a_store_alone_is_shown_without_its_pictures(toy: Toy) -> None:
    (found, *_) = show(open_shown(toy[2], toy[1], Silent()))
    assert found.image is None and found.conv


def test_combos_without_a_word_are_left_out_of_a_page(source: ShownImages) -> None:
    """As those of an empty prompt, or of a stranger's store."""
    sample = next(iter(show(source)))
    without = page(replace(sample, attention={"attn": []}))
    assert len(without) == len(page(replace(sample, attention={}))) < len(page(sample))
    with pytest.raises(UserError, match="nothing to draw"):
        page(replace(sample, image=None, conv={}, attention={"attn": []}))
    assert file_name("a/\u202egnp.jpg") == "a__gnp"


def test_no_picture_is_written_over_another(source: ShownImages, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Of x.jpg beside x.png."""
    monkeypatch.setattr("gate_cache.report.figures.show.file_name", lambda _: "x")
    ids = [source.store.samples[row] for row in range(2)]
    paths = list(draw(source, ids, [], [], tmp_path))
    assert [p.name for p in paths] == ["x.png", "x-2.png"]
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_ids_may_be_longer_than_names_of_files(tmp_path: Path) -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    paths = [written(picture, tmp_path, name) for name in ("ö" * 200 + "1", "ö" * 200 + "2", "ö b")]
    assert all(path.is_file() for path in paths) and len(set(paths)) == 3
    assert paths[2].name == "ö b.png"


def test_the_command(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                     monkeypatch: pytest.MonkeyPatch) -> None:
    name = FeatureStore.open(toy[2]).samples[1]
    monkeypatch.setattr("sys.argv", ["gate-cache", "show", str(toy[2]), "--combo", "plain",
                                     "--image", name, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert Path(capsys.readouterr().out.strip()) == tmp_path / f"{name.replace('/', '_')}.png"


def test_an_unfinished_store_says_so(manifest: WriteManifest, toy: Toy) -> None:
    with pytest.raises(UserError, match="no such store"):
        open_shown(toy[2].parent / "none.zarr", toy[1], Silent())
