"""Inputs that are no squares, and tiles: by hand, and against the unmodified library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PROMPT, WriteManifest, write
from diffusers import StableDiffusionPipeline
from PIL import Image
from test_ensembles import Plain, assert_stored

from gate_cache import FeatureStore
from gate_cache.analysis.activations import activations
from gate_cache.core.errors import ManifestError, ModelError, UserError
from gate_cache.core.geometry import Frame, Placement
from gate_cache.core.roots import Roots
from gate_cache.core.size import Fit, Size, Tiling
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.tiles import blending
from gate_cache.extraction.extract import extract
from gate_cache.extraction.layers import layers
from gate_cache.extraction.plan import plan
from gate_cache.extraction.status import status
from gate_cache.learn.features.similarity import describe, match
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

WIDE = Size(64, 128)
TILES = {"size": 64, "overlap": 32}
CONTROL = {"prompt": "a photo", "controlnet": {"source": "tiny"}}
CONV = {"plain": {**PROMPT, "seed": 5}, "edges": CONTROL, "mirrored": {**PROMPT, "mirror": True},
        "mean": {**PROMPT, "seed": 4, "ensemble": 2}}
SIZES = {"wide.png": (60, 120), "tall.png": (90, 50), "square.png": (80, 80)}
UPS = ("up0", "up1", "up2", "up3")


# -------------------------------------------------------------------------- sizes, by hand


@pytest.mark.parametrize(("height", "width", "expected"), [
    (30, 60, Placement(WIDE, 0, 0, 64, 128)), (60, 60, Placement(WIDE, 0, 32, 64, 64)),
    (20, 100, Placement(WIDE, 19, 0, 26, 128)), (90, 50, Placement(WIDE, 0, 46, 64, 36)),
    (1, 1000, Placement(WIDE, 31, 0, 1, 128))])
def test_a_padded_image_is_as_large_as_it_can_be(height: int, width: int,
                                                 expected: Placement) -> None:
    """20 × 100 by 1.28: 25.6 rows, 26 of 64, 19 above; 90 × 50 by 64/90: 35.6 columns, 36."""
    assert Frame(WIDE, "pad").place(height, width) == expected


def test_a_window_has_the_cells_that_show_the_image() -> None:
    place = Frame(WIDE, "pad").place(60, 60)  # columns 32 to 96 of 128
    window = place.window((8, 16))
    assert (window.rows, window.columns) == (slice(0, 8), slice(4, 12))
    corner = np.array([[0.25, 0.75]])  # of the image: x 48, y 48 of the input
    np.testing.assert_allclose(place.to_frame(corner), [[48 / 128, 48 / 64]])
    np.testing.assert_allclose(window.enter(corner), corner)
    np.testing.assert_allclose(place.to_image(place.to_frame(corner)), corner)
    assert place.mask((8, 16)).sum() == 64
    labels = np.arange(4).reshape(2, 2)
    found = Frame((2, 4), "pad").place(2, 2).labels_to_frame(labels, 9)
    assert found.tolist() == [[9, 0, 1, 9], [9, 2, 3, 9]]
    squashed = Frame((2, 4), "squash").place(2, 2).labels_to_frame(labels, 9)
    assert squashed.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_match_is_told_in_the_image_s_own_shares(fit: Fit) -> None:
    """One cell of 8 × 16 is like the point: row 2, column 9, centre (9.5, 2.5) of (16, 8)."""
    target = torch.full((2, 8, 16), 0.1)
    target[:, 2, 9] = torch.tensor([1.0, 0.0])
    target[0] -= 0.1 * (target[0] < 1)
    source = torch.zeros(2, 8, 16)
    source[0] = 1.0
    windows = [Frame(WIDE, fit).place(60, 60).window((8, 16)) for _ in "ab"]
    found = match(*(describe([m], w, "cells") for m, w in zip((source, target), windows,
                                                              strict=True)), np.array([[0.5, 0.5]]))
    # padded, the image has columns 4 to 12
    expected = [(9.5 - 4) / 8, 2.5 / 8] if fit == "pad" else [9.5 / 16, 2.5 / 8]
    np.testing.assert_allclose(found.points, [expected], atol=0.03)


def test_one_number_stays_one_number() -> None:
    """What older stores are found by is as it was; [64, 64] is 64."""
    assert ModelSpec(source="tiny", size=[64, 64]).size == 64  # type: ignore[arg-type]
    found = layers(ModelSpec(source="tiny"), Roots.resolve(), (64, 128))  # type: ignore[arg-type]
    assert (found.size, found.latent) == ([64, 128], (4, 16, 32))
    assert [m.shape[1:] for m in found.layers][:2] == [(4, 8), (8, 16)]


@pytest.mark.parametrize(("model", "line"), [
    ({"size": [64]}, "expected a whole number, or two as [height, width]"),
    ({"size": [64, 9000]}, "must be at least 16 and at most 8192"),
    ({"size": {"pixels": 262144}}, "expected a whole number, or two as [height, width]"),
    ({"fit": "crop"}, "expected 'squash', 'pad' or 'keep'"),
    ({"tiles": {"size": 64}}, "required, but not given")])
def test_what_a_manifest_may_not_say(model: Any, line: str, manifest: WriteManifest) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest("shapes.yaml", model={"source": "tiny", **model}, conv={"a": PROMPT})
    assert line in str(caught.value)


@pytest.mark.parametrize(("model", "line"), [
    ({"size": [64, 100]}, "model.size: 100 is not a multiple of 32"),
    ({"size": [64, 128], "tiles": {"size": 96, "overlap": 0}}, "a tile 96; give a larger"),
    ({"size": 64, "tiles": {"size": 64, "overlap": 0}}, "give a larger model.size, or leave"),
    ({"size": 128, "tiles": {"size": 64, "overlap": 20}}, "overlap: 20 is not a multiple of 32"),
    ({"size": 128, "tiles": {"size": 64, "overlap": 64}}, "it must be less than a side"),
    ({"fit": "keep", "size": [64, 128]}, "model.size is one number, and there are no tiles"),
    ({"fit": "keep", "size": 100}, "model.size: 100 is not a multiple of 32"),
    ({"fit": "keep", "size": 128, "tiles": {"size": 64, "overlap": 0}}, "there are no tiles")])
def test_what_a_model_does_not_take(model: Any, line: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelFiles("tiny", HOME).preprocessing(ModelSpec(source="tiny", **model))
    assert line in str(caught.value)


# ------------------------------------------------------------------------------- extraction


def made_of(home: Path, model: dict[str, Any]) -> tuple[Loaded, Roots, FeatureStore]:
    """A store of three pictures of different shapes."""
    folder, rng = home / "data" / "pictures", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name, (height, width) in SIZES.items():
        coarse = rng.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(cv2.resize(coarse, (width, height))).save(folder / name)
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    loaded = write(home / "shapes.yaml", dataset={"name": "folder", "root": "pictures"},
                   model={"source": "tiny", **model}, conv=CONV, attention={"words": PROMPT})
    return loaded, roots, FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return StableDiffusionPipeline.from_pretrained(HOME)


class Resized(Plain):
    """Passes of the unmodified UNet over a store's pictures, resized by Pillow."""

    def __init__(self, made: tuple[Loaded, Roots, FeatureStore], pipe: Any, size: Size) -> None:
        self.ids, self.pipe = made[2].samples.ids, pipe
        folder = made[1].data / "pictures"
        self.images = np.stack([np.asarray(Image.open(folder / i).resize(
            size[::-1], Image.Resampling.BICUBIC)) for i in self.ids])

    def edges(self) -> torch.Tensor:
        found = np.stack([cv2.Canny(i, 100, 200) for i in self.images])
        return torch.from_numpy(found)[:, None].expand(-1, 3, -1, -1).float() / 255


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Roots, FeatureStore]:
    return made_of(tmp_path_factory.mktemp("wide"), {"size": [64, 128]})


@pytest.mark.long
def test_maps_of_a_wide_input_are_the_unmodified_library_s(wide: Any, pipe: Any) -> None:
    plain, store = Resized(wide, pipe, WIDE), wide[2]
    x0 = plain.latents(plain.images)
    assert x0.shape[1:] == (4, 16, 32)
    assert_stored(store["plain"], plain.maps(plain.noised(x0, 5, 50), 50))
    edged = plain.maps(plain.noised(x0, 0, 50), 50, "a photo", plain.edges())
    assert_stored(store["edges"], edged)
    flipped = plain.latents(plain.images[:, :, ::-1])
    mirrored = plain.maps(plain.noised(flipped, 0, 50), 50)
    assert_stored(store["mirrored"], {k: v.flip(-1) for k, v in mirrored.items()})
    assert store["words"]["attn1"].shape[1:] == (77, 4, 8)
    np.testing.assert_allclose(np.asarray(store["words"]["attn2"][0], np.float32).sum(0), 1,
                               atol=2e-3)


def test_a_plan_counts_the_bytes_of_a_wide_input(wide: Any) -> None:
    loaded, roots, store = wide
    found = plan(Workspace(loaded, roots, "cpu"))
    (line,) = [line for line in found.lines if line.name == "plain"]
    assert found.size == [64, 128]
    assert line.shapes == {n: store["plain"][n].shape[1:] for n in UPS}
    assert line.shapes["up2"] == (64, 16, 32)
    size = sum(p.stat().st_size for p in Path(str(store.path)).rglob("*") if p.is_file())
    assert size == pytest.approx(found.bytes, rel=0.1)


# ------------------------------------------------------------------------------------ tiles


def test_tiles_cover_the_picture_and_end_at_its_border() -> None:
    found = list(Tiling(Size(64, 160), Size(64, 64), 32).areas(8))
    assert found == [(slice(0, 8), slice(a, a + 8)) for a in (0, 4, 8, 12)]
    uneven = Tiling(Size(64, 224), Size(64, 96), 32)  # steps of 64: 0, 64, and 128 is the last
    assert [columns.start for _, columns in uneven.areas()] == [0, 64, 128]
    assert [c.start for _, c in Tiling(Size(64, 192), Size(64, 96), 32).areas()] == [0, 64, 96]


def test_shares_rise_linearly_over_the_overlap() -> None:
    """Two tiles of 8 cells that share 4: 1/8, 3/8, 5/8, 7/8 of the second."""
    (_, first), (_, second) = blending(Tiling(Size(64, 96), Size(64, 64), 32), 8)
    expected = torch.tensor([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    torch.testing.assert_close(second[3, :4], expected)
    torch.testing.assert_close(first[3, 4:], expected.flip(0))
    assert (first[:, :4] == 1).all() and (second[:, 4:] == 1).all()


@pytest.mark.parametrize("tiles", [
    Tiling(Size(128, 192), Size(64, 64), 32), Tiling(Size(96, 224), Size(64, 96), 32),
    Tiling(Size(128, 128), Size(64, 64), 0), Tiling(Size(160, 160), Size(128, 96), 64)])
@pytest.mark.parametrize("period", [1, 4])
def test_a_periodic_or_constant_map_has_no_seam(tiles: Tiling, period: int) -> None:
    """Tiles that say the same where they overlap are put together to what they say."""
    values = torch.rand(5, period, period)
    whole = values.repeat(1, *(cells // period for cells in tiles.whole.cells(8)))
    total = torch.zeros_like(whole)
    for area, share in blending(tiles, 8):
        total[(..., *area)] += share * whole[(..., *area)]
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Roots, FeatureStore]:
    return made_of(tmp_path_factory.mktemp("tiled"), {"size": [64, 96], "tiles": TILES})


def blended(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Two tiles, 64 pixels wide and 32 apart, whose shares change linearly over the overlap."""
    found = {}
    for name in UPS:
        first, second = (part[name] for part in parts)
        half = first.shape[-1] // 2
        rising = (torch.arange(half) + 0.5) / half
        middle = (1 - rising) * first[..., half:] + rising * second[..., :half]
        found[name] = torch.cat([first[..., :half], middle, second[..., half:]], -1)
    return found


def test_tiles_are_passes_of_one_latent_and_one_noise(tiled: Any, pipe: Any) -> None:
    plain, store = Resized(tiled, pipe, Size(64, 96)), tiled[2]
    x0, flipped = plain.latents(plain.images), plain.latents(plain.images[:, :, ::-1])

    def of(x: torch.Tensor, prompt: str, edges: torch.Tensor | None) -> dict[str, torch.Tensor]:
        return blended([plain.maps(
            x[..., at : at + 16], 50, prompt, None if edges is None else
            edges[..., 4 * at : 4 * at + 64]) for at in (0, 8)])
    text = PROMPT["prompt"]
    assert_stored(store["plain"], of(plain.noised(x0, 5, 50), text, None))
    assert_stored(store["edges"], of(plain.noised(x0, 0, 50), "a photo", plain.edges()))
    mirrored = of(plain.noised(flipped, 0, 50), text, None)
    assert_stored(store["mirrored"], {k: v.flip(-1) for k, v in mirrored.items()})
    each = [of(plain.noised(x0, seed, 50), text, None) for seed in (4, 5)]
    assert_stored(store["mean"], {k: (each[0][k] + each[1][k]) / 2 for k in UPS})
    (latents,) = store.latents()
    assert latents["x0"].shape[1:] == (4, 16, 24)


def test_a_plan_counts_the_passes_of_tiles(tiled: Any, wide: Any) -> None:
    found, whole = (plan(Workspace(*made[:2], "cpu")) for made in (tiled, wide))
    assert found.pieces.unet_passes == 2 * whole.pieces.unet_passes
    assert found.pieces.controlnet_passes == 2 * whole.pieces.controlnet_passes
    assert {line.name: line.unet_passes for line in found.lines}["mean"] == 3 * 2 * 2
    assert "each image is 2 tiles of 64 px" in " ".join(found.notes)


def test_other_tiles_are_other_values(tiled: Any) -> None:
    loaded, roots, _ = tiled
    work = Workspace(loaded, roots, "cpu")
    for tiles, line in ((None, 'tiles removed: {"size": 64, "overlap": 32}'),
                        ({"size": 64, "overlap": 0}, "tiles.overlap changed: 32 → 0")):
        other = ModelSpec(source="tiny", size=[64, 96], tiles=tiles)  # type: ignore[arg-type]
        (found,) = [c for c in status(work.with_manifest(only=other)).combos if c.name == "plain"]
        assert any(line in why for why in found.why), found


def test_what_is_of_a_whole_image_is_refused(tiled: Any) -> None:
    loaded, roots, _ = tiled
    work = Workspace(loaded, roots, "cpu")
    with pytest.raises(UserError, match=r"model\.tiles: this is about passes of whole images"):
        list(activations(work))
    maps = {"self": {**PROMPT, "maps": ["up1.attn0.self.map"]}}
    with pytest.raises(ModelError, match=r"self\.map: is of a whole image"):
        plan(Workspace(write(loaded.path.with_name("self.yaml"), model={
            "source": "tiny", "size": [64, 96], "tiles": TILES}, conv=maps), roots, "cpu"))


def test_pooled_maps_may_be_no_squares(tmp_path: Path, wide: Any) -> None:
    roots = Roots(wide[1].data, *(tmp_path / name for name in ("models", "stores", "runs")))
    pooled = {**CONV["plain"], "maps": {"up1": {"grid": [2, 4]}, "up2": {"grid": 4, "pool": "max"}}}
    loaded = write(tmp_path / "grid.yaml", dataset={"name": "folder", "root": "pictures"},
                   model={"source": "tiny", "size": [64, 128]}, conv={"plain": pooled})
    store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    whole = torch.from_numpy(np.asarray(wide[2]["plain"]["up1"][:], np.float32))
    np.testing.assert_allclose(np.asarray(store["plain"]["up1"][:], np.float32),
                               F.avg_pool2d(whole, 4), rtol=2e-3, atol=2e-3)
    assert store["plain"]["up2"].shape[1:] == (64, 4, 4)
