"""Sweeps: one stream for many trials, each with the result it would have alone."""

from __future__ import annotations

import csv
import json
import math
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dying
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_train import CONV_HEAD, SHORT, manifest, one_thread, root, run  # noqa: F401

from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.roots import Roots
from gate_cache.learn.features.bucket import Buckets
from gate_cache.learn.fit.order import batches
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.metrics.intervals import bootstrap
from gate_cache.learn.metrics.items import Items
from gate_cache.learn.metrics.pck import share
from gate_cache.learn.metrics.roles import Method
from gate_cache.learn.tasks.task import Scores
from gate_cache.manifest.sweep_file import Point, load_sweep
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.store.format.maps import MapView
from gate_cache.training import sweep_workers
from gate_cache.training.evaluate import Evaluated, evaluate
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.training.items import keep_items
from gate_cache.training.members import keep_members
from gate_cache.training.run_files import items_file, trial_file, write_json
from gate_cache.training.run_folder import Checkpoint
from gate_cache.training.sweep import Share, Swept, sweep
from gate_cache.training.sweep_tables import TrialRow, over_seeds
from gate_cache.training.sweep_workers import places, sweep_on
from gate_cache.training.trained import find_trained
from gate_cache.workspace.workspace import Workspace

PCK = "pck@0.10/radius=box/average=point"


def swept(root: Path, to: Path, sweep_file: dict[str, Any],  # noqa: F811
          **fields: Any) -> Swept:
    to.mkdir(parents=True, exist_ok=True)
    loaded = manifest(to, **{**SHORT, **fields})
    (to / "sweep.yaml").write_text(yaml.safe_dump(sweep_file, sort_keys=False))
    return sweep(Workspace(loaded, Roots(stores=root / "stores", runs=to), "cpu"),
                 load_sweep(to / "sweep.yaml", loaded), to / "out")


def trained(found: Swept) -> dict[str, TrialRow]:
    return {r.name: r for r in found.rows if r.trained}


def weights(to: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(to / "out" / "weights" / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


GRID: dict[str, Any] = {"grid": {"gamma1": [0.0, 0.5], "seed": [0, 1]}}


@pytest.fixture(scope="module")
def four(root: Path) -> tuple[Swept, Path]:  # noqa: F811
    return swept(root, root / "four", GRID), root / "four"


# ------------------------------------------------------------------------------------ results


def test_a_trial_has_the_result_it_has_alone(root: Path, four: tuple[Swept, Path],  # noqa: F811
                                             tmp_path: Path) -> None:
    name = "gamma1=0.5,seed=1"
    alone = swept(root, tmp_path, {"grid": {"gamma1": [0.5], "seed": [1]}})
    assert trained(alone)[name].test == trained(four[0])[name].test
    assert same(weights(tmp_path, name), weights(four[1], name))


def test_train_is_the_sweep_of_one(root: Path, four: tuple[Swept, Path],  # noqa: F811
                                   tmp_path: Path) -> None:
    found = run(root, tmp_path, **SHORT, gamma1=0.5, seed=1)
    gate = next(r for r in found.tables[0].rows if r.method.role == "gate")
    row = trained(four[0])["gamma1=0.5,seed=1"]
    assert row.test == gate.scores.values
    assert same(load_file(found.run / "gate-best.safetensors"),
                weights(four[1], "gamma1=0.5,seed=1"))
    alone = {r.method.title: dict(r.scores.values) for r in found.tables[0].rows if not r.trained}
    assert alone == {r.name: r.test for r in four[0].rows if not r.trained}


def test_trials_differ(four: tuple[Swept, Path]) -> None:
    names = list(trained(four[0]))
    assert names == ["gamma1=0.0,seed=0", "gamma1=0.0,seed=1", "gamma1=0.5,seed=0",
                     "gamma1=0.5,seed=1"]
    assert not any(same(weights(four[1], a), weights(four[1], b))
                   for a in names for b in names if a < b)


@pytest.mark.long
def test_trials_with_other_heads_and_combos(root: Path, tmp_path: Path) -> None:  # noqa: F811
    trials = [{"head": CONV_HEAD, "assigners": 1}, {"combos": ["good", "noise-0"]},
              {"attention": "attn"}, {"batch": 2}]
    found = trained(swept(root, tmp_path, {"trials": trials}))
    assert [n for n in found if not n.startswith("head conv, ")] == [
        "head=conv+conv_channels=16,assigners=1", "combos=good+noise-0", "attention=attn",
        "batch=2"]
    found = {n: r for n, r in found.items() if not n.startswith("head conv, ")}
    assert all(PCK in row.test and not row.failed for row in found.values())
    for i, (name, fields) in enumerate(zip(found, trials, strict=True)):
        alone = run(root, tmp_path / str(i), **{**SHORT, **fields})
        gate = next(r for r in alone.tables[0].rows if r.method.role == "gate")
        assert found[name].test[PCK] == gate.scores.values[PCK]
        assert found[name].method == gate.method


@pytest.mark.long
def test_conv_has_baselines_that_are_trained(root: Path, tmp_path: Path) -> None:  # noqa: F811
    fields = {"head": CONV_HEAD, "assigners": 1}
    rows = trained(swept(root, tmp_path / "s", {"grid": {"seed": [0, 1]}}, **fields))
    for seed in (0, 1):
        alone = run(root, tmp_path / str(seed), **SHORT, **fields, seed=seed)
        for row in alone.tables[0].rows:
            if row.trained and row.method.role != "gate":
                twin = rows[f"head conv, {row.method.title},seed={seed}"]
                assert twin.test[PCK] == row.scores.values[PCK]
    assert len(rows) == 6


# -------------------------------------------------------------------------------------- reads


def reads(root: Path, to: Path, file: dict[str, Any],  # noqa: F811
          monkeypatch: pytest.MonkeyPatch) -> int:
    counted = []
    real = MapView.read_row

    def count(self: MapView, row: int, buffers: Any) -> None:
        counted.append(row)
        real(self, row, buffers)

    monkeypatch.setattr(MapView, "read_row", count)
    swept(root, to, file)
    monkeypatch.undo()
    return len(counted)


@pytest.mark.long
@pytest.mark.parametrize("cached", [True, False])
def test_many_trials_read_as_often_as_one(root: Path, tmp_path: Path, cached: bool,  # noqa: F811
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing held in memory too: every batch is read once for all of them."""
    if not cached:
        monkeypatch.setattr(Buckets.__init__, "__defaults__", (1,))
        monkeypatch.setattr("gate_cache.learn.features.bucket.BUCKET_BYTES", 0)
    patches = pytest.MonkeyPatch()
    one = reads(root, tmp_path / "one", {"grid": {"gamma1": [0.1]}}, patches)
    six = reads(root, tmp_path / "six", {"grid": {"gamma1": [0.0, 0.1, 0.2],
                                                  "gamma2": [0.0, 0.1]}}, patches)
    assert one > 0
    assert six == one


# ------------------------------------------------------------------------- several processes


@pytest.mark.long
def test_processes_share_the_trials(root: Path, four: tuple[Swept, Path],  # noqa: F811
                                    tmp_path: Path) -> None:
    """A stream each; several of one are below."""
    loaded = manifest(tmp_path, **SHORT)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GRID))
    points = load_sweep(tmp_path / "sweep.yaml", loaded)
    found = sweep_on(Workspace(loaded, Roots(stores=root / "stores", runs=tmp_path), "cpu"),
                     points, tmp_path / "out", 2)
    assert trained(found).keys() == trained(four[0]).keys()
    assert all(r.test == trained(four[0])[name].test for name, r in trained(found).items())
    assert [r.name for r in found.rows if not r.trained] == [
        r.name for r in four[0].rows if not r.trained]
    assert (tmp_path / "out" / "results.csv").exists()
    assert not [*(tmp_path / "out").glob("checkpoint-*"), *(tmp_path / "out").rglob("*.partial")]


def test_every_trial_is_in_one_share(tmp_path: Path) -> None:
    points = [Point(str(i), {}, TrainSpec(), str(i)) for i in range(7)]
    for count in (1, 2, 3):
        for streams in ([points], [points[:3], points[3:5], points[5:]]):
            shares = [[p for k, stream in enumerate(streams)
                       for p in Share(i, count).of(stream, k, len(streams))]
                      for i in range(count)]
            assert sorted(p.name for s in shares for p in s) == [p.name for p in points]
            assert all(shares)


def test_what_goes_wrong_in_a_process_is_told(tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = manifest(tmp_path, **SHORT)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GRID))
    points = load_sweep(tmp_path / "sweep.yaml", loaded)
    monkeypatch.setattr(sweep_workers, "ProcessPoolExecutor",  # processes are below, and dear
                        lambda workers, _: ThreadPoolExecutor(workers))
    with pytest.raises(UserError, match=r"nowhere.*toy\.zarr"):
        sweep_on(Workspace(loaded, Roots(stores=tmp_path / "nowhere", runs=tmp_path), "cpu"),
                 points, tmp_path / "out", 2)


@pytest.mark.long
def test_a_worker_that_is_killed_is_a_line(root: Path, tmp_path: Path,  # noqa: F811
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_workers, "_share", dying.die)
    loaded = manifest(tmp_path, **SHORT)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GRID))
    points = load_sweep(tmp_path / "sweep.yaml", loaded)
    with pytest.raises(UserError, match="ended from outside"):
        sweep_on(Workspace(loaded, Roots(stores=root / "stores")), points, tmp_path / "out", 2)


@pytest.mark.long
def test_what_failed_in_a_process_is_not_tried_again(
        root: Path, four: tuple[Swept, Path], tmp_path: Path,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = manifest(tmp_path, **SHORT)
    grid = {"gamma1": [0.0, 0.5], "lr": [loaded.manifest.train.lr, 1e30]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"grid": grid}))
    points = load_sweep(tmp_path / "sweep.yaml", loaded)
    monkeypatch.setattr(Trial, "step", lambda *_: pytest.fail("trained by who asked"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint-of-another-number-of-workers.pt").write_bytes(b"")
    found = sweep_on(Workspace(loaded, Roots(stores=root / "stores", runs=tmp_path), "cpu"),
                     points, tmp_path / "out", 2)
    assert [r.name for r in found.failed] == ["gamma1=0.0,lr=1e+30", "gamma1=0.5,lr=1e+30"]
    assert [r.test for r in found.rows if r.trained and r not in found.failed] == [
        trained(four[0])[f"gamma1={gamma1},seed=0"].test for gamma1 in (0.0, 0.5)]
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_pictures_are_chosen_by_baselines_where_all_else_failed(tmp_path: Path) -> None:
    class Task:
        def predict(self, models: Any, sample_id: str) -> Any:
            return [(np.zeros((2, 2), np.uint8), None) for _ in models]

    ids = np.array([["a"], ["b"], ["c"]])
    items = Items(ids, np.array([1.0, 3.0, 2.0]), np.zeros((3, 1)))
    scores = Scores({"mIoU": 1.0}, 1.0, [], {}, items)
    keep_items(tmp_path, Task(), {"single": torch.nn.Identity()}, {"single": scores}, {"GATE"})
    assert set(Items.load(items_file(tmp_path, "single")).masks) == {"a", "b", "c"}


def test_workers_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert places(3, None) == places(3, "cuda") == ["cuda:0", "cuda:1", "cuda:0"]
    assert places(2, "cpu") == ["cpu", "cpu"] and places(2, "cuda:1") == ["cuda:1", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert places(2, None) == [None, None]


# ----------------------------------------------------------------------- interrupted, failed


def test_an_interrupted_sweep_goes_on_and_ends_the_same(
        root: Path, four: tuple[Swept, Path], tmp_path: Path,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch) -> None:
    real, steps = Trial.step, iter(range(1000))

    def stop(self: Trial, *given: Any) -> None:
        if next(steps) == 7:  # in the second seed's stream, within its second batch
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(Trial, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        swept(root, tmp_path, GRID)
    monkeypatch.undo()
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*.pt")
    assert torch.load(checkpoint, weights_only=True)["seen"] == 4
    again = swept(root, tmp_path, GRID)
    assert trained(again) == trained(four[0])
    for name in trained(again):
        assert same(weights(tmp_path, name), weights(four[1], name))
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_finished_trials_are_not_trained_again(root: Path, four: tuple[Swept, Path],  # noqa: F811
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "step", lambda *_: pytest.fail("trained again"))
    assert trained(swept(root, four[1], GRID)) == trained(four[0])


@pytest.mark.parametrize(("damage", "said"), [
    (lambda text: text[: len(text) // 2], r"cannot be read \("),
    (lambda text: text.replace('"best_at"', '"best"'), r"cannot be read \(no 'best_at'\)"),
    (lambda text: "[]", r"cannot be read \(no JSON object\)"), (None, r"cannot be read \(Is a dir"),
], ids=["torn", "a key", "a list", "a folder"])
def test_a_result_that_cannot_be_read_is_not_trained_again(
        root: Path, four: tuple[Swept, Path], tmp_path: Path, damage: Any,  # noqa: F811
        said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(four[1] / "out", tmp_path / "out")
    path = sorted((tmp_path / "out" / "trials").glob("*seed*.json"))[0]
    if damage:
        path.write_text(damage(path.read_text()))
        before = path.read_bytes()
    else:
        path.unlink()
        path.mkdir()
    monkeypatch.setattr(Trial, "step", lambda *_: pytest.fail("trained again"))
    with pytest.raises(UserError, match=said + r".*delete it to train this trial again$") as error:
        swept(root, tmp_path, GRID)
    assert str(error.value).startswith(f"{path}: ")
    assert path.read_bytes() == before if damage else path.is_dir()


@pytest.mark.parametrize("content", [b"", b"torn", {"trials": {}}, {"seen": 4, "trials": {}}])
def test_a_checkpoint_that_cannot_be_read_is_not_begun_anew(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "checkpoint-x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    trial: Any = SimpleNamespace(label="a", load=dict)
    with pytest.raises(UserError, match=r"checkpoint-x\.pt: cannot be read \(.*; remove this"):
        Checkpoint(path, [trial])
    assert path.exists() and Checkpoint(tmp_path / "none.pt", [trial]).start == 0


def test_a_run_that_cannot_be_read_is_not_called_unfinished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished training"):
        find_trained(tmp_path)
    (tmp_path / "config.json").write_text('{"manifest": ')
    with pytest.raises(UserError, match=r"config\.json: cannot be read \(Expecting value"):
        find_trained(tmp_path)


def test_a_failed_trial_takes_no_other_down(root: Path, tmp_path: Path) -> None:  # noqa: F811
    found = trained(swept(root, tmp_path, {"grid": {"lr": [1e30, 5e-4]}}))
    bad, good = found["lr=1e+30"], found["lr=0.0005"]
    assert "diverged" in bad.failed and not bad.test
    assert not good.failed and good.test
    alone = trained(swept(root, tmp_path / "alone", {"grid": {"lr": [5e-4]}}))
    assert alone["lr=0.0005"].test == good.test


def test_another_sweep_in_the_same_folder_is_refused(root: Path,  # noqa: F811
                                                     four: tuple[Swept, Path]) -> None:
    with pytest.raises(UserError, match="holds another sweep"):
        swept(root, four[1], {"grid": {"gamma1": [0.3]}})


def test_patience_ends_a_trial_alone(root: Path, tmp_path: Path,  # noqa: F811
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[str, int] = {}

    def count(self: Trial, *_: Any) -> None:
        steps[self.label] = steps.get(self.label, 0) + 1
        self._losses.append(torch.tensor(0.0))

    monkeypatch.setattr(Trial, "step", count)  # nothing is learnt: no validation is better
    swept(root, tmp_path, {"trials": [{"patience": 2}, {"gamma1": 0.3}]}, steps=6,
          validate_steps=1)
    assert steps == {"patience=2": 3, "gamma1=0.3": 6}


# ------------------------------------------------------------------------------------- tables


def test_tables_hold_every_trial(four: tuple[Swept, Path]) -> None:
    folder = four[0].folder
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    found = json.loads((folder / "results.json").read_text())
    for name, row in trained(four[0]).items():
        line = next(x for x in lines if x["name"] == name)
        assert float(line[f"test {PCK}"]) == row.test[PCK]
        assert float(line["gamma1"]) == row.settings["gamma1"]
        assert next(r for r in found["rows"] if r["name"] == name)["val"] == row.val
    assert {m["name"] for m in found["means"] if m["trained"]} == {"gamma1=0.0", "gamma1=0.5"}


def row(name: str, value: float, failed: str = "", **settings: Any) -> TrialRow:
    test = {} if failed else {"pck": value}
    return TrialRow(name, settings, Method("gate"), True, failed, test, {},
                    configuration=name.partition(",")[0])


def test_means_are_over_seeds_alone() -> None:
    rows = [row("a=1,seed=0", 1.0, a=1, seed=0), row("a=1,seed=1", 3.0, a=1, seed=1),
            row("a=1,seed=2", 0.0, "diverged", a=1, seed=2), row("a=2,seed=0", 5.0, a=2, seed=0)]
    one, two = over_seeds(rows)
    assert (one.name, one.seeds, one.failed) == ("a=1", 2, 1)
    assert one.test["pck"] == (2.0, pytest.approx(math.sqrt(2)))
    assert two.test["pck"][0] == 5.0 and math.isnan(two.test["pck"][1])


def test_one_order_for_several_seeds() -> None:
    orders = [[b for _, b in batches(range(9), TrainSpec(seed=seed, shuffle=shuffle, steps=5))]
              for seed, shuffle in ((0, None), (1, None), (0, 7), (1, 7))]
    assert orders[0] != orders[1] and orders[2] == orders[3]


def test_files_of_trials_have_names_that_file_systems_take(tmp_path: Path) -> None:
    """Letters of several bytes too, and none is another's."""
    names = [letter * count + end for letter in "aäの𝐠" for count in (5, 118, 300) for end in "12"]
    files = [trial_file(name) for name in names]
    assert len(set(files)) == len(names) and files[:2] == ["aaaaa1", "aaaaa2"]
    for name in files:
        write_json(tmp_path / f"{name}.safetensors", {})


def test_an_epoch_of_many_items_is_not_copied_at_every_step() -> None:
    """Every item once an epoch; and a step does nothing that grows with what is left of it."""
    steps = batches(range(100_000), TrainSpec(seed=0, steps=25_000))
    drawn = next(steps)[1]
    tracemalloc.start()
    drawn += next(steps)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
    assert sorted(drawn + [i for _, items in steps for i in items]) == list(range(100_000))


# ------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("text, said", [
    ("grid: {gamma1: [-1, 0.1]}", r"trial gamma1=-1: .*train\.gamma1: must be at least 0"),
    ("grid: {gama1: [0.1]}", r"unknown field 'gama1'|did you mean 'gamma1'"),
    ("grid: {gamma1: []}", r"grid\.gamma1: must not be empty"),
    ("grid: {combos: [[nope]]}", "'nope' is not a combo of 'conv'"),
    ("girds: {}", "did you mean 'grid'"),
    ("- 1", "expected a mapping"),
    ("grid: {seed: 3}", "expected a list"),
    ("trials: []", "must not be empty"),
    ("{grid: {seed: [0", "sweep.yaml"),
])
def test_what_is_wrong_in_a_sweep_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ManifestError, match=said):
        load_sweep(tmp_path / "sweep.yaml", manifest(tmp_path))


def test_a_trial_may_have_a_name(tmp_path: Path) -> None:
    trials = [{"name": "one", "combos": ["good"]}, {"assigners": 3}]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(
        {"trials": trials, "grid": {"seed": [0, 1]}}))
    points = load_sweep(tmp_path / "sweep.yaml", manifest(tmp_path))
    assert [p.name for p in points] == ["one,seed=0", "one,seed=1", "assigners=3,seed=0",
                                        "assigners=3,seed=1"]
    assert points[0].settings == {"combos": ["good"], "seed": 0} and points[0].spec.combos == [
        "good"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(
        {"trials": [trials[0], {"name": "one"}]}))
    with pytest.raises(ManifestError, match=r"sweep\.yaml: two trials are called 'one'"):
        load_sweep(tmp_path / "sweep.yaml", manifest(tmp_path))


def test_too_many_trials_are_refused(tmp_path: Path) -> None:
    grid = {"seed": list(range(200)), "gamma1": [i / 100 for i in range(100)]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"grid": grid}))
    with pytest.raises(ManifestError, match="20000 trials; at most"):
        load_sweep(tmp_path / "sweep.yaml", manifest(tmp_path))


def test_every_sweep_that_is_shipped_is_sound() -> None:
    from gate_cache.manifest.load import load

    home = Path(__file__).parents[1] / "manifests"
    files = sorted((home / "sweeps").glob("*.yaml"))
    assert files
    for path in files:
        assert load_sweep(path, load(home / "toyworld.yaml"))


# ---------------------------------------------------------------------------------- evaluate


def evaluated(root: Path, to: Path, run_at: Path, trial: str | None = None,  # noqa: F811
              **fields: Any) -> Evaluated:
    to.mkdir(parents=True, exist_ok=True)
    return evaluate(Workspace(manifest(to, **fields), Roots(stores=root / "stores"), "cpu"),
                    run_at, trial=trial)


def test_a_run_is_judged_again_as_it_was(root: Path, tmp_path: Path) -> None:  # noqa: F811
    found = run(root, tmp_path / "a", **SHORT, assigners=2, combos=["good", "noise-0"])
    gate = next(r for r in found.tables[0].rows if r.method.role == "gate")
    again = evaluated(root, tmp_path / "b", found.run)  # whatever this manifest's train says
    assert again.values == gate.scores.values
    assert again.notes == ()
    low, high = again.interval
    assert low < again.values[again.select] < high and again.head == "nn"


def test_intervals_of_any_split_are_of_the_metric_itself(root: Path, tmp_path: Path) -> None:  # noqa: F811
    """As of ``test``: images are drawn, not pairs, and points are summed, not pairs' shares."""
    found = run(root, tmp_path / "a", **SHORT, combos=["good", "noise-0"])
    work = Workspace(manifest(tmp_path), Roots(stores=root / "stores"), "cpu")
    again = evaluate(work, found.run, split="val")
    spec = find_trained(found.run).spec
    study = open_any(work.with_manifest(train=spec))
    assert isinstance(study, TrainingInputs)
    model = study.gate(spec)
    find_trained(found.run).load(model, "toy.yaml")
    (matched,) = study.task.match([model], study.pairs["val"])
    expected = bootstrap(matched.items().units, share, ids=matched.ids)
    assert again.interval == expected and expected.low < again.values[again.select] < expected.high


@pytest.mark.parametrize(("test", "name"), [
    ({"c": "2"}, "b"), ({"b": "1", "c": "2", "d": "3"}, "d"), ({"b": "4", "c": "2"}, "b")])
def test_an_image_that_went_came_or_changed_is_named(tmp_path: Path, test: dict[str, str],
                                                     name: str) -> None:
    began = {"train": {"a": "0"}, "val": {}, "test": {"b": "1", "c": "2"}}
    for _ in range(2):
        keep_members(tmp_path, began)
    with pytest.raises(UserError, match=rf"other splits \({name} moved, came, went or changed\)"):
        keep_members(tmp_path, {**began, "test": test})


def test_images_that_a_run_has_seen_are_told(root: Path, tmp_path: Path) -> None:  # noqa: F811
    found = run(root, tmp_path / "a", **SHORT, combos=["good", "noise-0"])
    path = found.run / "splits.json"
    kept = json.loads(path.read_text())
    moved = sorted(kept["test"])[:2]
    digest = kept["test"].pop(moved[0])  # another name, the same content
    kept["train"] |= {"renamed": digest, moved[1]: kept["test"].pop(moved[1])}
    path.write_text(json.dumps(kept))
    (note,) = evaluated(root, tmp_path / "b", found.run).notes
    images = len(kept["test"]) + 2
    assert f"trained on 2 of the {images} images that are in 'test' now" in note
    assert all(name in note for name in moved)
    path.unlink()
    (note,) = evaluated(root, tmp_path / "c", found.run).notes
    assert "keeps no list of its images" in note
    path.write_text('{"train": 3}')
    with pytest.raises(UserError, match=r"splits\.json: cannot be read"):
        evaluated(root, tmp_path / "d", found.run)


def test_a_trial_is_judged_again_as_it_was(root: Path, four: tuple[Swept, Path],  # noqa: F811
                                           tmp_path: Path) -> None:
    name = "gamma1=0.5,seed=1"
    again = evaluated(root, tmp_path, four[0].folder, name)
    assert again.values == trained(four[0])[name].test


def test_a_trial_that_has_no_weights_is_not_offered(root: Path,  # noqa: F811
                                                    tmp_path: Path) -> None:
    folder = swept(root, tmp_path, {"grid": {"lr": [1e30, 5e-4]}}, head=CONV_HEAD).folder
    with pytest.raises(UserError, match=r"with --trial: lr=0\.0005$"):
        find_trained(folder)
    with pytest.raises(UserError, match=r"trial 'lr=1e\+30' failed: .*diverged"):
        find_trained(folder, "lr=1e+30")
    (baseline,) = [p.stem for p in (folder / "trials").glob("*uniform*.json")]
    name = json.loads((folder / "trials" / f"{baseline}.json").read_text())["name"]
    with pytest.raises(UserError, match=r"is a baseline|failed"):
        find_trained(folder, name)
    with pytest.raises(UserError, match=r"leave out --trial"):
        find_trained(run(root, tmp_path / "one", **SHORT).run, "lr=0.0005")


@pytest.mark.parametrize("trial, said", [
    (None, "say which of its trials with --trial: gamma1=0.0,seed=0"),
    ("gamma1=0.5,seed=3", r"no finished trial 'gamma1=0.5,seed=3' \(did you mean")])
def test_which_trial_must_be_said(root: Path, four: tuple[Swept, Path], tmp_path: Path,  # noqa: F811
                                  trial: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluated(root, tmp_path, four[0].folder, trial)


def test_what_is_no_run_or_does_not_fit_is_named(root: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match="holds no finished training"):
        evaluated(root, tmp_path, tmp_path / "none")
    found = run(root, tmp_path / "a", **SHORT, combos=["good", "noise-0"])
    with pytest.raises(UserError, match=r"has no combo 'noise-0' in 'conv'"):
        (tmp_path / "b").mkdir()
        loaded = manifest(tmp_path / "b", conv={"good": {"prompt": "good"}})
        evaluate(Workspace(loaded, Roots(stores=root / "stores"), "cpu"), found.run)
    weights = load_file(found.run / "gate-best.safetensors")
    save_file({k: v[:1].clone() if v.ndim else v for k, v in weights.items()},
              found.run / "gate-best.safetensors")
    with pytest.raises(UserError, match=r"does not fit the features of toy\.yaml"):
        evaluated(root, tmp_path / "c", found.run)
