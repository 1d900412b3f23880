"""Runs of the first release still open, and what it called things is still taken, and told.

``data/first-release-runs.zip`` was written by its code. Numbers of items were no multiples of the
batch there, so that what is trained shows whether the same batches are seen.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_tasks import Toy
from test_tasks import manifest as write_masks
from test_tasks import write as write_maps
from test_train import build, one_thread  # noqa: F401

from gate_cache.analysis.describe import of_run
from gate_cache.cli import main
from gate_cache.core.errors import ManifestError, OldSpelling, UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.toy import ToyWorld
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.manifest.train_spec import HEADS_WERE, OF_A_RUN, WERE, TrainSpec
from gate_cache.report.html.write import write_report
from gate_cache.store.reader import FeatureStore
from gate_cache.training.evaluate import evaluate
from gate_cache.training.predict import predict
from gate_cache.training.sweep import sweep
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

RUNS = Path(__file__).parent / "data" / "first-release-runs.zip"
PCK = "pck@0.10/radius=box/average=point"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs, and the stores that they were trained on."""
    folder = tmp_path_factory.mktemp("first")
    with zipfile.ZipFile(RUNS) as file:
        file.extractall(folder)
    (folder / "masks").mkdir()
    for path in folder.glob("masks-*.yaml"):
        path.rename(folder / "masks" / path.name.removeprefix("masks-"))
    for path in folder.rglob("*.json"):  # the store's place
        path.write_text(path.read_text().replace("HOME", str(folder)))
    build(folder / "stores", load(folder / "toy.yaml"))
    world = ToyWorld({"train": 8, "val": 8, "test": 8})
    write_maps(folder / "masks" / "stores" / "toy.zarr", "squash", Toy(world),
               [s.id for s in world.samples()], write_masks(folder / "masks", "now"))
    return folder


def roots(folder: Path) -> Roots:
    return Roots(stores=folder / "stores", runs=folder / "runs")


def rows(run: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((run / "metrics.json").read_text())["tables"][0]["rows"]
    return {row["method"]: row for row in found}


def gate(run: Path) -> dict[str, Any]:
    return next(row for name, row in rows(run).items() if name.startswith("GATE"))


def within(now: Any, then: Any) -> Any:
    """What there was then of what there is now: later releases tell more."""
    return {k: within(now[k], v) for k, v in then.items()} if isinstance(then, dict) else now


def near(now: Any, then: Any) -> bool:
    """Whether all that there was then is there now, numbers within rounding.

    Another seed, or a rate that is a hundredth larger, was seen for each of the five heads.
    """
    if isinstance(then, dict):
        return all(k in now and near(now[k], v) for k, v in then.items())
    if isinstance(then, list):
        return len(now) == len(then) and all(map(near, now, then))
    if isinstance(then, float):
        return bool(now == pytest.approx(then, rel=1e-4, abs=1e-6))
    return bool(now == then)


def folder_of(home: Path, name: str) -> Path:
    return home if name in ("nn", "conv") else home / "masks"


@pytest.mark.parametrize("name", ["nn", "conv", "upernet", "pixel-mlp", "classifier"])
def test_a_run_is_judged_as_it_was(name: str, home: Path) -> None:
    folder, run = folder_of(home, name), home / "runs" / name
    found = evaluate(Workspace.open(folder / f"{name}.yaml", roots(folder), "cpu"), run)
    assert found.head == name
    known = {k: v for k, v in gate(run).items() if k in found.values}
    assert within(found.values, known) == pytest.approx(known) and found.select in known


def test_a_trial_is_judged_as_it_was(home: Path) -> None:
    run = home / "runs" / "sweep"
    trial = "gamma1=0.5,seed=1"
    found = evaluate(Workspace.open(home / "sweep.yaml", roots(home), "cpu"), run, trial=trial)
    known = json.loads((run / "trials" / f"{trial}.json").read_text())["test"]
    assert within(found.values, known) == pytest.approx(known)


@pytest.mark.parametrize("name", ["upernet", "pixel-mlp"])
def test_a_run_predicts(name: str, home: Path) -> None:
    folder = home / "masks"
    found = predict(Workspace.open(folder / f"{name}.yaml", roots(folder), "cpu"),
                    home / "runs" / name)
    assert found.head == name and len(list(found.images)) == 4


def test_a_run_describes_points(home: Path) -> None:
    described = of_run(Workspace.open(home / "conv.yaml", roots(home)), home / "runs" / "conv")
    store = FeatureStore.open(home / "stores" / "toy.zarr")
    assert described(store.samples.ids[0]).lengths.shape == (8, 8)  # train.resolution


@pytest.mark.parametrize("name", ["nn", "conv", "sweep", "classifier"])
def test_a_run_has_a_report(name: str, home: Path) -> None:
    text = write_report(home / "runs" / name, roots(folder_of(home, name))).read_text()
    assert "items seen" in text and "GATE: " in text


# --------------------------------------------------------------------------------- going on


def test_what_is_unfinished_is_refused_and_left(home: Path) -> None:
    """Its checkpoints are called after titles; it is said, and nothing is written over."""
    half = home / "runs" / "half"
    before = {p: p.read_bytes() for p in half.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"is a run of other settings \(.*\); give --out"):
        train(Workspace.open(home / "nn.yaml", roots(home), "cpu"), run=half)
    assert {p: p.read_bytes() for p in half.rglob("*") if p.is_file()} == before
    loaded = load(home / "sweep.yaml")
    with pytest.raises(UserError, match="holds another sweep, or one over other features"):
        sweep(Workspace(loaded, roots(home), "cpu"), load_sweep(home / "trials.yaml", loaded),
              home / "runs" / "half-sweep")


@pytest.mark.parametrize("name", ["nn", "conv", "upernet", "pixel-mlp", "classifier"])
def test_the_same_training_has_the_same_result(name: str, home: Path, tmp_path: Path) -> None:
    """The old spelling means the same batches; so the same values, but for processors' rounding."""
    folder, whole = folder_of(home, name), home / "runs" / name
    manifest = load(folder / f"{name}.yaml")
    spec = TrainSpec.model_validate(
        manifest.manifest.train.model_dump(mode="json", exclude={"validate_steps"})
        | _as_then(manifest, whole))
    manifest = manifest.model_copy(update={"manifest": manifest.manifest.model_copy(
        update={"train": spec})})
    found = train(Workspace(manifest, roots(folder), "cpu"), run=tmp_path / "r")
    then = gate(whole)
    then.pop("interval", None)  # that release drew pairs, not images
    assert near(gate(found.run), then)


def _as_then(loaded: Loaded, run: Path) -> dict[str, Any]:
    """What that release did by default: values of newer options, its rate and validations."""
    head = loaded.manifest.train.head.model_dump(mode="json")
    then = json.loads((run / "config.json").read_text())["manifest"]["train"]
    return WERE | {"lr": then["lr"], "validate_every": then["validate_every"],
                   "head": head | {k: v for k, v in HEADS_WERE.items() if k in head}}


# ---------------------------------------------------------------------------------- spelling


def write(folder: Path, train: dict[str, Any]) -> Path:
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump({
        "dataset": {"name": "toyworld"}, "model": {"source": "tiny"},
        "conv": {"a": {"prompt": "b"}}, "train": train}, sort_keys=False))
    return path


def loaded(folder: Path, train: dict[str, Any], **given: Any) -> Loaded:
    return load(write(folder, train), given)


@pytest.mark.parametrize(("train", "says"), [
    ({"head": "upernet", "decoder_channels": 64},
     "m.yaml:10: train.decoder_channels: write head: {name: upernet, decoder_channels: 64};"),
    ({"head": "pixel-mlp", "members": 3, "extra": ["a"]},
     "m.yaml:10: train.members: write head: {name: pixel-mlp, members: 3, extra: [a]};"),
    ({"pairs": 400}, "m.yaml:9: train.pairs: counts items, in batches of 4; write steps: 100;"),
    ({"pairs": 640, "head": "pixel-mlp"}, "in batches of 64; write steps: 10;"),
    ({"validate_every": 30, "batch": 4}, "train.validate_every: counts items, in batches of 4;"
     " write validate_steps: 8;"),
])
def test_old_spelling_is_told_in_one_line(tmp_path: Path, train: dict[str, Any],
                                          says: str) -> None:
    with pytest.warns(OldSpelling) as told:
        loaded(tmp_path, train)
    (line,) = [str(w.message) for w in told]
    assert says in line and "\n" not in line


def test_new_spelling_is_not_told(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loaded(tmp_path, {"head": {"name": "upernet", "decoder_channels": 64}, "steps": 3,
                                  "validate_steps": 1})
    assert found.manifest.train.items == 12 and found.manifest.train.validate_items == 4


@pytest.mark.parametrize(("old", "new"), [
    ({"head": "conv", "conv_channels": 8, "resolution": 4},
     {"head": {"name": "conv", "conv_channels": 8, "resolution": 4}}),
    ({"pairs": 400, "validate_every": 100}, {"steps": 100, "validate_steps": 25}),
    ({"head": "pixel-mlp", "pairs": 640, "validate_every": 64, "sampling": "balanced"},
     {"head": {"name": "pixel-mlp", "sampling": "balanced"}, "steps": 10, "validate_steps": 1}),
])
def test_both_spellings_are_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert TrainSpec(**old) == TrainSpec(**new)


def test_a_run_of_before_reads_the_attention_maps_it_was_trained_on() -> None:
    def of_a_run(**train: Any) -> Any:
        return TrainSpec.model_validate(train, context=OF_A_RUN).attention_maps

    assert of_a_run() == "two finest" and of_a_run(attention_maps=["attn1"]) == ["attn1"]
    assert of_a_run(**TrainSpec().model_dump(mode="json")) is None


def test_items_that_are_no_whole_batches_are_kept() -> None:
    spec = TrainSpec.model_validate({"pairs": 10, "validate_every": 6})
    assert (spec.items, spec.steps, spec.validate_items) == (10, 3, 6)
    again = TrainSpec.model_validate(spec.model_dump(mode="json"), context=OF_A_RUN)
    assert again == spec


@pytest.mark.parametrize(("head", "steps", "batch", "validations"), [
    ("nn", 10_000 / 4, 4, 20), ("conv", 10_000 / 4, 4, 20), ("upernet", 10_000 / 4, 4, 20),
    ("pixel-mlp", 2_000, 64, 4), ("classifier", 100_000 / 64, 64, 10),
])
def test_default_trainings_have_as_many_steps(head: str, steps: float, batch: int,
                                              validations: int) -> None:
    spec = TrainSpec.model_validate({"head": head})
    assert spec.steps == -(-steps // 1) and spec.batch == batch
    assert -(-spec.steps // spec.validate_steps) == validations


@pytest.mark.parametrize(("train", "given", "expected"), [
    ({"head": "upernet", "decoder_channels": 64}, {"head": "pixel-mlp"}, {"members": 10}),
    ({"head": {"name": "upernet", "decoder_channels": 64}}, {"head": "conv"},
     {"conv_channels": 384}),
    ({"head": {"name": "upernet", "decoder_channels": 64}}, {"head": "upernet"},
     {"decoder_channels": 64}),
    ({"decoder_channels": 64}, {"head": "upernet"}, {"decoder_channels": 64}),
    ({"head": {"name": "upernet", "decoder_channels": 64}}, {"decoder_channels": 8},
     {"decoder_channels": 8}),
    ({"head": {"name": "conv", "resolution": 4}}, {"head.conv_channels": 8},
     {"resolution": 4, "conv_channels": 8}),
    ({"pairs": 400}, {"steps": 5}, {"items": 20}),
    ({"steps": 5}, {"pairs": 10}, {"items": 10}),
])
def test_a_command_line_goes_over_a_file(tmp_path: Path, train: dict[str, Any],
                                         given: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = loaded(tmp_path, train, **given).manifest.train
    for name, value in expected.items():
        assert getattr(spec if name == "items" else spec.head, name) == value


@pytest.mark.parametrize(("train", "says"), [
    ({"head": "upernet", "conv_channels": 3}, ["m.yaml:10: train.conv_channels: unknown field; head"
                                               " 'upernet' has no such option", "head 'conv'"]),
    ({"head": "upernet", "decoder_chanels": 3}, ["(did you mean 'decoder_channels'?)"]),
    ({"head": {"name": "upernet", "decoder_chanels": 3}},
     ["m.yaml:11: train.head.decoder_chanels: unknown field (did you mean 'decoder_channels'?)"]),
    ({"head": {"name": "nn", "members": 3}}, ["m.yaml:11: train.head.members", "'pixel-mlp'"]),
    ({"head": {"name": "upernet", "decoder_channels": 1}},
     ["m.yaml:11: train.head.decoder_channels: must be at least 2, got 1"]),
    ({"head": "upernet", "decoder_channels": 1}, ["m.yaml:10: train.head.decoder_channels"]),
    ({"head": "upernt"}, ["m.yaml:9: train.head: unknown head 'upernt' (did you mean 'upernet'?)"]),
    ({"head": {"decoder_channels": 3}}, ["m.yaml:9: train.head: expected a head's name, or a"]),
    ({"head": [1]}, ["m.yaml:9: train.head: expected a head's name, or a mapping"]),
    ({"pairs": 0}, ["m.yaml:9: train.pairs: must be at least 1, got 0"]),
    ({"pairs": 400, "steps": 3}, ["train: gives pairs and steps; give steps alone"]),
    ({"pairs": 401, "steps": 3}, ["train: gives pairs and steps; give steps alone"]),
])
def test_what_is_refused_is_one_line(tmp_path: Path, train: dict[str, Any],
                                     says: list[str]) -> None:
    with pytest.raises(ManifestError) as refused:
        loaded(tmp_path, train)
    (line,) = refused.value.problems
    assert all(text in line for text in says), line


def test_the_command_line_notes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"head": "upernet", "decoder_channels": 64})
    monkeypatch.setattr("sys.argv", ["gate-cache", "validate", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert not end.value.code and said.out.startswith("m.yaml: valid")
    (note,) = said.err.splitlines()
    assert note.startswith("note: m.yaml:10: train.decoder_channels: write head: {name: upernet,")
