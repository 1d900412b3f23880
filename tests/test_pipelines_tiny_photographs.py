"""Going on with photographs: their latents, what is hidden, growing, and the probes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from torch import distributed

from gate_cache.datasets.common.base import Keypoints, Pair
from gate_cache.learn.features.pairs import PairPoints
from gate_cache.learn.metrics.pck import pck
from pipelines.tiny import config, encoded, photographs, probe
from pipelines.tiny.denoiser import weighted
from pipelines.tiny.grow import deeper, wider
from pipelines.tiny.loop import Plan, generator

UNET = {**config.UNET, "block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4,
        "cross_attention_dim": 8}


def archive(path: Path, side: int = 64) -> Path:
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("classes.tsv", "wnid\tname\nn1\tEgyptian cat\nn2\tpole\n")
        for split, shift in (("train", 0), ("val", 100)):
            for n, wnid in enumerate(("n1", "n2")):
                for i in range(3):
                    buffer = io.BytesIO()
                    Image.new("RGB", (side, side), (shift + 10 * i + n,) * 3).save(buffer, "png")
                    files.writestr(f"{split}/{wnid}/{i:03}.jpg", buffer.getvalue())
    return path


def test_classes_of_tiny_imagenet_take_turns_and_val_is_not_read(tmp_path: Path) -> None:
    found = list(encoded.tiny_imagenet(archive(tmp_path / "a.zip"), "train", 2))
    assert [int(pixels[0, 0, 0]) for pixels, _, _ in found] == [0, 1, 10, 11]
    assert [said for _, *said in found[:2]] == [
        ["a photo of an egyptian cat", "Egyptian cat"], ["a photo of a pole", "pole"]]


def test_photographs_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"a\.zip: train/n1/000\.jpg has 32×32 pixels"):
        list(encoded.tiny_imagenet(archive(tmp_path / "a.zip", 32), "train", 1))


def test_eight_bits_keep_latents_to_half_a_step() -> None:
    x = torch.randn(20, 4, 16, 16, generator=generator("test", 0)).clamp(-3.9, 3.9)
    kept = encoded.Encoded(encoded.eight_bits(x), [""] * 20, [""] * 20)
    assert float((kept.latents([3, 7]) - x[[3, 7]]).abs().max()) <= encoded.STEP / 2 + 1e-6


def test_latents_are_encoded_once(tmp_path: Path) -> None:
    class Vae:
        config = type("Config", (), {"scaling_factor": 2.0})

        def encode(self, x: torch.Tensor) -> Any:
            z = x[:, :1].repeat(1, 4, 1, 1)[:, :, ::4, ::4]
            return type("", (), {"latent_dist": type("", (), {"mode": lambda _: z})()})

    def make() -> list[tuple[Any, str, str]]:
        return [(np.full((64, 64, 3), v, np.uint8), f"a {v}", str(v)) for v in (0, 255)]

    one = encoded.encoded(tmp_path / "x", Vae, 2, make)
    two = encoded.encoded(tmp_path / "x", lambda: pytest.fail("encoded again"), 2, make)
    assert one.captions == two.captions == ["a 0", "a 255"]
    assert two.latents([0, 1])[:, 0, 0, 0].tolist() == [-2.0, 2.0]
    with pytest.raises(SystemExit, match="y: 2 pictures, expected 3"):
        encoded.encoded(tmp_path / "y", Vae, 3, make)


def test_whole_squares_are_hidden_in_a_share_of_the_pictures() -> None:
    mask = photographs.hidden(400, 16, 0.25, generator("test", 1))
    assert not mask[100:].any()
    shares = mask[:100].float().mean((1, 2))
    assert 0.42 < float(shares.mean()) < 0.58 and float(shares.std()) > 0.1
    squares = mask.view(400, 4, 4, 4, 4).float().mean((2, 4))
    assert set(squares.flatten().tolist()) == {0.0, 1.0}


def test_hidden_cells_have_late_times_and_others_the_told_one() -> None:
    g, trial = generator("test", 2), photographs.Trial(masked=0.5, early=0.5)
    t = photographs.drawn_times(64, trial, g)
    assert int(t[:48].max()) < 300 and int(t[48:].max()) > 300
    mask = photographs.hidden(64, 16, trial.masked, g)
    each = photographs.cell_times(t, mask, g)
    assert int(each[mask].min()) >= 500 and int(each[mask].max()) < 850
    assert torch.equal(each[~mask], t[:, None, None].expand_as(each)[~mask])


def test_the_loss_by_cell_is_the_usual_one_where_nothing_is_hidden() -> None:
    a, b = torch.randn(2, 8, 4, 16, 16, generator=generator("test", 3))
    t = torch.arange(0, 1000, 125)
    each = t[:, None, None].expand(8, 16, 16)
    assert float(photographs.cell_loss(a, b, each)) == pytest.approx(float(weighted(a, b, t)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """Train a small UNet on six pictures up to each of some steps: its weights."""
    monkeypatch.setattr(photographs, "BATCH", 4)
    monkeypatch.setattr(photographs, "SHARES", {"photographs": 3, "cifar": 1})
    pixels = np.random.default_rng(0).integers(-40, 40, (6, 4, 16, 16)).astype(np.int8)
    frog = "a low resolution photo of a frog"
    data = {kind: encoded.Encoded(pixels, [frog] * 6, ["frog"] * 6)
            for kind in ("photographs", "cifar")}
    plan = Plan("p", steps=4, lr=1e-2, warmup=1, ema=0.5)

    def trained(folder: Path, *stops: int) -> torch.Tensor:
        unet, text = build(), Text()
        before = unet.conv_in.weight.detach().clone()
        for stop in stops:
            photographs.train(photographs.Trial(), plan, unet, text, data, folder, stop)
        assert not torch.equal(before, unet.conv_in.weight)
        return torch.cat([p.detach().flatten() for p in unet.parameters()])

    return trained


def test_a_training_on_photographs_learns_and_goes_on(
        small: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    assert torch.equal(small(tmp_path / "whole", 4), small(tmp_path / "parts", 1, 3, 4))


@pytest.mark.long
def test_two_processes_share_a_training(
        small: Callable[..., torch.Tensor], tmp_path: Path) -> None:
    """Each takes half of every batch, and one of them writes."""
    def process(rank: int) -> None:
        distributed.init_process_group("gloo", f"file://{tmp_path}/met", rank=rank, world_size=2)
        np.save(tmp_path / f"{rank}.npy", small(tmp_path / "shared", 4).numpy())

    context = get_context("fork")
    processes = [context.Process(target=process, args=(rank,)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    alone, first, second = small(tmp_path / "alone", 4), *(
        torch.from_numpy(np.load(tmp_path / f"{rank}.npy")) for rank in range(2))
    assert torch.equal(first, second)
    assert float((first - alone).abs().mean()) < 1e-4  # Adam makes much of the last bit
    shared, whole = (json.loads((tmp_path / run / "p.jsonl").read_text())
                     for run in ("shared", "alone"))
    assert shared["step"] == whole["step"] == 4
    assert shared["loss"] != whole["loss"]  # that of the writer's half


class Text(torch.nn.Module):
    """Stands for the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(2000, 8)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.table(ids),)


def build() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET).eval()


@pytest.mark.parametrize("change", [deeper, wider, lambda u: wider(deeper(deeper(u)))])
def test_a_grown_unet_computes_the_same(change: Any) -> None:
    small = build()
    large = change(small)
    x, words = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 8)
    with torch.no_grad():
        a, b = (u(x, torch.tensor([20, 700]), encoder_hidden_states=words).sample
                for u in (small, large))
    assert sum(p.numel() for p in large.parameters()) > 1.2 * sum(
        p.numel() for p in small.parameters())
    assert float(a.std()) > 0.1
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def pairs() -> list[PairPoints]:
    rng, size = np.random.default_rng(0), (100, 200)

    def points() -> Keypoints:
        xy = rng.uniform(0.1, 0.9, (10, 2)) * [200, 100]
        return Keypoints(xy, np.ones(10, bool), np.array([0.0, 0, 200, 100]), size)

    return [PairPoints(Pair(f"{i}a", f"{i}b", "c"), points(), points()) for i in range(6)]


def test_pck_of_a_copied_position_is_the_packages() -> None:
    some = pairs()
    found = probe.pck(some, lambda p: p.source_shares)
    copied = pck([p.judge(p.source_shares) for p in some]).values
    for radius in ("image", "box"):
        value, low, high = found[radius]
        assert value == round(copied[0.1, radius, "point"], 1)
        assert low <= value <= high and low < high


def test_descriptors_of_the_position_copy_it() -> None:
    side = torch.linspace(0, 1, 32)
    ramps = torch.stack([torch.cos(k * side) for k in (2, 4, 6)])
    maps = {"up2": torch.cat([ramps[:, :, None].expand(-1, -1, 32),
                              ramps[:, None].expand(-1, 32, -1)])[None].repeat(12, 1, 1, 1)}
    names = [name for i in range(6) for name in (f"{i}a", f"{i}b")]
    described = dict(zip(names, probe.joined(maps, ("up2",), "raw"), strict=True))
    for pair in pairs():
        assert np.abs(probe.matched(described, pair) - pair.source_shares).max() < 0.04


def test_standardised_channels_count_alike() -> None:
    g = generator("test", 4)
    maps = {"up1": 100 + 50 * torch.randn(3, 1, 8, 8, generator=g),
            "up2": torch.randn(3, 1, 8, 8, generator=g)}
    raw = probe.joined(maps, ("up1", "up2"), "raw")
    assert float(raw[:, 0].mean()) > 0.9
    for how in ("standardised", "by picture"):
        both = probe.joined(maps, ("up1", "up2"), how)
        assert both.square().mean((0, 2, 3)).tolist() == pytest.approx([0.5, 0.5], abs=0.1)
        torch.testing.assert_close(both.norm(dim=1), torch.ones(3, 8, 8))
    lighter = {name: m + torch.arange(3.0)[:, None, None, None] for name, m in maps.items()}
    torch.testing.assert_close(probe.joined(lighter, ("up1", "up2"), "by picture"), both,
                               rtol=1e-3, atol=1e-4)


def test_content_says_nothing_of_the_place() -> None:
    g = generator("test", 5)
    place, content = 9 * torch.randn(1, 4, 8, 8, generator=g), torch.randn(3, 4, 8, 8, generator=g)
    found = probe.joined({"up1": place + content}, ("up1",), "content")
    alike = torch.nn.functional.cosine_similarity(found, content - content.mean(0), dim=1)
    assert float(alike.mean()) > 0.9
    assert float(probe.joined({"up1": place + content}, ("up1",), "by picture").mean(0).norm()) > 2


def test_goals_that_are_missed_are_told() -> None:
    found = {"cifar": {"up0-up2, 2×2, t = 50": {"accuracy": 58.0}},
             "willow": {"up1+up2+up3, t = 50, by picture": {"image": [43.7, 42.0, 45.0]}}}
    assert probe.missed(found) == [
        "not reached: willow, up1+up2+up3, t = 50, by picture, image: 43.7, at least 43.8"]


def test_a_regression_reads_what_is_there_and_only_that() -> None:
    rng = np.random.default_rng(0)
    y = {"train": np.arange(400) % 4, "test": np.arange(200) % 4}
    noise = {k: rng.normal(size=(len(v), 5)) for k, v in y.items()}
    told = {k: noise[k] + 1000 * np.eye(4)[y[k]] @ np.eye(4, 5) for k in y}
    assert probe.accuracy(told, y) == {"accuracy": 100.0, "interval": [100.0, 100.0]}
    assert 10 < probe.accuracy(noise, y)["accuracy"] < 40
