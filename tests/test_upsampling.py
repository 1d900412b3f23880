"""Up-samplers at read time: joint bilateral by a naive loop, other packages', along the path."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import WriteManifest

from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.datasets.common.model_input import model_input
from gate_cache.extraction.extract import extract
from gate_cache.learn.features import upsampling
from gate_cache.learn.features.upsampling import joint_bilateral
from gate_cache.manifest import heads
from gate_cache.training.inputs import open_any
from gate_cache.training.predict import predict
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace


def naive(maps: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Equation of section 3, pixel by pixel; σ_d = 0.5 cells, σ_r = 0.1, 5×5 cells."""
    n, c, h, w = maps.shape
    height, width = guide.shape[1:]
    ry, rx = height // h, width // w
    found = torch.zeros(n, c, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y, x, total = (i + 0.5) / ry - 0.5, (j + 0.5) / rx - 0.5, 0.0
            for a in range(max(round(y) - 2, 0), min(round(y) + 3, h)):
                for b in range(max(round(x) - 2, 0), min(round(x) + 3, w)):
                    mean = guide[:, a * ry : (a + 1) * ry, b * rx : (b + 1) * rx].mean((1, 2))
                    weight = math.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 0.5**2)
                                      - float((guide[:, i, j] - mean).square().sum())
                                      / (2 * 0.1**2))
                    found[..., i, j] += weight * maps[..., a, b]
                    total += weight
            found[..., i, j] /= total
    return found


def test_joint_bilateral_is_the_papers_sum() -> None:
    g = torch.Generator().manual_seed(0)
    maps, guide = torch.randn(2, 3, 3, 4, generator=g), torch.rand(3, 9, 12, generator=g) / 3
    torch.testing.assert_close(joint_bilateral(maps, guide).double(),
                               naive(maps.double(), guide.double()), rtol=1e-4, atol=1e-5)


def test_two_cells_by_hand() -> None:
    """A grey picture leaves the places alone; an edge in it keeps the cells apart."""
    maps = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    near, far = math.exp(-(0.25**2) / 0.5), math.exp(-(0.75**2) / 0.5)
    outer = math.exp(-(0.25**2) / 0.5), math.exp(-(1.25**2) / 0.5)
    found = joint_bilateral(maps, torch.full((3, 2, 4), 0.5))[0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([
        outer[1] / sum(outer), far / (near + far), near / (near + far), outer[0] / sum(outer)]))
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 2, 4)
    assert joint_bilateral(maps, edge)[0, 0, 0].tolist() == [0, 0, 1, 1]


@pytest.fixture
def dense(manifest: WriteManifest, roots: Roots) -> Any:
    """A small store with masks, and its workspace with a head."""
    def work(**head: Any) -> Workspace:
        return Workspace(manifest(
            dataset={"name": "toyworld", "train": 6, "val": 0, "test": 2}, model={
                "source": "tiny", "fit": "pad"}, store={},
            conv={"a": {"prompt": "x"}}, attention={"t": {"prompt": "x"}},
            train={"head": head, "steps": 2, "batch": 2, "validate_steps": 2, "hidden": 8}),
            roots, "cpu")

    extract(work(name="pixel-linear"))
    return work


@pytest.mark.long
def test_heads_read_sharper_maps(dense: Any, tmp_path: Path) -> None:
    """Those of the reader are joint bilateral ones of the stored, by the picture in the square."""
    work = dense(name="pixel-mlp", members=2, upsampler="joint-bilateral")
    plain, study = open_any(dense(name="pixel-linear")), open_any(work)
    sample = study.ids["test"][0]
    native, stored = study.features(sample), plain.features(sample)
    square = model_input(work.dataset(), sample, Preprocessing(Size.of(64), "pad"))
    guide = torch.from_numpy(square).permute(2, 0, 1).float() / 255
    for sharp, was in zip((*native.levels, *(m[None] for m in native.attention)),
                          (*stored.levels, *(m[None] for m in stored.attention)), strict=True):
        side = 2 * was.shape[-1]
        by_cell = guide.reshape(3, side, 64 // side, side, 64 // side).mean((2, 4))
        torch.testing.assert_close(sharp.double(), naive(was.double(), by_cell.double()),
                                   rtol=1e-3, atol=1e-3)
    done = train(work, tmp_path / "run")
    assert all(v is not None for row in done.scores.values() for v in row.values())
    (first, *_) = predict(work, done.run).images
    assert first.painted.classes.shape == first.true.shape
    decoder = dense(name="upernet", decoder_channels=8, upsampler="joint-bilateral", upsampled=4)
    assert len(train(decoder, tmp_path / "upernet").scores) > 1


def test_another_packages_upsampler(dense: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point makes it for a device; what it gives must be as large as was asked for."""
    def nearest(device: torch.device) -> Any:
        return lambda maps, guide: torch.nn.functional.interpolate(maps, guide.shape[1:])

    point = SimpleNamespace(name="nearest", value="x:nearest", load=lambda: nearest)
    monkeypatch.setattr(heads, "installed", lambda group: {"nearest": point})
    monkeypatch.setattr(upsampling, "load_plugin", lambda group, name: point.load())
    study = open_any(dense(name="pixel-linear", upsampler="nearest"))
    plain = open_any(dense(name="pixel-linear"))
    sample = study.ids["test"][0]
    for sharp, was in zip(study.features(sample).levels, plain.features(sample).levels,
                          strict=True):
        assert torch.equal(sharp, was.repeat_interleave(2, -1).repeat_interleave(2, -2))
    point.load = lambda: lambda device: lambda maps, guide: maps
    with pytest.raises(UserError, match=r"'nearest' made maps of shape .*, not of 8 cells"):
        open_any(dense(name="pixel-linear", upsampler="nearest")).features(sample)


def test_a_name_of_none_is_refused(dense: Any) -> None:
    with pytest.raises(ManifestError, match=r"no up-sampler 'joint-bilatera' \(did you"):
        dense(name="upernet", upsampler="joint-bilatera")
    with pytest.raises(ManifestError, match="upsampler"):
        dense(name="classifier", upsampler="joint-bilateral")
