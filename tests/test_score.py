"""Content shift of combos: Eq. 1 and 2 as a store's features give them, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteManifest
from PIL import Image

from gate_cache import FeatureStore
from gate_cache.analysis.score import (
    ANCHOR,
    REFERENCE,
    Scored,
    Selection,
    ShiftScores,
    _plain_name,
    _Table,
    score_combos,
    techniques_of,
)
from gate_cache.cli import main
from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.metrics.shift import edge_strength, score, shift
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Combo
from gate_cache.workspace.workspace import Workspace

Toy = tuple[Loaded, Roots, Path]
COMBOS = ["plain", "seed-1", "control"]


@pytest.fixture(scope="module")
def scores(toy: Toy) -> ShiftScores:
    loaded, roots, _ = toy
    return score_combos(Workspace(loaded, roots, "cpu"), Selection(combos=COMBOS, count=99),
                        anchor_t=300)


def rows(found: ShiftScores) -> dict[str, Scored]:
    return {r.name: r for r in found.rows}


@pytest.mark.long
def test_scores_are_those_of_a_stores_features(scores: ShiftScores, toy: Toy,
                                               manifest: WriteManifest, roots: Roots) -> None:
    """The same passes extracted into a store, and Eq. 1 and 2 written out."""
    control = {"prompt": "a photo", "controlnet": {"source": "tiny"}}
    conv: dict[str, Any] = {
        "reference": {"prompt": "a photo", "t": 0}, "anchor": {"prompt": "a photo", "t": 300},
        "without": {"prompt": "a photo", "t": 50}, "control": {**control, "t": 50}}
    loaded = manifest(conv=conv, attention={}, store={"dtype": "float32"})
    store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    maps = store["reference"].maps

    def read(combo: str, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(store[combo][name][:]))

    def expected(combo: str) -> np.ndarray:
        each = [score(*(shift(read("reference", m), read(c, m)) for c in ("anchor", combo)))
                for m in maps]
        return torch.stack(each).mean(0).double().numpy()

    found = rows(scores)["control"]
    assert found.score.mean == pytest.approx(expected("control").mean(), abs=1e-3)
    assert found.score.std == pytest.approx(expected("control").std(ddof=1), abs=1e-3)
    assert found.gain is not None
    gain = expected("control") - expected("without")
    assert found.gain.mean == pytest.approx(gain.mean(), abs=1e-3)
    assert list(found.maps) == list(maps)
    assert found.score.mean == pytest.approx(np.mean([v.mean for v in found.maps.values()]))


def test_padding_does_not_count(manifest: WriteManifest, roots: Roots) -> None:
    """Eq. 1 and 2 over the cells that show an image, and not over the square."""
    folder = roots.data / "photos"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in {"tall": (90, 30), "wide": (20, 80), "square": (64, 64)}.items():
        Image.fromarray(rng.integers(0, 255, (*shape, 3), np.uint8)).save(folder / f"{name}.png")
    control = {"prompt": "a photo", "controlnet": {"source": "tiny"}, "t": 50}
    conv = {"reference": {"prompt": "a photo", "t": 0}, "anchor": {"prompt": "a photo", "t": 300},
            "control": control}
    common: dict[str, Any] = {"dataset": {"name": "folder", "root": "photos"}, "attention": {},
                              "model": {"source": "tiny", "fit": "pad"}}
    loaded = manifest(conv=conv, **common, store={"dtype": "float32"})
    store = FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)

    def expected(whole: bool) -> float:
        found = []
        for row, (height, width) in enumerate(store.samples.sizes):
            for name in store["control"].maps:
                first, anchor, control = (
                    edge_strength(torch.from_numpy(store[c][name][row])[None])[0].numpy()
                    for c in ("reference", "anchor", "control"))
                shown = np.full(first.shape, True) if whole else \
                    store["control"].frame.place(height, width).mask(len(first))
                worst = np.abs(first - anchor)[shown].sum()
                found.append((worst - np.abs(first - control)[shown].sum()) / worst)
        return float(np.mean(found))

    found = score_combos(Workspace(manifest(conv={"control": control}, **common), roots, "cpu"),
                         Selection(), anchor_t=300)
    assert rows(found)["control"].score.mean == pytest.approx(expected(whole=False), abs=1e-3)
    assert abs(expected(whole=True) - expected(whole=False)) > 0.02


def test_what_is_without_techniques_gains_nothing(toy: Toy, manifest: WriteManifest) -> None:
    conv = {"photo": {"prompt": "a photo", "t": 80}, "later": {"prompt": "a photo", "t": 200}}
    found = rows(score_combos(Workspace(manifest(conv=conv, attention={}), toy[1], "cpu"),
                              Selection(count=3)))
    photo, later = found["photo"].gain, found["later"].gain
    assert photo is not None and photo.mean == 0 and photo.interval == (0, 0)
    assert later is not None and later.mean == 0
    assert found["photo"].score.mean > found["later"].score.mean > 0


def test_a_combos_own_reference_is_the_combo(toy: Toy, manifest: WriteManifest) -> None:
    """At t = 0 with the reference's noise a combo is its own reference: a perfect Score."""
    conv = {"control": {"prompt": "a horse", "controlnet": {"source": "tiny"}, "t": 0}}
    loaded = manifest(conv=conv, attention={})
    one, other = (score_combos(Workspace(loaded, toy[1], "cpu"), Selection(count=2), own=own)
                  for own in (True, False))
    assert rows(one)["control"].score.mean == pytest.approx(1, abs=1e-4)
    assert rows(other)["control"].score.mean < 0.99
    assert (one.own, other.own) == (True, False)


def test_rows_without_technique_come_first(scores: ShiftScores) -> None:
    assert [r.name for r in scores.rows] == ["no technique", *COMBOS]
    assert [r.gain is None for r in scores.rows] == [True, False, False, False]
    low, high = scores.rows[0].score.interval
    assert low <= scores.rows[0].score.mean <= high


def test_nothing_is_written(scores: ShiftScores, toy: Toy) -> None:
    """The session's store is as extract left it: seven images of five combos."""
    store = FeatureStore.open(toy[2])
    assert len(store.combos) == 5 and [p.name for p in toy[1].stores.glob("*.zarr")] == [
        toy[2].name]


def test_images_whose_anchor_has_no_shift_are_left_out() -> None:
    edges = torch.rand(3, 4, 4)
    anchor, feature = edges.clone(), edges + 0.1
    anchor[1:] += 0.4
    table = _Table({REFERENCE: {"up0": edges}, ANCHOR: {"up0": anchor}, "a": {"up0": feature},
                    _plain_name(Combo(prompt="p")): {"up0": anchor}})
    assert table.scored.tolist() == [False, True, True]
    (row,) = table.combos({"a": Combo(prompt="p")})
    assert row.score.mean == pytest.approx(0.75, abs=1e-4)
    assert row.gain is not None and row.gain.mean == pytest.approx(0.75, abs=1e-4)
    with pytest.raises(UserError, match="no image's anchor has any shift"):
        _Table({REFERENCE: {"up0": edges}, ANCHOR: {"up0": edges}})


def test_techniques_are_named() -> None:
    combo = Combo.model_validate({
        "prompt": "p", "controlnet": {"source": "x"}, "lora": [{"source": "a/b.safetensors"}],
        "denoise": {"from": 60}, "guidance": {"scale": 7.5}})
    assert techniques_of(combo) == "ControlNet 1, LoRA b 1, guidance 7.5"
    assert techniques_of(Combo(prompt="p")) == "prompt"


# --------------------------------------------------------------------------------------- command


def command(monkeypatch: pytest.MonkeyPatch, toy: Toy, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["gate-cache", "score", *map(str, words), "--stores",
                                     str(toy[1].stores), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    asked = [toy[0].path, "--combo", "control", "--images", 2, "--out", tmp_path]
    assert command(monkeypatch, toy, *asked) == 0
    said = capsys.readouterr().out
    assert "ControlNet 1" in said and str(tmp_path / "toy-score.png") in said
    with Image.open(tmp_path / "toy-score.png") as picture:
        assert picture.width > 700
    assert command(monkeypatch, toy, *asked, "--json", "--own-reference") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["own"] and found["rows"][1]["maps"]["up2"]["mean"] <= 1
    assert len(found["images"]) == 2


@pytest.mark.parametrize("more, said", [
    (["--combo", "plan"], "has no combo 'plan' (did you mean 'plain'?)"),
    (["--image", "zebra"], "'zebra' is not an image of its data set"),
    (["--anchor-t", 50], "--anchor-t 50: the anchor needs a larger t"),
])
def test_bad_input_is_a_line(more: list[object], said: str, toy: Toy,
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, toy, toy[0].path, *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_full_memory_is_a_line(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache.diffusion.passes.extractor import Extractor

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Extractor, "encode", full)
    with pytest.raises(UserError, match=r"memory is full: use --batch 4, or --batch auto$"):
        score_combos(Workspace(toy[0], toy[1], "cpu"), Selection(batch=8))
