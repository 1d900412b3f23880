"""Pictures as users have them: transparent, large, small, odd; their values by hand."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import WriteManifest
from PIL import Image, features

from gate_cache.core.errors import DataError, ManifestError, UserError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.files import by_stem, passed_over, passed_over_line, pictures
from gate_cache.datasets.common.images import holds_several, read_rgb, size_of, to_frame
from gate_cache.datasets.folder import ImageFolder
from gate_cache.extraction.extract import extract
from gate_cache.extraction.prune import prune
from gate_cache.extraction.recompute import recompute
from gate_cache.extraction.status import status
from gate_cache.extraction.validate import validate
from gate_cache.manifest.load import load
from gate_cache.manifest.specs import ModelSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

SKY, GREEN = (10, 20, 230), (40, 200, 90)


class Heard(Silent):
    """What a command says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


# ------------------------------------------------------------------------------ transparency

def with_alpha(mode: str) -> Image.Image:
    """Three pixels: clear over a hidden colour, half clear, opaque."""
    values = [(255, 0, 0, 0), (200, 100, 60, 128), (*GREEN, 255)]
    image = Image.fromarray(np.array([values], np.uint8), "RGBA")
    return image if mode == "RGBA" else image.convert(mode)


def laid_on(background: tuple[int, int, int], pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + np.array(background) * (1 - alpha)


@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
@pytest.mark.parametrize("background", [(255, 255, 255), SKY])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_on_the_background(
        tmp_path: Path, extension: str, background: tuple[int, int, int], mode: str) -> None:
    image, path = with_alpha(mode), tmp_path / f"x.{extension}"
    image.save(path, **({"lossless": True, "exact": True} if extension == "webp" else {}))
    wanted = laid_on(background, np.asarray(image.convert("RGBA"), np.float64))
    found = read_rgb(path, background)
    assert found.shape == (1, 3, 3)
    np.testing.assert_allclose(found, wanted, atol=1)
    np.testing.assert_array_equal(found[0, 0], background)
    np.testing.assert_array_equal(found[0, 2], np.asarray(image.convert("RGB"))[0, 2])


@pytest.mark.parametrize(("mode", "key"), [("RGB", SKY), ("L", 7), ("P", 1), ("1", 0)])
def test_transparent_colours_are_laid_on_the_background(tmp_path: Path, mode: str,
                                                        key: Any) -> None:
    """PNG's tRNS: one colour, grey or index is clear."""
    pixels: Any = {"RGB": [[SKY, GREEN]], "L": [[7, 8]], "P": [[1, 0]], "1": [[False, True]]}[mode]
    image = Image.fromarray(np.array(pixels, bool if mode == "1" else np.uint8),
                            None if mode == "1" else mode)
    if mode == "P":
        image.putpalette([*GREEN, *SKY])
    image.save(tmp_path / "x.png", transparency=key)
    other = {"RGB": GREEN, "L": (8, 8, 8), "P": GREEN, "1": (255, 255, 255)}[mode]
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.png", (1, 2, 3)), [[(1, 2, 3), other]])


@pytest.mark.parametrize("high", [b"\x12", b"\0"])
def test_sixteen_bits_of_transparency(tmp_path: Path, high: bytes) -> None:
    """A clear grey is one of 65,536; a clear colour of 48 bits is refused."""
    grey = np.array([[0x1234, 0x1235]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "g.png", transparency=0x1234)
    np.testing.assert_array_equal(read_rgb(tmp_path / "g.png"), [[[255] * 3, [0x12] * 3]])
    cv2.imwrite(str(tmp_path / "c.png"), np.full((2, 2, 3), 0x1234, np.uint16))
    data = (tmp_path / "c.png").read_bytes()
    clear = b"tRNS" + (high + b"\x34") * 3
    chunk = (6).to_bytes(4, "big") + clear + zlib.crc32(clear).to_bytes(4, "big")
    at = data.index(b"IDAT") - 4
    (tmp_path / "c.png").write_bytes(data[:at] + chunk + data[at:])
    with pytest.raises(DataError, match=r"c\.png: .*save it with an alpha channel"):
        read_rgb(tmp_path / "c.png")


def test_the_first_release_dropped_alpha(tmp_path: Path) -> None:
    with_alpha("RGBA").save(tmp_path / "x.png")
    found = read_rgb(tmp_path / "x.png", None)
    np.testing.assert_array_equal(found, [[(255, 0, 0), (200, 100, 60), GREEN]])


@pytest.mark.parametrize(("given", "color"), [
    ({}, (255, 255, 255)), ({"background": "black"}, (0, 0, 0)), ({"resample": "opencv"}, None),
    ({"background": "#0a14e6"}, SKY), ({"background": [10, 20, 230]}, SKY),
    ({"resample": "opencv", "background": "#0a14e6"}, SKY)])
def test_backgrounds_of_a_manifest(given: dict[str, Any], color: Any) -> None:
    spec = ModelSpec.model_validate({"source": "tiny", **given})
    assert Preprocessing.of(spec, 64).background == color
    assert ModelSpec.model_validate(spec.model_dump(by_alias=True)) == spec


@pytest.mark.parametrize("given", ["#808080", "whit", "'#ffffff80'", "[1, 2]", "[1, 2, 256]", "7",
                                   "[1, 2, true]"])
def test_what_is_no_background_is_refused(tmp_path: Path, given: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"dataset: {{name: toyworld}}\nconv: {{c: {{prompt: x}}}}\nmodel:\n"
                    f"  source: tiny\n  background: {given}\n")
    with pytest.raises(ManifestError, match=r"m\.yaml:\d: model\.background: expected a colour"):
        load(path)


# ------------------------------------------------------------------------------ filters

def cubic(length: int, size: int) -> np.ndarray:
    """(size, length): Keys' cubic, a = -1/2, as wide as it must be against aliasing; by hand."""
    scale = length / size
    wide = max(scale, 1.0)
    at = (np.arange(size)[:, None] + 0.5) * scale - 0.5
    x = np.abs(np.arange(length)[None] - at) / wide
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(96, 80), (20, 12), (16, 200), (70, 9)])
def test_one_antialiased_filter_grows_and_shrinks_both_sides(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(80, 176, (*shape, 3), dtype=np.uint8)  # no clipping
    down = np.einsum("yh,hwc->ywc", cubic(shape[0], 32), image.astype(np.float64))
    wanted = np.einsum("xw,ywc->yxc", cubic(shape[1], 32), down)
    gaps = np.abs(to_frame(image, 32) - wanted)
    assert gaps.max() < 1.7 and gaps.mean() < 0.4  # it rounds after each side


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "bilinear"])
@pytest.mark.parametrize("shape", [(50, 70), (100, 10)])
def test_filters_are_pillows(name: Any, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = Image.fromarray(image).resize((32, 32), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(to_frame(image, 32, "squash", name), wanted)


@pytest.mark.parametrize("shape", [(50, 70), (20, 10), (10, 100)])
def test_the_first_releases_filter_is_kept(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    method = cv2.INTER_AREA if max(shape) > 32 else cv2.INTER_CUBIC
    np.testing.assert_array_equal(to_frame(image, 32, "squash", "opencv"),
                                  cv2.resize(image, (32, 32), interpolation=method))


# ------------------------------------------------------------------------------ formats

def solid(path: Path, color: tuple[int, int, int] = GREEN, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), color).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".jpe", ".jp2", ".avif", ".webp", ".ppm",
                                    ".tif", ".bmp", ".tga", ".qoi", ".JPG", ".apng"])
def test_what_pillow_reads_is_a_sample(tmp_path: Path, suffix: str) -> None:
    feature = {".jp2": "jpg_2000", ".avif": "avif"}.get(suffix)
    if feature and not features.check(feature):
        pytest.skip(f"this Pillow was built without {feature}")
    path = solid(tmp_path / f"x{suffix}")
    assert [s.id for s in ImageFolder(tmp_path).samples()] == [path.name]
    assert size_of(path) == (16, 24)
    np.testing.assert_allclose(read_rgb(path).mean((0, 1)), GREEN, atol=4)


def test_what_this_pillow_was_not_built_for_is_told(tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    solid(tmp_path / "a.png")
    for name in ("b.avif", "c.jp2"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    assert pictures(tmp_path) == ["a.png", "c.jp2"]
    assert passed_over_line(passed_over(tmp_path, {"a.png", "c.jp2"})) == \
        "1 file passed over: 1 .avif (Pillow cannot read them)"


def test_files_passed_over_are_told(roots: Roots, manifest: WriteManifest) -> None:
    root = roots.data / "own"
    solid(root / "a.png")
    for name in ("b.heic", "c.HEIC", "sub/d.psd", "notes", ".hidden.heic"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    line = "4 files passed over: 2 .heic (Pillow cannot read them), 1 .psd, 1 notes"
    loaded = manifest(dataset={"name": "folder", "root": "own"}, attention={},
                      conv={"c": {"prompt": "x", "maps": ["up0"]}})
    assert any(line in told for told in validate(Workspace(loaded, roots)).data)
    heard = Heard()
    extract(Workspace(loaded, roots, "cpu", heard))
    assert any(line in told for told in heard.lines)


@pytest.mark.parametrize(("name", "several"), [
    ("x.gif", True), ("x.webp", True), ("x.png", True), ("x.tif", True), ("one.gif", False),
    ("one.png", False)])
def test_of_an_animation_the_first_picture_is_read(tmp_path: Path, name: str,
                                                   several: bool) -> None:
    more: dict[str, Any] = {"save_all": True} if several else {}
    if several:
        more["append_images"] = [Image.new("RGB", (24, 16), SKY)]
    if name.endswith("webp"):
        more["lossless"] = True
    path = solid(tmp_path / name, **more)
    assert holds_several(path) is several
    np.testing.assert_array_equal(read_rgb(path), np.full((16, 24, 3), GREEN))


def test_animations_are_told(roots: Roots, manifest: WriteManifest) -> None:
    solid(roots.data / "own/a.gif", save_all=True,
          append_images=[Image.new("RGB", (24, 16), SKY)])
    solid(roots.data / "own/b.png")
    heard = Heard()
    loaded = manifest(dataset={"name": "folder", "root": "own"}, attention={},
                      conv={"c": {"prompt": "x", "maps": ["up0"]}})
    extract(Workspace(loaded, roots, "cpu", heard))
    assert "note: of new files 1 with several pictures (a.gif): the first of each is read" \
        in heard.lines


@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".avif", ".qoi", ".tga"])
def test_truncated_files_of_any_format_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"x\{suffix}: cannot be read as an image"):
        read_rgb(path)


def test_a_pipe_among_the_images_is_named_and_not_waited_for(roots: Roots,
                                                             manifest: WriteManifest) -> None:
    solid(roots.data / "own" / "a.png")
    os.mkfifo(roots.data / "own" / "b.png")
    loaded = manifest(dataset={"name": "folder", "root": "own"}, attention={},
                      conv={"c": {"prompt": "x", "maps": ["up0"]}})
    unread = extract(Workspace(loaded, roots, "cpu")).unread
    assert list(unread) == ["b.png"] and "b.png: cannot be read: is not a regular file" in \
        unread["b.png"]


# ------------------------------------------------------------------------------ control images

def test_two_control_images_of_one_name_are_refused(roots: Roots,
                                                    manifest: WriteManifest) -> None:
    for name in ("control/a.png", "control/a.jpg", "control/b.png", "own/a.png"):
        solid(roots.data / name)
    loaded = manifest(dataset={"name": "folder", "root": "own"}, attention={}, conv={
        "c": {"prompt": "x", "controlnet": {"source": "tiny", "images": "control"}}})
    line = r"control: a\.jpg and a\.png are both called 'a'; remove one of them$"
    for run in (validate, extract):
        with pytest.raises(UserError, match=line):
            run(Workspace(loaded, roots, "cpu"))
    with pytest.raises(DataError, match=line):
        by_stem(roots.data / "control")


def test_samples_of_one_name_are_two(tmp_path: Path) -> None:
    solid(tmp_path / "a.png")
    solid(tmp_path / "a.jpg", SKY)
    data = ImageFolder(tmp_path)
    assert [s.id for s in data.samples()] == ["a.jpg", "a.png"]
    assert tuple(data.image("a.png")[0, 0]) == GREEN
    np.testing.assert_allclose(data.image("a.jpg")[0, 0], SKY, atol=4)


# ------------------------------------------------------------------------------ the store

ONE: dict[str, Any] = {"dataset": {"name": "folder", "root": "own"}, "attention": {},
                       "conv": {"c": {"prompt": "x", "maps": ["up0"]}}}
FIRST = {"source": "tiny", "resample": "opencv"}


def test_a_store_of_the_first_release_stays_valid_under_its_own_filter(
        roots: Roots, manifest: WriteManifest) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 40, 4), dtype=np.uint8)
    (roots.data / "own").mkdir(parents=True)
    Image.fromarray(noise).save(roots.data / "own/a.png")
    first, now = manifest(**ONE, model=FIRST), manifest("now.yaml", **ONE, store={
        "path": "toy.zarr", "block": 3, "batch": 2})
    heard = Heard()
    path = extract(Workspace(first, roots, "cpu", heard)).store
    assert any("drops alpha, as the first release did" in line for line in heard.lines)
    (view,) = FeatureStore.open(path).views()
    assert not {"resample", "background"} & view.recipe.keys()
    assert recompute(Workspace(first, roots, "cpu")).equal
    (stale,) = status(Workspace(now, roots)).combos
    assert (stale.state, stale.why) == ("stale", [
        'background added: "#ffffff"', 'resample changed: "opencv" → "bicubic"',
        "'resample: opencv' in 'model' keeps what is stored"])
    heard = Heard()
    extract(Workspace(now, roots, "cpu", heard))
    assert sum(line.startswith("note: c: extracted again, beside") for line in heard.lines) == 1
    old, new = FeatureStore.open(path).latents()
    states = [c.state for m in (first, now) for c in status(Workspace(m, roots)).combos]
    assert states == ["done", "done"]
    assert not np.array_equal(old["x0"][0], new["x0"][0])
    assert {g.why for g in prune([first.path], roots)[0].groups} == {
        "no manifest given names it, unless one sets 'resample: bicubic'"}
