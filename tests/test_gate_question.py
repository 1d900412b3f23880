"""The recipe that asks of each technique whether it helps, on a very small toyworld."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gate_cache.core.errors import ManifestError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded
from gate_cache.workspace.workspace import Workspace
from pipelines.gate_question import Question, asked, main, technique

PHOTO = {"prompt": "a photo"}
CONV = {
    "reference": {**PHOTO, "t": 0},
    "plain-0": {**PHOTO, "seed": 0},
    "plain-1": {**PHOTO, "seed": 1},
    "early-0": {**PHOTO, "t": 5, "seed": 0},
    "early-1": {**PHOTO, "t": 5, "seed": 1},
    "prompt-0": {"prompt": "a photo of a horse", "seed": 0},
}
SECTIONS = {"conv": CONV, "attention": {"attn": {**PHOTO}}, "train": {
    "combos": ["prompt-0", "plain-0"], "baseline": "prompt-0", "steps": 1, "validate_steps": 1}}


@pytest.fixture
def loaded(manifest: Callable[..., Loaded]) -> Loaded:
    return manifest(dataset={"name": "toyworld", "train": 9, "val": 0, "test": 9}, **SECTIONS)


def test_techniques_are_named_before_their_seed() -> None:
    assert [technique(n) for n in ("plain-0", "two-words-1", "reference")] == \
        ["plain", "two-words", "reference"]


@pytest.mark.long
def test_scores_and_pck_of_every_technique(loaded: Loaded, roots: Roots) -> None:
    extract(Workspace(loaded, roots))
    question = Question(loaded, roots, seeds=2)
    scores, rows = question.scores(), question.pck()
    assert {k: len(v) for k, v in scores.items()} == {"early": 2, "prompt": 1}
    assert min(scores["early"]) > 0.3, scores  # less noise, less shift
    assert abs(scores["prompt"][0]) < min(scores["early"]), scores
    assert {k: len(v) for k, v in rows.items()} == {
        "copy the position": 1, "plain, alone": 2, "early, alone": 2, "prompt, alone": 1,
        "2 × plain, uniform": 1, "2 × plain, assigners": 2,
        "GATE's 2, uniform": 1, "GATE's 2, assigners": 2,
        "GATE's 2 + attention, uniform": 1, "GATE's 2 + attention, assigners": 2}
    assert all(0 <= v <= 100 for row in rows.values() for pair in row for v in pair)


def test_some_techniques_alone_with_another_model(loaded: Loaded) -> None:
    found = asked(loaded, "other", only=["prompt"]).manifest
    assert list(found.conv) == ["plain-0", "plain-1", "prompt-0"] and not found.attention
    assert found.model.source == "other" and found.train.combos == ["plain-0", "plain-1"]
    assert asked(loaded) == loaded


def test_another_style_has_a_store_of_its_own(loaded: Loaded) -> None:
    found = asked(loaded, style="dusk")
    assert found.manifest.dataset.style == "dusk" and found.store_path != loaded.store_path


def test_only_toyworld_has_styles(manifest: Callable[..., Loaded]) -> None:
    folder = manifest(dataset={"name": "folder", "root": "images"}, conv={"plain-0": PHOTO})
    with pytest.raises(ManifestError, match="toyworld"):
        asked(folder, style="dusk")


@pytest.mark.long
def test_its_table_is_printed_and_kept(loaded: Loaded, roots: Roots, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", [
        "gate_question", str(loaded.path), "--stores", str(roots.stores), "--runs",
        str(tmp_path / "new"), "--only", "prompt", "--seeds", "1"])
    main()
    kept = json.loads((tmp_path / "new" / f"{loaded.path.stem}-tiny.json").read_text())
    assert "prompt, alone" in capsys.readouterr().out and "prompt, alone" in kept["pck"]
