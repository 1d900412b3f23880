"""Stage 2 end to end on a small store in which one combo knows the key points."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from gate_cache.analysis.describe import of_run
from gate_cache.core.errors import StoreError, UserError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import Keypoints, Split
from gate_cache.datasets.toy import ToyWorld
from gate_cache.diffusion.techniques.registry import settings, sources
from gate_cache.learn.features.bucket import Bucket, Buckets, BucketSpec, attention_maps, stack
from gate_cache.learn.features.feed import LRUCache
from gate_cache.learn.features.pairs import PairPoints, load_pairs
from gate_cache.learn.features.samples import SampleBuffer
from gate_cache.learn.fit.trial import Fitted, Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, build_model
from gate_cache.learn.tasks.matching import CorrespondenceTask, judge
from gate_cache.manifest.load import Loaded, load, overridden
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.report.html.record import read_record
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import blocks_of
from gate_cache.store.format.samples import NewSample, Samples
from gate_cache.store.reader import FeatureStore
from gate_cache.store.writer import open_writer
from gate_cache.training import train as train_module
from gate_cache.training.hints import repeats
from gate_cache.training.inputs import TrainingInputs
from gate_cache.training.run_folder import RunDirectory, new_run
from gate_cache.training.train import TrainedRun, train
from gate_cache.workspace.lookup import find_combo
from gate_cache.workspace.workspace import Workspace

COUNTS: dict[Split, int] = {"train": 16, "val": 12, "test": 12}
CHANNELS, TOKENS, BLOCK = 11, 3, 8
WORDS = ["<|startoftext|>", "photo", "horse"]
SIDES = {"conv": {"up0": 8, "up1": 16}, "attention": {"attn0": 8, "attn1": 16}}
NOISE = 0.6
CPU = torch.device("cpu")
SCORE = "pck@0.10/radius=box/average=point"
DATASET = {"name": "toyworld", **COUNTS}
CONV: dict[str, Any] = {
    "noise-0": {"prompt": "noise"}, "good": {"prompt": "good"},
    "noise-1": {"prompt": "noise", "seed": 1},
}
ATTENTION: dict[str, Any] = {"attn": {"prompt": "attention"}}
TRAIN: dict[str, Any] = {
    "attention": False, "steps": 50, "batch": 2, "validate_steps": 25, "lr": 3e-2, "hidden": 8,
    "dropout": 0.0,
}
CONV_HEAD = {"name": "conv", "conv_channels": 16}
Array = npt.NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ELSEWHERE = {"source": "org/not-on-this-machine", "size": 64}
"""A model whose weights are elsewhere: combos are then found by their settings."""


def manifest(folder: Path, name: str = "toy", *, dataset: dict[str, Any] | None = None,
             conv: dict[str, Any] | None = None, model: dict[str, Any] | None = None,
             **fields: Any) -> Loaded:
    """Write a manifest and load it; `fields` are those of ``train``."""
    path = folder / f"{name}.yaml"
    data = {
        "dataset": dataset or DATASET, "model": model or ELSEWHERE, "conv": conv or CONV,
        "attention": ATTENTION, "store": {"path": "toy.zarr"}, "train": overridden(TRAIN, fields)}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load(path)


def bumps(world: ToyWorld, sample_id: str, side: int) -> Array:
    """Channel k has a bump at key point k; the last one is a constant background."""
    points = world.keypoints(sample_id)
    at = (np.arange(side) + 0.5) / side
    found = np.zeros((CHANNELS, side, side))
    for k, (x, y) in enumerate(points.xy / world.image_size):
        found[k] = np.exp(-((at[None] - x) ** 2 + (at[:, None] - y) ** 2) / (2 * 0.06**2))
    found[-1] = 0.1
    return found


def features(world: ToyWorld, name: str, kind: str, row: int, sample_id: str) -> dict[str, Array]:
    rng = np.random.default_rng([row, sum(name.encode())])
    if name == "good":
        return {m: bumps(world, sample_id, s) for m, s in SIDES[kind].items()}
    if kind == "conv":
        return {m: rng.normal(0, NOISE, (CHANNELS, s, s)) for m, s in SIDES[kind].items()}
    return {m: rng.dirichlet(np.ones(TOKENS), (s, s)).transpose(2, 0, 1)
            for m, s in SIDES[kind].items()}


def recipe(loaded: Loaded, name: str, maps: Sequence[str], weights: str) -> dict[str, Any]:
    spec = loaded.manifest
    return {"kind": spec.kind(name), "settings": settings(spec.combos[name]), "maps": list(maps),
            "size": 64, "compute": spec.model.dtype, "weights": weights,
            **Preprocessing.of(spec.model, 64).recipe}


def build(stores: Path, loaded: Loaded, rows: dict[str, int] | None = None,
          only: Sequence[str] | None = None, weights: str = "w",
          encoding: Encoding | str = "float16") -> None:
    """Write a manifest's store; `rows` limits how many rows of a combo are done."""
    world = ToyWorld(COUNTS)
    ids = [s.id for s in world.samples()]
    with open_writer(stores / "toy.zarr", "toyworld", BLOCK, 4) as writer:
        if not len(writer.samples):
            writer.append([NewSample(i, world.sha256(i), *world.size(i)) for i in ids])
        for name in only or loaded.manifest.combos:
            kind = loaded.manifest.kind(name)
            maps = [features(world, name, kind, row, i) for row, i in enumerate(ids)]
            wanted = loaded.manifest.combos[name].maps or list(SIDES[kind])
            shapes = {m: maps[0][m].shape for m in wanted}
            group = writer.require(name, recipe(loaded, name, wanted, weights), shapes, encoding,
                                   {
                                       "source": sources(loaded.manifest.combos[name]),
                                       "model": loaded.manifest.model.source,
                                       **({"tokens": WORDS} if kind == "attention" else {})})
            group.fit()
            for block in blocks_of((rows or {}).get(name, len(ids)), BLOCK):
                group.write(block, {m: np.stack([maps[r][m] for r in block]) for m in wanted})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete store, which no test writes to."""
    folder = tmp_path_factory.mktemp("learn")
    build(folder / "stores", manifest(folder))
    return folder


@pytest.fixture(scope="module")
def store(root: Path) -> FeatureStore:
    return FeatureStore.open(root / "stores" / "toy.zarr")


def run(root: Path, to: Path, **fields: Any) -> TrainedRun:
    to.mkdir(parents=True, exist_ok=True)
    return train(Workspace(manifest(to, **fields), Roots(stores=root / "stores", runs=to), "cpu"),
                 run=to / "run")


@dataclass
class Finished:
    """A finished run as its directory tells it."""

    trained: TrainedRun
    loaded: Loaded

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.trained.run / "config.json").read_text()))

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.trained.run / "metrics.json").read_text()))

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {r["method"]: r for r in self.metrics["tables"][0]["rows"]}

    @property
    def gate(self) -> dict[str, Any]:
        return next(r for r in self.rows.values() if r["role"] == "gate")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.trained.run / f"{name}.safetensors")

    def model(self, name: str = "gate-best") -> CorrespondenceModel:
        model = build_model(self.loaded.manifest.train, 2 * CHANNELS)
        model.load_state_dict(self.weights(name), strict=True)
        return model.eval()


def finished(root: Path, to: Path, **fields: Any) -> Finished:
    return Finished(run(root, to, **fields), manifest(to, **fields))


@pytest.fixture(scope="module")
def nn_run(root: Path) -> Finished:
    """Two assigners and attention: the manifest's first attention combo is the default."""
    return finished(root, root / "nn", attention=None)


@pytest.fixture(scope="module")
def plain_run(root: Path) -> Finished:
    return finished(root, root / "plain", assigners=1)


@pytest.fixture(scope="module")
def conv_run(root: Path) -> Finished:
    return finished(root, root / "conv", head=CONV_HEAD, combos=["good", "noise-0"])


SHORT: dict[str, Any] = {"steps": 2, "batch": 4, "validate_steps": 1, "dropout": 0.3}


@pytest.fixture(scope="module")
def short_run(root: Path) -> Finished:
    """A short run, to compare others with."""
    return finished(root, root / "short", **SHORT)


@pytest.fixture(scope="module")
def conv_twins(root: Path) -> list[Finished]:
    """Two runs of one configuration, begun in different states of the global generator."""
    found = []
    for i in range(2):
        torch.manual_seed(100 + i)
        found.append(finished(root, root / f"twin-{i}", head=CONV_HEAD, **SHORT))
    return found


SCRIPT = [50.0, 0.0, 0.0, 50.0]


@pytest.fixture(scope="module")
def scripted_run(root: Path) -> Finished:
    """Each step sets the share of the attention, which is noise: 0 is the best share."""
    shares = iter(SCRIPT)

    def step(trial: Trial, *_: Any) -> None:
        model: Any = trial.model
        model.head.join.attention_scale.data.fill_(next(shares))
        trial._losses.append(torch.tensor(0.0))

    fields = {"combos": ["good"], "attention": "attn", "steps": len(SCRIPT), "batch": 1,
              "validate_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "step", step)
        return finished(root, root / "scripted", **fields)


def flat(world: ToyWorld, sample_id: str) -> Keypoints:
    """The key points, and a box without extent."""
    known = DRAWN(world, sample_id)
    return replace(known, box=np.repeat(known.xy[:1], 2, 0).ravel())


DRAWN = ToyWorld.keypoints


def test_boxes_without_extent_choose_no_checkpoint(root: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyWorld, "keypoints", flat)
    found = finished(root, tmp_path, **SHORT, combos=["good"], attention="attn")
    entry = found.metrics["fits"]["gate"]
    assert entry["best_at"] == SHORT["steps"] and len(entry["history"]) == 2
    assert {k.split("/")[1] for k in entry["history"][0]["val"]} == {"radius=image"}
    for name, tensor in found.weights("gate-best").items():
        torch.testing.assert_close(tensor, found.weights("gate-last")[name])
    row = found.gate
    assert row["pairs_without_box"] == row["pairs"] > 0 and row[SCORE] is None
    assert row["pck@0.10/radius=image/average=point"] is not None
    assert row["interval"].keys() == {"pck@0.10/radius=image/average=point"}
    assert found.config["radius_in_cells"] is None
    assert read_record(found.trained.run).select == "pck@0.10/radius=image/average=point"


@pytest.fixture(scope="module")
def every(store: FeatureStore) -> Buckets:
    """Buckets of all convolutional combos, read once."""
    return buckets(store, *CONV)


def buckets(store: FeatureStore, *combos: str, attention: str | None = None) -> Buckets:
    rows = {name: row for row, name in enumerate(store.samples.ids)}
    return Buckets(store, BucketSpec(combos, attention), CPU, rows)


def pairs(split: Split) -> list[PairPoints]:
    return load_pairs(ToyWorld(COUNTS), split)


def mean_weights(model: CorrespondenceModel, found: Buckets, rows: range) -> torch.Tensor:
    """(n, b) mean weights over rows."""
    with torch.no_grad():
        return torch.stack([model(stack([found(r)])).weights[0] for r in rows]).mean(0)


# What a run leaves


@pytest.mark.parametrize("fixture", ["nn_run", "conv_run"])
def test_run_directory_is_complete(fixture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture).trained.run
    names = {"config.json", "metrics.json", "log.txt", "items", "splits.json",
             "gate-best.safetensors", "gate-last.safetensors"}
    compared = {f"{k}-{w}.safetensors" for k in ("single", "uniform") for w in ("best", "last")}
    assert {p.name for p in folder.iterdir()} == names | (compared if "conv" in fixture else set())


@pytest.mark.parametrize("fixture", ["nn_run", "conv_run"])
@pytest.mark.parametrize("name", ["gate-best", "gate-last"])
def test_saved_weights_fit_the_model(fixture: str, name: str,
                                     request: pytest.FixtureRequest) -> None:
    found: Finished = request.getfixturevalue(fixture)
    assert set(found.weights(name)) == set(found.model(name).state_dict())


def test_saved_single_fits_its_model(conv_run: Finished) -> None:
    model = build_model(conv_run.loaded.manifest.train, 2 * CHANNELS, [1.0])
    model.load_state_dict(conv_run.weights("single-best"), strict=True)


def test_config_says_what_was_settled(nn_run: Finished, store: FeatureStore) -> None:
    config = nn_run.config
    assert config["manifest"]["train"] == nn_run.loaded.manifest.train.model_dump(mode="json")
    assert sorted(config["fingerprints"].values()) == sorted(v.fingerprint for v in store.views())
    assert config["resolution"] == 16


def test_log_tells_every_validation(nn_run: Finished) -> None:
    lines = (nn_run.trained.run / "log.txt").read_text().splitlines()
    validations = [line for line in lines if '"val"' in line]
    assert len(validations) == 2


def test_table_of_nn_names_every_method(nn_run: Finished) -> None:
    assert list(nn_run.rows) == [
        "copy the position", "single feature: noise-0", "best single on val: good",
        "all features, uniform weights", "the same + attention", "GATE: 2 assigners + attention"]


def test_table_of_conv_names_every_method(conv_run: Finished) -> None:
    assert list(conv_run.rows) == ["copy the position", "single feature: good",
                                   "the same, head nn, untrained: good",
                                   "all features, uniform weights", "GATE: 2 assigners"]


def test_only_what_was_trained_is_marked_so(nn_run: Finished, conv_run: Finished) -> None:
    assert [r["trained"] for r in nn_run.rows.values()] == [False] * 5 + [True]
    assert [r["trained"] for r in conv_run.rows.values()] == [False, True, False, True, True]


def test_every_method_is_judged_on_the_same_points(nn_run: Finished) -> None:
    test = pairs("test")
    judged = {(r["pairs"], r["points"]) for r in nn_run.rows.values()}
    assert judged == {(len(test), sum(int(p.shared.sum()) for p in test))}


def test_no_image_is_in_two_splits() -> None:
    world = ToyWorld(COUNTS)
    contents = [{world.sha256(i) for p in world.pairs(s) for i in (p.source, p.target)}
                for s in COUNTS]
    assert [len(c) for c in contents] == [16, 8, 8]
    assert len(set().union(*contents)) == 32


def test_contents_of_training_images_in_another_split_are_told() -> None:
    """Of the three test images, the first and the last have the content of training images."""
    splits: dict[str, Split] = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test",
                                "f": "test"}
    digests = [digit * 64 for digit in "012031"]
    store = SimpleNamespace(samples=Samples(list(splits), digests, np.ones((6, 2), np.int32)))
    opened: Any = SimpleNamespace(shared={"store": store},
                                  rows={i: row for row, i in enumerate(splits)})
    dataset: Any = SimpleNamespace(split_of=splits.__getitem__)
    assert list(repeats(dataset, opened)) == [
        "with the content of training images: 2 of the 3 of split 'test', so results there are not"
        " of unseen images alone"]


# What is learnt


def test_nn_beats_uniform_weights(plain_run: Finished) -> None:
    uniform = plain_run.rows["all features, uniform weights"][SCORE]
    assert plain_run.gate[SCORE] > uniform + 30


@pytest.mark.parametrize("fixture", ["nn_run", "plain_run"])
def test_nn_chooses_the_good_combo(fixture: str, every: Buckets,
                                   request: pytest.FixtureRequest) -> None:
    weights = mean_weights(request.getfixturevalue(fixture).model(), every, range(28, 40))
    assert weights[:, list(CONV).index("good")].max() > 0.75


def fit(model: CorrespondenceModel, spec: TrainSpec, every: Buckets, train: list[PairPoints],
        val: list[PairPoints]) -> Fitted:
    """Train one model on its own."""
    task = CorrespondenceTask(every, {"train": train, "val": val})
    trial = Trial("", spec, lambda: model, task, CPU)
    fit_trials([trial], task, bool(val), FitSession(Silent()))
    assert not trial.failed
    return trial.fitted


def weights_after(every: Buckets, store: FeatureStore, **fields: Any) -> torch.Tensor:
    """Mean weights (n, b) after a short fit; no regulariser unless `fields` say so."""
    spec = TrainSpec(**{**TRAIN, "steps": 20, "gamma1": 0.0, "gamma2": 0.0, **fields})
    torch.manual_seed(0)
    model = build_model(spec, every.channels)
    fit(model, spec, every, pairs("train")[:2], [])
    return mean_weights(model.eval(), every, range(3))


def test_sparsity_is_weighed_by_gamma1(every: Buckets, store: FeatureStore) -> None:
    dull, sharp = (weights_after(every, store, assigners=1, gamma1=g) for g in (0.0, 20.0))
    assert sharp.norm() > dull.norm() + 0.1


def test_diversity_is_weighed_by_gamma2(every: Buckets, store: FeatureStore) -> None:
    near, apart = (weights_after(every, store, gamma2=g) for g in (0.0, 20.0))
    assert (apart[0] - apart[1]).norm() > (near[0] - near[1]).norm() + 0.3


def test_conv_learns_a_handful_of_pairs(store: FeatureStore, every: Buckets) -> None:
    spec = TrainSpec(head=CONV_HEAD, **{**TRAIN, "steps": 60})
    few = pairs("train")[:4]
    torch.manual_seed(0)
    model = build_model(spec, every.channels)
    before = judge(model, every, few).values[0.1, "image", "point"]
    fit(model, spec, every, few, [])
    after = judge(model, every, few).values[0.1, "image", "point"]
    assert before < 30
    assert after > 90


def test_conv_generalises_from_the_good_combo(conv_run: Finished) -> None:
    assert conv_run.gate[SCORE] > conv_run.rows["copy the position"][SCORE] + 20


# Reproducible


def without_time(found: Finished) -> dict[str, Any]:
    return {k: v for k, v in found.metrics.items() if k != "seconds"}


def same_weights(a: Finished, b: Finished, name: str) -> bool:
    one, other = a.weights(name), b.weights(name)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_one_seed_gives_one_result(root: Path, short_run: Finished, tmp_path: Path) -> None:
    torch.manual_seed(100)
    again = finished(root, tmp_path, **SHORT)
    assert without_time(again) == without_time(short_run)
    assert same_weights(again, short_run, "gate-last")
    assert same_weights(again, short_run, "gate-best")


def test_one_seed_gives_one_conv_model(conv_twins: list[Finished]) -> None:
    a, b = conv_twins
    assert a.gate == b.gate
    assert same_weights(a, b, "gate-last")


def test_one_seed_gives_one_conv_baseline(conv_twins: list[Finished]) -> None:
    assert same_weights(*conv_twins, "single-last")


def test_another_seed_gives_another_result(root: Path, short_run: Finished,
                                           tmp_path: Path) -> None:
    other = finished(root, tmp_path, seed=1, **SHORT)
    assert not same_weights(other, short_run, "gate-last")
    assert without_time(other) != without_time(short_run)


# What is chosen on val


def test_best_checkpoint_is_the_first_maximum_on_val(scripted_run: Finished) -> None:
    entry = scripted_run.metrics["fits"]["gate"]
    scores = [e["val"][SCORE] for e in entry["history"]]
    assert scores[0] < scores[1] == scores[2] > scores[3]
    assert entry["best_at"] == 2


@pytest.mark.parametrize(("name", "share"), [("gate-best", 0.0), ("gate-last", 50.0)])
def test_best_and_last_checkpoints_are_saved(scripted_run: Finished, name: str,
                                             share: float) -> None:
    assert scripted_run.weights(name)["head.join.attention_scale"].item() == share


@pytest.mark.parametrize(("name", "reported"), [("gate-best", True), ("gate-last", False)])
def test_the_best_checkpoint_is_what_is_reported(scripted_run: Finished, store: FeatureStore,
                                                 name: str, reported: bool) -> None:
    found = judge(scripted_run.model(name), buckets(store, "good", attention="attn"),
                  pairs("test"))
    assert (found.to_json()[SCORE] == scripted_run.gate[SCORE]) == reported


def test_nothing_is_chosen_on_test(root: Path, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    real = CorrespondenceTask.judge

    def spy(self: CorrespondenceTask, models: Any, split: Split) -> Any:
        asked.append({i.split("/")[0] for p in self._pairs[split]
                      for i in (p.pair.source, p.pair.target)})
        return real(self, models, split)

    monkeypatch.setattr(CorrespondenceTask, "judge", spy)
    run(root, tmp_path, **SHORT)
    assert asked[-1] == {"test"} and len(asked) > 2
    assert all(images == {"val"} for images in asked[:-1])


def test_test_pictures_do_not_change_what_is_learnt(root: Path, short_run: Finished,
                                                    tmp_path: Path) -> None:
    fewer = finished(root, tmp_path, dataset={**DATASET, "test": 10}, **SHORT)
    assert fewer.gate["pairs"] < short_run.gate["pairs"]
    assert same_weights(fewer, short_run, "gate-best")


def test_without_val_the_last_checkpoint_is_reported(root: Path, tmp_path: Path) -> None:
    found = finished(root, tmp_path, dataset={**DATASET, "val": 0}, **SHORT)
    best, last = found.weights("gate-best"), found.weights("gate-last")
    assert all(torch.equal(best[k], last[k]) for k in last)
    assert found.metrics["fits"]["gate"]["best_at"] == SHORT["steps"]


def test_exactly_the_asked_number_of_pairs_is_seen(store: FeatureStore, every: Buckets) -> None:
    spec = TrainSpec(**{**TRAIN, "steps": 3, "batch": 4, "validate_steps": 1})
    model = build_model(spec, every.channels)
    found = fit(model, spec, every, pairs("train")[:3], [])
    assert [e["seen"] for e in found.history] == [4, 8, 12]


def test_every_step_is_taken_in_training_mode(store: FeatureStore, every: Buckets) -> None:
    """Batch norm counts its batches in training mode only; validation lies between the steps."""
    spec = TrainSpec(**{**TRAIN, "steps": 3, "batch": 1, "validate_steps": 1})
    model = build_model(spec, every.channels)
    found = fit(model, spec, every, pairs("train")[:3], pairs("val")[:1])
    assert found.last["mixer.assigners.0.body.2.num_batches_tracked"] == 3


# Errors


def refused(root: Path, folder: Path, **fields: Any) -> str:
    """The one line with which a training is refused, having left no run directory."""
    with pytest.raises(UserError) as caught:
        run(root, folder, **fields)
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()
    return str(caught.value)


def test_missing_store_is_named(tmp_path: Path) -> None:
    assert "toy.zarr: no such store" in refused(tmp_path, tmp_path)


def test_missing_combo_is_named(root: Path, tmp_path: Path) -> None:
    conv = {**CONV, "new": {"prompt": "never extracted"}}
    assert "'new' is not extracted yet" in refused(root, tmp_path, conv=conv)


def test_stale_settings_are_named(root: Path, tmp_path: Path) -> None:
    conv = {**CONV, "good": {"prompt": "better"}}
    assert '\'good\' is stale (prompt changed: "good" → "better")' in refused(
        root, tmp_path, conv=conv)


def test_stale_dtype_is_named(root: Path, tmp_path: Path) -> None:
    model = {"source": "tiny", "dtype": "bfloat16"}
    assert "compute" in refused(root, tmp_path, model=model)


def test_rows_that_are_not_done_are_counted(tmp_path: Path) -> None:
    build(tmp_path / "stores", manifest(tmp_path), rows={"noise-1": 32})
    assert "'noise-1' lacks 8 of 40 images" in refused(tmp_path, tmp_path / "runs")


def test_undone_rows_of_unused_combos_do_not_matter(tmp_path: Path) -> None:
    build(tmp_path / "stores", manifest(tmp_path), rows={"noise-1": 8})
    found = finished(tmp_path, tmp_path / "runs", combos=["good", "noise-0"], pairs=1)
    assert found.gate["pairs"] == 8


def test_pictures_that_the_store_lacks_are_named(root: Path, tmp_path: Path) -> None:
    message = refused(root, tmp_path, dataset={**DATASET, "test": 13})
    assert "test/car/00012" in message


def test_a_data_set_without_key_points_is_refused(root: Path, tmp_path: Path) -> None:
    dataset = {"name": "folder", "root": "pictures"}
    assert "'folder' has no key points" in refused(root, tmp_path, dataset=dataset)


@pytest.mark.parametrize(("split", "count"), [("train", 0), ("test", 0), ("train", 8)])
def test_a_split_without_pairs_is_named(root: Path, tmp_path: Path, split: str,
                                        count: int) -> None:
    message = refused(root, tmp_path, dataset={**DATASET, split: count})
    assert f"split '{split}' has no pairs" in message


def test_combos_of_different_maps_are_refused(tmp_path: Path) -> None:
    conv = {**CONV, "noise-1": {"prompt": "noise", "seed": 1, "maps": ["up1"]}}
    build(tmp_path / "stores", manifest(tmp_path, conv=conv))
    assert "need the same maps" in refused(tmp_path, tmp_path / "runs", conv=conv)


def test_a_missing_attention_map_is_named(root: Path, tmp_path: Path) -> None:
    message = refused(root, tmp_path, attention="attn", attention_maps=["attn7"])
    assert "no map 'attn7'" in message


# Finding a manifest's combos


def test_a_renamed_combo_is_found_by_its_settings(root: Path, store: FeatureStore,
                                                  tmp_path: Path) -> None:
    loaded = manifest(tmp_path, conv={"best": CONV["good"]})
    assert find_combo(store, loaded.manifest, "best", None).label == "good"


def test_two_sets_of_weights_of_one_combo_are_refused(tmp_path: Path) -> None:
    loaded = manifest(tmp_path)
    for weights in ("old", "new"):
        build(tmp_path / "stores", loaded, only=["good"], weights=weights)
    found = FeatureStore.open(tmp_path / "stores" / "toy.zarr")
    with pytest.raises(StoreError, match="'good' was extracted with 2 sets of weights"):
        find_combo(found, loaded.manifest, "good", None)


def test_a_combo_with_another_lora_is_not_taken_for_its_sibling(tmp_path: Path) -> None:
    conv = {f"lora-{i}": {"prompt": "a photo", "lora": {"source": name}}
            for i, name in enumerate(("tiny/moderate", "tiny/overfit"))}
    loaded = manifest(tmp_path, conv=conv)
    build(tmp_path / "stores", loaded, only=["lora-0"])
    found = FeatureStore.open(tmp_path / "stores" / "toy.zarr")
    with pytest.raises(StoreError, match="'lora-1' is not extracted"):
        find_combo(found, loaded.manifest, "lora-1", None)


def test_a_combo_whose_maps_changed_is_stale(tmp_path: Path) -> None:
    build(tmp_path / "stores", manifest(tmp_path, conv={"good": {**CONV["good"], "maps": ["up1"]}}),
          only=["good"])
    changed = manifest(tmp_path, conv={"good": {**CONV["good"], "maps": ["up0"]}})
    found = FeatureStore.open(tmp_path / "stores" / "toy.zarr")
    with pytest.raises(StoreError, match="'good' is stale"):
        find_combo(found, changed.manifest, "good", None)


# The run directory


def test_runs_of_one_second_do_not_meet(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        folder = new_run(tmp_path, "toy-nn")
        with folder.begin({}):
            found.append(folder.path)
    assert len(set(found)) == 3


def test_a_failed_run_has_no_metrics(root: Path, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "fit_trials", fail)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.json", "log.txt",
                                                              "splits.json"}


@pytest.mark.mostly_long("nn-*", "conv-3")
@pytest.mark.parametrize(("head", "at"), [("nn", 1), ("conv", 3), ("conv", 5)])
def test_an_interrupted_run_goes_on_and_ends_the_same(
        root: Path, tmp_path: Path, head: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finished(root, tmp_path / "whole", head=head, **SHORT)
    real, steps = Trial.step, iter(range(1000))

    def stop(self: Trial, *given: Any) -> None:
        if next(steps) == at:
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(Trial, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "cut", head=head, **SHORT)
    monkeypatch.undo()
    assert list((tmp_path / "cut" / "run").glob("checkpoint-*.pt"))
    again = finished(root, tmp_path / "cut", head=head, **SHORT)
    assert without_time(again) == without_time(whole)
    for name in ("gate-best", "gate-last"):
        assert same_weights(again, whole, name)
    assert not list((tmp_path / "cut" / "run").glob("checkpoint-*.pt"))
    with pytest.raises(UserError, match="exists already, and is a finished run of these settings"):
        run(root, tmp_path / "cut", head=head, **SHORT)


def test_an_unfinished_run_of_other_settings_is_left_alone(
        root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "fit_trials", lambda *_: (_ for _ in ()).throw(
        KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, **SHORT)
    told = r"is a run of other settings \(manifest\.train\.seed changed: 0 → 5\); give --out"
    with pytest.raises(UserError, match=told):
        run(root, tmp_path, **SHORT, seed=5)
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no run"):
        run(root, tmp_path, **SHORT)


def test_a_run_begun_again_is_not_finished(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path / "run")
    with first.begin({}):
        first.finish({"seconds": 1})
    with pytest.raises(UserError, match="is a finished run"), \
            RunDirectory(tmp_path / "run").begin({}):
        pass


# Weights in the table


def test_the_note_names_each_assigners_weights(nn_run: Finished) -> None:
    assert nn_run.gate["note"].count("|") == 1
    assert all(nn_run.gate["note"].count(name) == 2 for name in CONV)
    assert nn_run.rows["single feature: noise-0"]["note"] == ""


def test_the_note_is_there_when_weights_are_one_hot(root: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingInputs, "gate", lambda study, spec: build_model(
        spec, study.features.channels, [0.0, 1.0, 0.0]))
    assert "good 1.00" in finished(root, tmp_path, assigners=1, pairs=1).gate["note"]


# Buckets


def test_bucket_holds_all_levels_at_the_finest_resolution(store: FeatureStore) -> None:
    found = buckets(store, "noise-0", "good")(5)
    assert found.conv.shape == (2, 2 * CHANNELS, 16, 16)
    assert found.attention is None
    for i, name in enumerate(("noise-0", "good")):
        coarse, fine = (torch.from_numpy(store[name][m][5]).float() for m in ("up0", "up1"))
        wide = F.interpolate(coarse[None], (16, 16), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found.conv[i], torch.cat([wide, fine]))


def test_a_run_with_attention_in_the_bucket_is_trained_and_read_again(
    root: Path, tmp_path: Path,
) -> None:
    found = finished(root, tmp_path, **{**SHORT, "attention": None, "attention_in": "bucket"})
    first = found.weights("gate-best")["mixer.assigners.0.body.0.weight"]
    assert first.shape[1] == 2 * CHANNELS + 2 * TOKENS
    describer = of_run(Workspace(found.loaded, Roots(stores=root / "stores"), "cpu"),
                       found.trained.run)
    sample = describer.store.samples.ids[0]
    (level,) = describer(sample).levels
    assert level.shape[0] == found.loaded.manifest.train.assigners * first.shape[1]


def test_the_two_finest_attention_maps_are_read_for_runs_of_the_first_release() -> None:
    view: Any = SimpleNamespace(maps=("attn1", "attn2", "attn3"))
    assert attention_maps(view, "two finest") == ("attn2", "attn3")


def test_attention_is_beside_the_bucket(store: FeatureStore) -> None:
    found = buckets(store, "good", attention="attn")(0)
    assert found.attention is not None
    assert found.attention.shape == (2 * TOKENS, 16, 16)


def test_resolution_can_be_chosen(store: FeatureStore) -> None:
    spec = BucketSpec(("good",), "attn", ("attn0",), 4)
    found = Buckets(store, spec, CPU, {}, 0)(0)
    assert found.attention is not None
    assert (found.conv.shape[-1], found.attention.shape) == (4, (TOKENS, 4, 4))


def test_stacking_makes_a_batch(store: FeatureStore) -> None:
    make = buckets(store, "good", "noise-1", attention="attn")
    batch: Bucket = stack([make(3), make(1)])
    assert batch.attention is not None
    assert torch.equal(batch.conv[1], make(1).conv)
    assert batch.attention.shape == (2, 2 * TOKENS, 16, 16)


def counting(bound: int) -> tuple[LRUCache[str], list[int]]:
    """A cache of texts of `key` letters, and the keys it had to make."""
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return "x" * key

    return LRUCache(make, len, bound), made


def test_recent_makes_a_held_value_once() -> None:
    recent, made = counting(10)
    assert [recent(4), recent(4)] == ["xxxx", "xxxx"]
    assert made == [4]


def test_recent_drops_the_least_recently_used_beyond_its_bound() -> None:
    recent, made = counting(10)
    for key in (4, 5, 4, 3, 4, 5):
        recent(key)
    assert made == [4, 5, 3, 5]


def test_recent_never_holds_more_than_its_bound() -> None:
    alive: list[int] = []
    recent: LRUCache[int] = LRUCache(lambda key: key, lambda value: value, 20)
    for key in np.random.default_rng(0).integers(1, 20, 200).tolist():
        recent(key)
        alive.append(sum(recent._held))
    assert max(alive) <= 20
    assert recent._bytes == alive[-1]


def test_recent_returns_a_value_beyond_its_bound() -> None:
    recent, made = counting(3)
    assert recent(9) == recent(9) == "x" * 9
    assert made == [9]


def test_a_row_that_is_held_is_not_read_again(store: FeatureStore,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = SampleBuffer.fill
    monkeypatch.setattr(SampleBuffer, "fill", lambda self: (reads.append(self.row), real(self))[1])
    few, many = buckets(store, "good"), buckets(store, "good", "noise-0")
    names = [store.samples[row] for row in (3, 5, 3, 3)]
    for found in (few, many):
        assert [torch.equal(a.conv, found(row).conv) for a, row in
                zip(found.stream(names), (3, 5, 3, 3), strict=True)] == [True] * 4
    assert reads == [3, 5] * 2
