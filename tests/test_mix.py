"""Maps of several models in one bucket: by value, under every head, and along the whole path."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from small_encoders import small
from small_encoders import write as write_encoder

from gate_cache.analysis.describe import of_combo, of_run
from gate_cache.analysis.match import match_images
from gate_cache.analysis.probe import ProbeOptions, probe
from gate_cache.core.errors import ManifestError, StoreError, UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.bucket_maps import Joining
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.mixing.projection import PrincipalComponents, Projection
from gate_cache.manifest.heads import head_names
from gate_cache.manifest.load import load
from gate_cache.store.reader import FeatureStore
from gate_cache.training.evaluate import evaluate
from gate_cache.training.features import joining_of
from gate_cache.training.inputs import open_any
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

CPU = torch.device("cpu")
TEXT: dict[str, Any] = {
    "dataset": {"name": "toyworld", "train": 24, "val": 8, "test": 24},
    "models": {"sd": {"source": "tiny"}, "vit": {"source": "vit", "size": 64}},
    "conv": {"a": {"prompt": "a photo", "maps": ["up1", "up2"]},
             "b": {"prompt": "a photo", "seed": 1, "maps": ["up1", "up2"]},
             "v": {"model": "vit"}},
    "store": {"path": "joined.zarr"}}


def open_work(roots: Roots, folder: Path, **train: Any) -> Workspace:
    path = folder / "joined.yaml"
    path.write_text(yaml.safe_dump({**TEXT, "train": train}, sort_keys=False))
    return Workspace(load(path), roots, "cpu")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Of a store with two combos of `tiny`, and one of a small DINOv2."""
    home = tmp_path_factory.mktemp("joined")
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    write_encoder(roots.models / "vit", small("dinov2"))
    extract(open_work(roots, home))
    return roots


@pytest.fixture
def store(roots: Roots) -> FeatureStore:
    return FeatureStore.open(roots.stores / "joined.zarr")


def groups(store: FeatureStore) -> tuple[str, ...]:
    return tuple(store[name].name for name in "abv")


def unit(store: FeatureStore, combo: str, name: str, row: int = 0) -> torch.Tensor:
    """A map by hand: of length 1/√2 at every position, for a combo has two."""
    values = torch.from_numpy(store[combo][name][row]).double()
    return values / values.square().sum(0, keepdim=True).sqrt() / math.sqrt(2)


@pytest.mark.long
def test_a_bucket_is_the_direct_sum_of_models(store: FeatureStore) -> None:
    shares = {store["v"].name: 3.0}
    spec = BucketSpec(groups(store), joining=Joining(True, shares))
    conv = Buckets(store, spec, CPU, {})(0).conv.double()
    up1, up2 = (store["a"][n].shape for n in ("up1", "up2"))
    own, side = up1[1] + up2[1], max(up1[-1], up2[-1])
    assert conv.shape == (3, own + 64, side, side)
    assert not conv[:2, own:].any() and not conv[2, :own].any()
    for number, name in enumerate("ab"):
        expected = torch.cat([F.interpolate(unit(store, name, n)[None], (side, side),
                                            mode="bilinear")[0] for n in ("up1", "up2")])
        torch.testing.assert_close(conv[number, :own], expected, rtol=1e-4, atol=1e-5)
    tokens = 3 * torch.cat([unit(store, "v", n) for n in ("layer1", "layer2")])
    expected = F.interpolate(tokens[None], (side, side), mode="bilinear")[0]
    torch.testing.assert_close(conv[2, own:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_one_source_at_two_sizes_is_two_models(roots: Roots, tmp_path: Path) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text(yaml.safe_dump({
        "dataset": {"name": "toyworld", "train": 2, "val": 1, "test": 1},
        "models": {"s": {"source": "tiny", "size": 64}, "l": {"source": "tiny", "size": 128}},
        "conv": {"a": {"prompt": "x", "maps": ["up1"]},
                 "b": {"prompt": "x", "maps": {"up1": {"grid": 4}}},
                 "c": {"prompt": "x", "maps": ["up1"], "model": "l"}},
        "train": {"mix": {"unit": False}}}, sort_keys=False))
    work = Workspace(load(path), roots, "cpu")
    store = FeatureStore.open(extract(work).store)
    joining = joining_of(work.manifest, work.manifest.train, {n: store[n] for n in "abc"})
    names = tuple(store[n].name for n in "abc")
    maps = Buckets(store, BucketSpec(names, joining=joining), CPU, {}).maps
    assert [level.size for level in maps.levels] == [(8, 8), (4, 4), (16, 16)]
    conv = Buckets(store, BucketSpec(names, joining=joining, resolution=16), CPU, {})(0).conv
    width = store["c"]["up1"].shape[1]
    torch.testing.assert_close(conv[2, 2 * width:], torch.from_numpy(store["c"]["up1"][0]).float())
    assert not conv[2, : 2 * width].any() and not conv[:2, 2 * width:].any()


@pytest.mark.long
def test_maps_at_their_own_resolution_are_the_same_sum(store: FeatureStore) -> None:
    spec = NativeSpec(groups(store), joining=Joining(unit=False), pool=2)
    maps = NativeMaps(store, spec, CPU, {"x": 0}, lambda _: (64, 64))
    levels = maps("x").levels
    assert maps.level_channels == tuple(level.shape[1] for level in levels)
    for level, (combo, name) in zip(levels, (
            ("a", "up1"), ("a", "up2"), ("v", "layer1"), ("v", "layer2")), strict=True):
        own = "abv".index(combo)
        torch.testing.assert_close(level[own], torch.from_numpy(store[combo][name][0]).float())
        others = [0, 1] if combo == "v" else [2]
        assert not level[others].any()
    (pooled,) = maps.pooled(["x"])
    start = 4 * sum(maps.level_channels[:2])
    token = torch.from_numpy(store["v"]["layer1"][0]).float()
    torch.testing.assert_close(pooled.conv[0, 2, start : start + 4 * 32],
                               F.adaptive_avg_pool2d(token, 2).flatten())
    dense = NativeMaps(store, NativeSpec(groups(store), levels=3, joining=Joining()), CPU,
                       {"x": 0}, lambda _: (64, 64))
    assert list(dense.level_sizes) == sorted(dense.level_sizes)  # coarse to fine


def test_a_projection_is_one_of_each_model() -> None:
    torch.manual_seed(0)
    projection, x, y = Projection(5, 4), torch.randn(3), torch.randn(2)
    bucket = torch.stack([torch.cat([x, torch.zeros(2)]), torch.cat([torch.zeros(3), y])])
    found = projection(bucket[None])[0]
    torch.testing.assert_close(found[0], projection.weight[:, :3] @ x)
    torch.testing.assert_close(found[1], projection.weight[:, 3:] @ y)
    torch.testing.assert_close(projection.weight @ projection.weight.T, torch.eye(4))
    maps = projection(bucket[None, :, :, None, None].expand(-1, -1, -1, 2, 3))
    torch.testing.assert_close(maps[0, 1, :, 1, 2], found[1])


@pytest.mark.mostly_long("nn-*", "conv-*", "classifier-*", "linear-*")
@pytest.mark.parametrize(("head", "mix", "width"), [
    ("nn", "concat", 0), ("conv", {"projection": 12}, 12), ("classifier", "concat", 0),
    ("classifier", {"projection": 12}, 12), ("upernet", "concat", 0),
    ("pixel-mlp", {"projection": 12, "shares": {"vit": 0.5}}, 12), ("linear", "concat", 0)])
def test_every_head_is_trained_on_both(head: str, mix: Any, width: int, roots: Roots,
                                       tmp_path: Path) -> None:
    spec = {"name": head, **({"decoder_channels": 8} if head == "upernet" else
                             {"members": 2} if head == "pixel-mlp" else {})}
    work = open_work(roots, tmp_path, head=spec, mix=mix, steps=2, validate_steps=2, batch=2,
                     hidden=8)
    done = train(work, tmp_path / "run")
    weights = load_file(done.run / "gate-best.safetensors")
    assert ("projection.weight" in weights) == bool(width)
    if width:
        assert len(weights["projection.weight"]) == width


def test_principal_components_are_sklearns_of_each_model() -> None:
    g = torch.Generator().manual_seed(0)
    vectors = torch.zeros(50, 4, 12)
    vectors[:, :2, :7] = torch.randn(50, 2, 7, generator=g) * torch.arange(1.0, 8) + 3
    vectors[:, 2, 7:] = torch.randn(50, 5, generator=g) - 1
    vectors[:, 3, 4:7] = torch.randn(50, 3, generator=g)  # one that lacks some of the first's
    found = PrincipalComponents(12, 3)
    found.fit(vectors)
    for combos, channels in (([0, 1, 3], slice(0, 7)), ([2], slice(7, 12))):
        values = vectors[:, combos, channels].flatten(0, 1).double().numpy()
        by_sklearn = PCA(3).fit(values).transform(values)
        torch.testing.assert_close(found(vectors)[:, combos].flatten(0, 1),
                                   torch.from_numpy(by_sklearn).float(), rtol=1e-4, atol=1e-4)
    again = PrincipalComponents(12, 3)
    again.load_state_dict(found.state_dict())
    maps = vectors[..., None, None].expand(-1, -1, -1, 2, 3)
    torch.testing.assert_close(again(maps)[..., 1, 2], found(vectors))
    with pytest.raises(UserError, match="6 components of 5 channels in 50 places; give at most 5"):
        PrincipalComponents(12, 6).fit(vectors)


HEADS = ("nn", "conv", "conv-released", "classifier", "linear", "knn", "pixel-mlp", "pixel-linear",
         "pixel-knn", "upernet")


@pytest.mark.mostly_long("nn", "conv*", "classifier", "linear", "knn")
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_given_shares_after_unit_length(head: str, roots: Roots,
                                                      tmp_path: Path) -> None:
    """What `feed` gives it: of one model times its share, of the other as it was."""
    assert set(head_names()) == set(HEADS)

    def given(mix: Any) -> list[torch.Tensor]:
        study = open_any(open_work(roots, tmp_path, head=head, mix=mix, batch=2))
        batch = next(iter(study.task.feed([study.task.items()[:2]])))
        return list(batch.levels) if head == "upernet" else [batch.conv]

    for plain, shared, raw in zip(given("concat"), given({"shares": {"vit": 0.25}}),
                                  given({"unit": False}), strict=True):
        torch.testing.assert_close(shared[:, 2], plain[:, 2] / 4)
        assert torch.equal(shared[:, :2], plain[:, :2]) and not torch.equal(raw, plain)
        if head not in ("classifier", "linear", "knn"):  # of which means are given
            assert float(plain.flatten(3).norm(dim=2).max() if plain.dim() > 3
                         else plain.norm(dim=2).max()) < 1.001


@pytest.mark.mostly_long("nn", "linear")
@pytest.mark.parametrize("head", ["nn", "pixel-mlp", "linear"])
def test_components_are_found_on_train_and_kept_in_a_run(head: str, roots: Roots,
                                                         tmp_path: Path) -> None:
    spec = {"name": head, **({"members": 2} if head == "pixel-mlp" else {})}
    work = open_work(roots, tmp_path, head=spec, mix={"pca": 8}, steps=2, validate_steps=2,
                     batch=2, hidden=8)
    study = open_any(work)
    model = study.gate(work.manifest.train)
    examples = torch.cat([v.cpu() for v in study.task.examples(
        list(study.members["train"]), 64)]).double()
    for combos in ([0, 1], [2]):
        values = examples[:, combos].flatten(0, 1)
        own = values.any(0)
        expected = PCA(8, svd_solver="full").fit(values[:, own].numpy()).components_
        torch.testing.assert_close(model.projection.weight[:, own],
                                   torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-4)
    done = train(work, tmp_path / "run")
    weights = load_file(done.run / "gate-best.safetensors")
    assert torch.equal(weights["projection.weight"], model.projection.weight)
    trained = next(v for title, v in done.scores.items() if title.startswith("GATE"))
    assert evaluate(work, done.run).values == pytest.approx(trained)


@pytest.mark.long
def test_the_whole_path(roots: Roots, tmp_path: Path) -> None:
    work = open_work(roots, tmp_path, head="nn", mix="concat", steps=2, validate_steps=2, batch=2)
    done = train(work, tmp_path / "run")
    ids = [s.id for s in work.dataset().samples()]
    for describer in (of_combo(work, "v"), of_run(work, done.run)):
        found = match_images(work, describer, (ids[0], ids[1]), grid=2)
        assert found.similarity.shape == (4,) and (found.similarity <= 1.001).all()
    tables = probe(work, ProbeOptions(images=8, split="test")).tables
    assert {t.task for t in tables} == {"correspondence", "segmentation", "classification"}
    for table in tables:
        assert {row.combos for row in table.rows} == {("a",), ("b",), ("v",)}
        assert {row.maps for row in table.rows if row.combos == ("v",)} == {
            ("layer1", "layer2"), ("layer1",), ("layer2",)}


@pytest.mark.long
def test_a_model_is_probed_in_its_own_channels(roots: Roots, tmp_path: Path) -> None:
    """Of whole images as alone; maps are read at the finest grid of all models."""
    both = probe(open_work(roots, tmp_path, head="nn"), ProbeOptions(images=8)).tables
    text = {**TEXT, "conv": {"v": {}}, "model": TEXT["models"]["vit"]}
    path = tmp_path / "alone.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in text.items() if k != "models"}))
    alone = probe(Workspace(load(path), roots, "cpu"), ProbeOptions(images=8)).tables
    here, there = (next(t for t in tables if t.task == "classification").rows
                   for tables in (both, alone))
    found = {row.maps: row.value for row in here if row.combos == ("v",)}
    assert found == pytest.approx({row.maps: row.value for row in there})


def test_what_is_refused(roots: Roots, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"need the same maps, these have: a: up1 .*; v: layer1"
                       r" 32×8×8, layer2 32×8×8; 'mix: concat' below 'train' joins"):
        train(open_work(roots, tmp_path, head="nn"), tmp_path / "run")
    with pytest.raises(ManifestError, match=r"'vitt' is not a model .*\(did you mean 'vit'\?\)"):
        train(open_work(roots, tmp_path, head="nn", mix={"shares": {"vitt": 1.0}}),
              tmp_path / "run")
    for kind in ("projection", "pca"):
        with pytest.raises(ManifestError, match="head 'upernet' projects every map itself"):
            open_work(roots, tmp_path, head="upernet", mix={kind: 8})
    with pytest.raises(ManifestError, match="gives projection and pca; give one of them"):
        open_work(roots, tmp_path, head="nn", mix={"projection": 8, "pca": 8})
    assert not (tmp_path / "run").exists()
