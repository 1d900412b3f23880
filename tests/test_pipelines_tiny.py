"""The recipe that trains the embedded model: resuming, captions, styles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gate_cache.diffusion.models.embedded import HOME
from gate_cache.toyworld import CATEGORIES, draw
from gate_cache.toyworld.render import dusk
from pipelines.tiny import vocabulary
from pipelines.tiny.captions import token_ids, varied
from pipelines.tiny.loop import Plan, fit, generator
from pipelines.tiny.measure import edge_f1
from pipelines.tiny.pictures import cifar_caption

PLAN = Plan("toy", steps=8, lr=0.1, warmup=2, ema=0.9, save_every=3)


def loss_of(model: torch.nn.Linear, stop: int | None = None) -> object:
    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        return (model(torch.randn(4, 3, generator=g)) - 1).square().mean()
    return loss


def fresh() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_training_goes_on_as_if_never_interrupted(tmp_path: Path, stop: int) -> None:
    whole, first, second = fresh(), fresh(), fresh()
    fit(PLAN, {"m": whole}, loss_of(whole), tmp_path / "whole")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        fit(PLAN, {"m": first}, loss_of(first, stop), tmp_path / "cut")  # type: ignore[arg-type]
    fit(PLAN, {"m": second}, loss_of(second), tmp_path / "cut")  # type: ignore[arg-type]
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_in_parts_is_the_whole_one(tmp_path: Path) -> None:
    whole, parts = fresh(), fresh()
    fit(PLAN, {"m": whole}, loss_of(whole), tmp_path / "whole")  # type: ignore[arg-type]
    for stop in (2, 5, 8):
        fit(PLAN, {"m": parts}, loss_of(parts), tmp_path / "parts", stop)  # type: ignore[arg-type]
        lines = (tmp_path / "parts" / "toy.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == stop
    assert torch.equal(whole.weight, parts.weight)


def test_a_finished_training_is_loaded_not_repeated(tmp_path: Path) -> None:
    one, two = fresh(), torch.nn.Linear(3, 1)
    fit(PLAN, {"m": one}, loss_of(one), tmp_path)  # type: ignore[arg-type]
    fit(PLAN, {"m": two}, loss_of(two, stop=0), tmp_path)  # type: ignore[arg-type]
    assert torch.equal(one.weight, two.weight)
    lines = [json.loads(x) for x in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [8]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    model = fresh()
    with pytest.raises(SystemExit, match="toy: the loss is nan at step 1"):
        fit(PLAN, {"m": model}, lambda *_: model.weight.sum() * float("nan"), tmp_path)


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    plan = replace(PLAN, steps=100, warmup=10, decay=0.3)
    rates = [plan.rate(s) for s in range(100)]
    assert rates[0] == pytest.approx(0.01) and rates[9] == rates[69] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.1 / 30)


@pytest.mark.long
def test_captions_keep_to_what_the_picture_shows() -> None:
    kinds = set()
    for i in range(400):
        scene, g = draw("train", i % 24, 16), generator("test", i)
        said = varied(scene.caption, scene.category, g)
        assert token_ids([said]).shape == (1, 77)
        listed = [c for c in CATEGORIES if c in said.replace(",", "").split()]
        if said in ("", "a photo") or said.startswith("a photo,"):
            kinds.add("none")
            continue
        assert scene.category in listed
        kinds.add("list" if len(listed) > 1 else "one")
        if "low quality" in said:
            assert "low quality" in scene.caption
        if "masterpiece" in said:
            assert scene.quality == "high quality"
    assert kinds == {"none", "list", "one"}


def test_photographs_are_called_so() -> None:
    said = [varied(cifar_caption("frog"), "frog", generator("test", i)) for i in range(100)]
    assert all(s == "" or s.startswith("a low resolution photo") for s in said)
    assert any("frog" in s for s in said) and not any("quality" in s for s in said)


def test_dusk_is_dark_and_keeps_what_is_seen() -> None:
    image = draw("test", 0).image
    dark = dusk(image)
    assert dark.shape == image.shape and dark.dtype == np.uint8
    assert dark.mean() < 0.6 * image.mean()
    assert np.corrcoef(dark.ravel(), image.ravel())[0, 1] > 0.5


def test_a_caption_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="over 75 tokens: 'a horse a horse"):
        token_ids(["a photo", "a horse " * 60])


def test_the_shipped_vocabulary_is_what_its_recipe_writes(tmp_path: Path) -> None:
    vocabulary.write(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {p.name for p in (HOME / "tokenizer").iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (HOME / "tokenizer" / name).read_bytes(), name


def test_merges_take_the_most_frequent_pair_first() -> None:
    assert vocabulary.merges(["aba", "ab", "xb"]) == [
        ("a", "b"), ("a", "b</w>"), ("ab", "a</w>"), ("x", "b</w>")]


def test_edge_f1() -> None:
    a = np.zeros((1, 8, 8), np.uint8)
    a[0, 4] = 255
    assert edge_f1(a, a, 0) == 1
    moved = np.roll(a, 1, 1)
    assert edge_f1(a, moved, 0) == 0 and edge_f1(a, moved, 1) == 1
    half = a.copy()
    half[0, 4, 4:] = 0
    assert edge_f1(a, half, 0) == pytest.approx(2 / 3)
