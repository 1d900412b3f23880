"""What a row of results is does not hang on what it is called; runs of the first release open."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_cli import gate  # noqa: F401
from test_sweep import swept
from test_tasks import home, trained  # noqa: F401
from test_train import (  # noqa: F401
    ELSEWHERE,
    build,
    manifest,
    one_thread,
    root,
    run,
)

from gate_cache.analysis.describe import of_store
from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.learn.metrics.roles import ROLES, Method
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.report.html.compare import grouped, verdict
from gate_cache.report.html.record import read_record
from gate_cache.report.html.write import write_report
from gate_cache.store.reader import FeatureStore
from gate_cache.training.evaluate import evaluate
from gate_cache.training.methods import _best_single
from gate_cache.training.sweep_tables import TrialRow, over_seeds
from gate_cache.training.trained import find_trained
from gate_cache.workspace.workspace import Workspace
from pipelines.recipe import figures_of
from pipelines.run import with_weights

FIRST = Path(__file__).parent / "data" / "runs-format-1.zip"
"""Two trainings of correspondence, one of classes and a sweep, made by gate-cache 0.1.0."""
KINDS = ("nn", "conv", "sweep", "classifier")
SHORT: dict[str, Any] = {"steps": 6, "batch": 2, "validate_steps": 2, "hidden": 4}
TRIALS = [{"name": "a"}, {"name": "b", "combos": ["good", "noise-0"], "attention": False},
          {"name": "c", "head": {"name": "conv", "conv_channels": 4}}]


def told(folder: Path) -> dict[str, Any]:
    """All that a report says of who is compared with whom, but for names of rows."""
    record = read_record(folder)
    found = verdict(record)
    assert found
    every = {r.key: i for i, r in enumerate(record.results)}

    def numbers(rows: Sequence[Any]) -> list[int]:
        return [every[r.key] for r in rows]

    return {"gate": numbers(found.gate.results),
            "baselines": {r: numbers(g.results) for r, g in found.baselines.items()},
            "gains": {r: (g.points, *g.interval) for r, g in found.gains.items()},
            "groups": [numbers([*g.results, *g.failed]) for g in grouped(record, record.results)],
            "roles": [r.role for r in record.results], "trials": numbers(record.trials),
            "fits": [(r.best_at, len(r.history), dict(r.val)) for r in record.results],
            "weights": [dict(r.weights) for r in record.results],
            "items": [r.items is not None for r in record.results]}


def means(rows: Sequence[TrialRow]) -> list[Any]:
    return [(m.method.role, m.method.head, m.method.attention, m.seeds, m.test)
            for m in over_seeds(rows)]


# ----------------------------------------------------------------------------------- new titles


@pytest.fixture(scope="module")
def made(root: Path, home: Path,  # noqa: F811
         tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Every kind of run twice: as it is, and by a version that calls all rows differently."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for reworded in (False, True):
        to = tmp_path_factory.mktemp("runs")
        with pytest.MonkeyPatch.context() as patch:
            if reworded:
                patch.setattr(Method, "title", property(lambda m: f"{hash(m)}, no title"))
            for kind in KINDS:
                found[kind].append(_made(kind, root, home, to / kind))
    return found


def _made(kind: str, root: Path, home: Path, to: Path) -> Path:  # noqa: F811
    to.mkdir()
    if kind == "classifier":
        return trained(home, to, "classifier", baseline="noise").run
    fields = {**SHORT, "attention": "attn"}
    if kind == "sweep":
        return swept(root, to, {"trials": TRIALS, "grid": {"seed": [0, 1]}}, **fields).folder
    return run(root, to, **fields, head=kind).run


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_report_does_not_hang_on_titles(kind: str, made: dict[str, list[Path]]) -> None:
    plain, reworded = made[kind]
    assert "GATE" in (plain / _table(kind)).read_text()
    assert "GATE" not in (reworded / _table(kind)).read_text()
    assert told(reworded) == told(plain)
    assert all(told(plain)["items"]) and told(plain)["gains"].keys() == {"baseline", "uniform"}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_titles_can_be_changed_in_a_runs_files(kind: str, made: dict[str, list[Path]],
                                               tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made[kind][0], tmp_path / "run"))
    for path in [folder / _table(kind), *folder.glob("trials/*.json")]:
        path.write_text(json.dumps(_reworded(json.loads(path.read_text()))))
    assert told(folder) == told(made[kind][0])
    if kind == "sweep":
        assert find_trained(folder, "b,seed=1").trial == "b,seed=1"
        with pytest.raises(UserError, match="a,seed=0, a,seed=1, b,seed=0"):
            find_trained(folder)


def _table(kind: str) -> str:
    return "results.json" if kind == "sweep" else "metrics.json"


def _reworded(data: Any) -> Any:
    if isinstance(data, list):
        return [_reworded(each) for each in data]
    if not isinstance(data, dict):
        return data
    changed = {k: _reworded(v) for k, v in data.items()}
    return {**changed, "method": f"row of {len(data['method'])}"} if "role" in data else changed


@pytest.mark.long
@pytest.mark.parametrize(("kind", "trial"), [("nn", None), ("conv", None), ("sweep", "b,seed=1")])
def test_evaluate_does_not_hang_on_titles(
        kind: str, trial: str | None, made: dict[str, list[Path]], root: Path,  # noqa: F811
        tmp_path: Path) -> None:
    loaded, roots = manifest(tmp_path, attention="attn"), Roots(stores=root / "stores")
    plain, reworded = (evaluate(Workspace(loaded, roots, "cpu"), folder, trial=trial).values
                       for folder in made[kind])
    assert plain == reworded and len(plain) > 3


@pytest.mark.long
def test_tables_of_a_sweep_and_of_recipes_do_not_hang_on_titles(
        made: dict[str, list[Path]]) -> None:
    plain, reworded = ([TrialRow.from_json({"each": [], **row}) for row in
                        json.loads((folder / "results.json").read_text())["rows"]]
                       for folder in made["sweep"])
    assert means(plain) == means(reworded)
    shares = [[with_weights(r, folder).test for r in rows] for rows, folder in
              zip((plain, reworded), made["sweep"], strict=True)]
    assert shares[0] == shares[1] and "weights/top1" in shares[0][-1]
    figures: Any = {("baseline", "conv"): {"x": "1"}, ("uniform", "nn"): {"x": "2"},
                    "b": {"x": "3"}}
    beside = [[figures_of(figures, m).get("x") for m in over_seeds(rows)]
              for rows in (plain, reworded)]
    assert beside[0] == beside[1] and {"1", "2", "3"} <= set(beside[0])


@pytest.mark.long
def test_a_finished_sweep_goes_on_under_other_titles(
        made: dict[str, list[Path]], root: Path, tmp_path: Path,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trained baselines are found again, too."""
    shutil.copytree(made["sweep"][1], tmp_path / "out")
    monkeypatch.setattr("gate_cache.learn.fit.trial.Trial.step",
                        lambda *_: pytest.fail("trained again"))
    found = swept(root, tmp_path, {"trials": TRIALS, "grid": {"seed": [0, 1]}}, **SHORT,
                  attention="attn")
    assert {r.method.role for r in found.rows if r.trained} == {"baseline", "uniform", "gate"}


def test_every_role_comes_back_as_it_was_written() -> None:
    for role in ROLES:
        method = Method(role, "conv", ("a", "b"), True, 2)
        assert Method.from_json(json.loads(json.dumps(method.to_json()))) == method
    titles = {Method(role, head, ("a",), attention, 1).title for role in ROLES
              for head in ("nn", "conv") for attention in (False, True)}
    assert len(titles) == len(ROLES) + 3
    with pytest.raises(ValueError, match="no role 'gates'"):
        Method.from_json({**method.to_json(), "role": "gates"})


# ------------------------------------------------------------------------------ the first release


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    with zipfile.ZipFile(FIRST) as file:
        file.extractall(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_the_first_release_say_what_they_said(kind: str, first: Path) -> None:
    """As that release's own report compares them; it had three roles by titles."""
    then = json.loads((first / "told.json").read_text())[kind]
    record = read_record(first / kind)
    found = verdict(record)
    assert found and found.gate.name == then["gate"]
    known = {"baseline": "single", "uniform": "uniform", "gate": "gate"}
    assert {r.name: known.get(r.role, "other") for r in record.results} == then["roles"]
    assert {known[r]: g.name for r, g in found.baselines.items()} == then["baselines"]
    gains = {known[r]: g.points for r, g in found.gains.items()}  # intervals drew pairs, not images
    assert gains == {role: points for role, (points, *_) in then["gains"].items()}
    assert [g.name for g in grouped(record, record.results)] == then["groups"]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_titles_of_the_first_release_give_what_is_written_now(
        kind: str, first: Path, made: dict[str, list[Path]]) -> None:
    """The same trainings then and now: every row has the same role, head and attention."""
    then, now = (read_record(folder).results for folder in (first / kind, made[kind][0]))
    assert [(r.method.role, r.method.head, r.method.attention, r.method.assigners)
            for r in then] == [(r.method.role, r.method.head, r.method.attention,
                                r.method.assigners) for r in now
                               if r.role not in ("majority", "prior")]  # later ones
    alone = ("baseline", "untrained", "best-single", "gate")
    assert [r.method.combos for r in then if r.method.role in alone] == [
        r.method.combos for r in now if r.method.role in alone]


@pytest.mark.parametrize(("kind", "trial"), [("nn", None), ("sweep", "b,seed=1")])
def test_weights_of_the_first_release_are_judged_as_then(
        kind: str, trial: str | None, first: Path, root: Path,  # noqa: F811
        tmp_path: Path) -> None:
    loaded = manifest(tmp_path, attention="attn")
    again = evaluate(Workspace(loaded, Roots(stores=root / "stores"), "cpu"), first / kind,
                     trial=trial)
    row = next(r for r in read_record(first / kind).results if r.name == trial or
               (trial is None and r.role == "gate"))
    assert {k: again.values[k] for k in row.test} == pytest.approx(dict(row.test), abs=1e-3)


@pytest.mark.parametrize(("kind", "trial", "combos"), [
    ("nn", None, ["noise-0", "good", "noise-1", "attn"]),
    ("sweep", "b,seed=1", ["good", "noise-0"])])
def test_features_of_the_first_release_are_found_in_their_store(
        kind: str, trial: str | None, combos: list[str], first: Path, tmp_path: Path) -> None:
    then = manifest(tmp_path, model={**ELSEWHERE, "resample": "opencv"})  # as every store was
    build(tmp_path / "stores", then)
    store = FeatureStore.open(tmp_path / "stores" / "toy.zarr")
    assert list(find_trained(first / kind, trial).views(store)) == combos
    found = of_store(store, first / kind, trial, torch.device("cpu"))
    assert found.describe(0).levels[0].shape == (44 + 6 * (kind == "nn"), 16, 16)


def test_a_report_of_the_first_release_is_written_anew(first: Path, root: Path,  # noqa: F811
                                                       tmp_path: Path) -> None:
    folder = Path(shutil.copytree(first / "sweep", tmp_path / "sweep"))
    assert "GATE reaches" in write_report(folder, Roots(stores=root / "stores")).read_text()


def test_a_row_that_is_neither_is_a_line(first: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(first / "nn", tmp_path / "nn"))
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace("GATE: 2 assigners", "Tore: 2 assigners"))
    with pytest.raises(UserError, match="no row of a table is called 'Tore: 2 assigners"):
        read_record(folder)


def test_a_checkpoint_with_other_names_is_a_line(root: Path, tmp_path: Path,  # noqa: F811
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Not begun anew behind the user's back, and no KeyError."""
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gate_cache.learn.fit.trial.Trial.step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, **SHORT)
    torch.save({"seen": 4, "trials": {"GATE: 2 assigners": {}}},
               tmp_path / "run" / "checkpoint-all.pt")
    with pytest.raises(UserError, match=r"checkpoint-all\.pt: cannot be read .*remove this"):
        run(root, tmp_path, **SHORT)


@pytest.mark.parametrize(("scores", "best"), [
    ([math.nan, math.nan], []), ([3.0, math.nan], ["b"]), ([2.0, 3.0], []), ([3.0, 2.0], ["b"])])
def test_no_single_feature_is_best_where_val_tells_nothing(scores: list[float],
                                                           best: list[str]) -> None:
    """``a`` is the baseline, which has a row already."""
    study: Any = SimpleNamespace(
        pairs={"val": [1]}, combos=("b", "a"), baseline="a", single=lambda *_: torch.nn.Identity(),
        features=SimpleNamespace(device="cpu"), task=SimpleNamespace(
            judge=lambda *_: [SimpleNamespace(select=score) for score in scores]))
    assert [c.method.combos[0] for c in _best_single(study, TrainSpec())] == best
