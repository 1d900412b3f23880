"""Activations, content shift and the guideline on every kind of model, small and random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import WriteManifest
from test_families import PIXELS, TEXT, home, models, no_grad, sections  # noqa: F401

from gate_cache.analysis.activations import activations
from gate_cache.analysis.guideline import Img2Img, guideline
from gate_cache.analysis.score import Selection, score_combos
from gate_cache.core.roots import Roots
from gate_cache.report.figures import content_shift
from gate_cache.report.figures import show as show_page
from gate_cache.workspace.workspace import Workspace


@pytest.mark.mostly_long("sd2", "ddpm", "bare")
@pytest.mark.parametrize("name", (*TEXT, *PIXELS))
def test_a_pass_is_watched(name: str, home: Roots, manifest: WriteManifest) -> None:  # noqa: F811
    loaded = manifest(**sections(name))
    (found,) = activations(Workspace(loaded, home, "cpu"))
    assert {"down0", "mid", "up0", "up1"} <= set(found.levels)
    assert found.image.shape == found.noised.shape == found.clean.shape
    assert found.latents.shape == found.noise.shape
    if name in PIXELS:  # there the latent is the picture
        assert found.latents.shape == (3, *found.image.shape[:2])
        assert np.abs(found.noised.astype(int) - found.image).mean() < 60
    assert show_page.pass_page(found).ndim == 3


@pytest.mark.mostly_long("sd1")
@pytest.mark.parametrize("name", TEXT)
def test_img2img_is_made(name: str, home: Roots, manifest: WriteManifest) -> None:  # noqa: F811
    loaded = manifest(**sections(name))
    found = guideline(Workspace(loaded, home, "cpu"), Img2Img(0.5, 2, 1), Selection(count=1))
    assert [r.name for r in found.rows] == ["reference", "plain", "control", "lora", "long"]
    assert len({p.tobytes() for r in found.rows for p in r.pictures.values()}) == 5
    assert all(np.isfinite(v.mean) for r in found.rows for v in r.mean.values())
    assert content_shift.page(found).ndim == 3


@pytest.mark.parametrize("name", ("sdxl", "ddpm"))
def test_content_shift_is_measured(name: str, home: Roots,  # noqa: F811
                                   manifest: WriteManifest) -> None:
    loaded = manifest(**sections(name))
    found = score_combos(Workspace(loaded, home, "cpu"), Selection(count=2), anchor_t=600)
    assert len(found.rows) == len(loaded.manifest.conv) + len(
        {c.t for c in loaded.manifest.conv.values()})
    assert all(np.isfinite(r.score.mean) for r in found.rows)


def test_padding_is_not_compared(home: Roots, tmp_path: Path,  # noqa: F811
                                 manifest: WriteManifest) -> None:
    """Of a wide picture in a padded square, the bars above and below count for nothing."""
    from PIL import Image

    from gate_cache.analysis.guideline import _Judge
    from gate_cache.extraction.passes import open_passes

    (home.data / "images").mkdir(parents=True)
    wide = np.random.default_rng(0).integers(0, 255, (16, 64, 3), np.uint8)
    Image.fromarray(wide).save(home.data / "images" / "a.png")
    loaded = manifest(**{**sections("sd1"), "dataset": {"name": "folder", "root": "images"},
                         "model": {"source": "sd1", "size": 64, "fit": "pad"}})
    combos = {"plain": loaded.manifest.conv["plain"]}
    work = Workspace(loaded, home, "cpu")
    with open_passes(work, combos, work.dataset(), ["a.png"]) as passes:
        judge = _Judge(passes)
    changed = judge.inputs["a.png"].copy()
    changed[:20] = 255
    assert judge.measure([[changed]])["SSIM"].item() == pytest.approx(1)
    changed[30:34] = 255
    assert judge.measure([[changed]])["SSIM"].item() < 0.95
