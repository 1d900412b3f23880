"""What a viewer asks of a store: lists, colours, attention, matches by combo and trained run."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_train import COUNTS, WORDS, build, manifest, one_thread, run  # noqa: F401

from gate_cache.analysis.describe import of_combo, of_run
from gate_cache.analysis.match import match_images
from gate_cache.analysis.session import ViewerSession, open_session
from gate_cache.core.errors import RowNotDone, StoreError, UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.toy import ToyWorld
from gate_cache.learn.mixing.amalgamator import build_model
from gate_cache.manifest.heads import parse_head
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.store.format.samples import NewSample
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import open_writer
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.training.sweep import sweep
from gate_cache.training.trained import find_trained
from gate_cache.workspace.workspace import Workspace

QUICK: dict[str, Any] = {"steps": 2, "batch": 2, "validate_steps": 2, "assigners": 2}
CHOSEN = ["good", "noise-0"]
LATE = 24
"""Rows of noise-1 that are extracted."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one combo is not finished, with a short training."""
    folder = tmp_path_factory.mktemp("view")
    build(folder / "stores", manifest(folder), rows={"noise-1": LATE})
    run(folder, folder / "nn", attention="attn", combos=CHOSEN, **QUICK)
    return folder


def opened(home: Path, target: Path | None = None, **more: Any) -> ViewerSession:
    return open_session(target or home / "toy.yaml", Roots(stores=home / "stores"), Silent(),
                        device="cpu", **more)


@pytest.fixture(scope="module")
def explorer(home: Path) -> ViewerSession:
    return opened(home, runs=[home / "nn" / "run"])


# ---------------------------------------------------------------------------------------- lists


def test_images_are_found_by_words_of_their_id(explorer: ViewerSession) -> None:
    assert len(explorer.find("")) == sum(COUNTS.values())
    found = explorer.find("TEST cat")
    assert found and all(i.startswith("test/cat/") for i in found)
    assert not explorer.find("cat nowhere")


def test_others_are_of_the_category_and_change_with_the_seed(explorer: ViewerSession) -> None:
    image = explorer.find("cat")[0]
    alike = explorer.others(image, True, 40, 0)
    assert set(alike) == set(explorer.find("/cat/")) - {image}
    assert explorer.others(image, True, 40, 0) == alike != explorer.others(image, True, 40, 1)
    every = explorer.others(image, False, 40, 0)
    assert set(every) == set(explorer.ids) - {image}


def test_what_is_not_there_is_refused(explorer: ViewerSession) -> None:
    with pytest.raises(StoreError, match="no sample"):
        explorer.image("../../etc/passwd")
    with pytest.raises(UserError, match="did you mean 'good'"):
        explorer.colours(explorer.ids[0], "god", "up0")
    with pytest.raises(StoreError, match="has no map"):
        explorer.colours(explorer.ids[0], "good", "up9")
    with pytest.raises(UserError, match="from 0 to 2"):
        explorer.attention(explorer.ids[0], "attn", "attn1", [-1])


# ------------------------------------------------------------------------------------- pictures


def test_one_value_has_one_colour_in_every_combo(explorer: ViewerSession) -> None:
    """The background of `good`, and its bumps, in two images; noise has other colours."""
    a, b = (explorer.colours(i, "good", "up1").astype(int) for i in explorer.ids[:2])
    assert np.abs(a[0, 0] - b[0, 0]).max() <= 2  # a corner is nobody's key point
    noise = explorer.colours(explorer.ids[0], "noise-0", "up1").reshape(-1, 3)
    assert noise.std(0).min() > a.reshape(-1, 3).std(0).min()


def test_attention_is_what_is_stored(explorer: ViewerSession) -> None:
    image = explorer.ids[3]
    found = explorer.attention(image, "attn", "attn1", [2, 0])
    stored = explorer.store["attn"]["attn1"][3].astype(np.float32)
    np.testing.assert_array_equal(found, stored[[2, 0]])
    (combo,) = (c for c in explorer.combos() if c.kind == "attention")
    assert combo.tokens == WORDS and combo.done == len(explorer.ids)


def test_a_row_that_is_not_there_is_no_other_rows(explorer: ViewerSession) -> None:
    explorer.colours(explorer.ids[LATE - 1], "noise-1", "up0")
    with pytest.raises(RowNotDone):
        explorer.colours(explorer.ids[LATE], "noise-1", "up0")


def test_originals_are_shown_and_maps_stand_in(home: Path, explorer: ViewerSession) -> None:
    image = explorer.ids[5]
    picture = explorer.picture(image)
    assert picture is not None
    np.testing.assert_array_equal(picture, ToyWorld(COUNTS).image(image))
    alone = opened(home, home / "stores" / "toy.zarr")
    stand_in = alone.picture(image)
    assert not alone.image(image).original and stand_in is not None
    assert stand_in.shape == (16, 16, 3)


def test_a_changed_or_foreign_file_is_not_shown(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids come from the store, which may be a stranger's: they lead nowhere else."""
    for check in ("is_sample", "are_samples"):  # the second lock is tried alone
        monkeypatch.setattr(f"gate_cache.store.format.columns.{check}", lambda _: True)
    root = tmp_path / "data" / "images"
    root.mkdir(parents=True)
    for path in (root / "a.png", root / "b.png", tmp_path / "data" / "secret.png"):
        Image.fromarray(np.full((8, 8, 3), len(path.name), np.uint8)).save(path)
    secret = (tmp_path / "data" / "secret.png").read_bytes()
    (tmp_path / "f.yaml").write_text(yaml.safe_dump({
        "dataset": {"name": "folder", "root": "images"},
        "model": {"source": "org/none", "size": 64}, "conv": {"a": {"prompt": "x"}}}))
    loaded, roots = load(tmp_path / "f.yaml"), Roots(tmp_path / "data", stores=tmp_path)
    digests = {"a.png": hashlib.sha256((root / "a.png").read_bytes()).hexdigest(),
               "b.png": "00" * 32, "../secret.png": hashlib.sha256(secret).hexdigest()}
    with open_writer(tmp_path / "f.zarr", "folder", 8, 1) as writer:
        writer.append([NewSample(i, d, 8, 8) for i, d in digests.items()])
        group = writer.require("a", {"kind": "conv", "size": 64}, {"up0": (4, 2, 2)}, "float16", {})
        group.fit()
        group.write(range(3), {"up0": np.ones((3, 4, 2, 2))})
    found = open_session(loaded.path, roots, Silent(), device="cpu")
    assert [found.image(i).original for i in digests] == [True, False, False]
    shown = found.picture("../secret.png")
    assert shown is not None and shown.shape == (2, 2, 3)  # the map, not the file


# -------------------------------------------------------------------------------------- matches


def key_point(image: str, k: int) -> tuple[float, float]:
    x, y = ToyWorld(COUNTS).keypoints(image).xy[k] / ToyWorld(COUNTS).image_size
    return float(x), float(y)


def test_a_point_is_found_where_the_feature_knows_it(explorer: ViewerSession) -> None:
    a, b = explorer.find("horse")[:2]
    for k in (0, 1, 2):
        found = explorer.matcher.match("combo good", explorer.row(a), key_point(a, k),
                                       explorer.row(b))
        assert np.hypot(*np.subtract((found.x, found.y), key_point(b, k))) < 1 / 16
        assert found.values.shape == (16, 16) and found.similarity > 0.9


def test_features_are_those_that_training_compares(home: Path, explorer: ViewerSession) -> None:
    """Every feature's matches are those of the model that `train` judges with."""
    loaded = manifest(home, **QUICK, attention="attn", combos=CHOSEN)
    study = open_any(Workspace(loaded, Roots(stores=home / "stores"), "cpu"))
    assert isinstance(study, TrainingInputs)
    gate = study.gate(study.spec)
    find_trained(home / "nn" / "run").load(gate, loaded)
    nn = study.spec.model_copy(update={"head": parse_head("nn")})
    single = build_model(nn, study.features.channels, [1.0], [0], None)
    for name, model in {"run run": gate, "combo good": single}.items():
        pairs = study.pairs["test"][:3]
        (matched,) = study.task.match([model], pairs)
        for pair in pairs:
            for point, wanted in zip(pair.source_shares, matched.by_pair[pair], strict=True):
                found = explorer.matcher.match(name, explorer.row(pair.pair.source), tuple(point),
                                               explorer.row(pair.pair.target))
                assert [found.x, found.y] == pytest.approx(list(wanted), abs=1e-3)


def test_match_means_the_same_by_a_combo(toy: tuple[Loaded, Roots, Path]) -> None:
    loaded, roots, _ = toy
    explorer = open_session(loaded.path, roots, Silent(), device="cpu")
    a, b = explorer.ids[:2]
    assert len(explorer.view("attn").maps) == 2
    for name in loaded.manifest.combos:
        describer = of_combo(Workspace(loaded, roots, "cpu"), name)
        matched = match_images(Workspace(loaded, roots), describer, (a, b), grid=4)
        shares = matched.points / explorer.image(a).size[::-1]
        seen = [explorer.matcher.match(matched.feature, explorer.row(a), (x, y), explorer.row(b))
                for x, y in shares]
        places = np.array([[m.x, m.y] for m in seen]) * explorer.image(b).size[::-1]
        np.testing.assert_allclose(places, matched.found, atol=0.1, err_msg=name)
        np.testing.assert_allclose([m.similarity for m in seen], matched.similarity, atol=1e-3)


def test_the_mean_is_the_mean(home: Path) -> None:
    explorer = opened(home)
    views = [explorer.store[n] for n in ("good", "noise-0", "noise-1")]
    held = explorer.matcher.prepare("mean", 2)
    for level, name in zip(held.levels, ("up0", "up1"), strict=True):
        mean = np.mean([v[name][2].astype(np.float64) for v in views], axis=0)
        torch.testing.assert_close(level.double(), torch.from_numpy(mean), atol=1e-5, rtol=1e-4)


def test_what_was_read_is_held(home: Path) -> None:
    matcher = opened(home).matcher
    first = matcher.match("combo good", 0, (0.5, 0.5), 8)
    again = matcher.match("combo good", 0, (0.2, 0.7), 8)
    assert not first.cached and again.cached
    with pytest.raises(RowNotDone):
        matcher.match("combo noise-1", 0, (0.5, 0.5), LATE)
    with pytest.raises(UserError, match="no feature 'run x'"):
        matcher.prepare("run x", 0)


# ----------------------------------------------------------------------------------------- runs


def test_a_sweeps_trial_is_found_with_its_combos(home: Path, tmp_path: Path) -> None:
    loaded = manifest(tmp_path, **QUICK, combos=["noise-0", "good"], attention=False)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"trials": [
        {"name": "both"}, {"name": "one", "combos": ["noise-0"]}]}))
    sweep(Workspace(loaded, Roots(stores=home / "stores"), "cpu"),
          load_sweep(tmp_path / "s.yaml", loaded), tmp_path / "out")
    explorer = opened(home, runs=[tmp_path / "out"], trial="one")
    one = explorer.matcher.match("run out one", 0, (0.3, 0.4), 8)
    described = of_run(Workspace(loaded, Roots(stores=home / "stores"), "cpu"), tmp_path / "out",
                       trial="one")
    assert described.feature.name == "run out one"
    noise = explorer.matcher.match("combo noise-0", 0, (0.3, 0.4), 8)
    np.testing.assert_allclose(one.values, noise.values, atol=1e-4)
    with pytest.raises(UserError, match="say which of its trials"):
        opened(home, runs=[tmp_path / "out"])


def test_runs_that_do_not_fit_are_named(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(home / "nn" / "run", other)
    config = (other / "config.json").read_text()
    head = r'"head": {\s*"name": "nn",\s*"resolution"[^}]*'
    (other / "config.json").write_text(re.sub(head, '"head": {"name": "upernet"', config))
    with pytest.raises(UserError, match="was trained with head 'upernet'"):
        opened(home, runs=[other])
    print_ = FeatureStore.open(home / "stores" / "toy.zarr")["good"].fingerprint
    (other / "config.json").write_text(config.replace(print_, "0" * 64))
    with pytest.raises(UserError, match="was trained on 'good', which"):
        opened(home, runs=[other])
    with pytest.raises(UserError, match="holds no finished training"):
        opened(home, runs=[tmp_path / "none"])


def test_a_store_without_rows_says_so(tmp_path: Path) -> None:
    build(tmp_path / "stores", manifest(tmp_path), rows={"good": 0}, only=["good"])
    with pytest.raises(RowNotDone, match="holds no extracted image yet"):
        opened(tmp_path)
