"""Heads and data sets of other packages by entry point; test_docs.py follows the how-tos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from doc_blocks import forget_plugins, install
from test_tasks import IDS, SMALL, Pictures, native, task_of
from test_tasks import home as masks  # noqa: F401
from test_tasks import manifest as mask_manifest
from test_tasks import write as write_maps
from test_train import manifest, one_thread, root  # noqa: F401

from gate_cache.analysis.describe import of_run
from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.roots import Roots
from gate_cache.learn.features.pixel_grid import centres
from gate_cache.learn.tasks.whole_image import WholeImage
from gate_cache.manifest.heads import TASKS, Head, head_names, head_of, heads_of
from gate_cache.manifest.load import load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.manifest.train_spec import TrainSpec
from gate_cache.report.html.write import write_report
from gate_cache.training.evaluate import evaluate
from gate_cache.training.predict import predict
from gate_cache.training.sweep import sweep
from gate_cache.training.train import train
from gate_cache.workspace.workspace import Workspace

CODE = '''
from pydantic import Field

from gate_cache.manifest.dataset_specs import InstalledSpec
from gate_cache.manifest.heads import CorrespondenceSpec, Head, HeadSpec, PixelSpec


class Scaled(CorrespondenceSpec):
    scale: float = Field(1.0, gt=0)


def points(options, sizes):
    from gate_cache.learn.modules.matching import ConvHead

    head = ConvHead(sizes.channels, sizes.assigners, 4)
    for layer in head.convs:
        layer.weight.data *= options.scale
    return head


def pixels(options, sizes):
    from torch import nn

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            width = sizes.assigners * sizes.channels + sizes.tokens + sizes.extra
            self.last = nn.Linear(width, sizes.classes)

        def forward(self, maps, attention, extra):
            import torch
            parts = [maps.flatten(2)] + [p[None] for p in (attention, extra) if p is not None]
            return self.last(torch.cat([p.expand(len(maps), -1, -1) for p in parts], -1))

    return Linear()


POINTS = Head("points", "correspondence", Scaled, points, metric="by points")
BARE = Head("bare", "correspondence", Scaled, points)
PIXELS = Head("pixels", "pixels", PixelSpec, pixels, {"batch": 16, "steps": 3})
OTHER_NAME = Head("another", "pixels", PixelSpec, pixels)
STRANGE = Head("strange", "pixels", PixelSpec, pixels, {"epochs": 3})


class Listed(InstalledSpec):
    table: str = "list.csv"
'''
PROJECT = '''
[project]
name = "others"
version = "1"
[project.entry-points."gate_cache.heads"]
points = "others:POINTS"
bare = "others:BARE"
pixels = "others:PIXELS"
misnamed = "others:OTHER_NAME"
strange = "others:STRANGE"
gone = "no_such_module:HEAD"
[project.entry-points."gate_cache.datasets"]
listed = "others:Listed"
lost = "no_such_module:Spec"
'''


@pytest.fixture(autouse=True)
def others(tmp_path_factory: pytest.TempPathFactory,
           monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("others")
    (folder / "others.py").write_text(CODE)
    (folder / "pyproject.toml").write_text(PROJECT)
    install(folder, monkeypatch)
    yield
    forget_plugins()


# ---------------------------------------------------------------------------------- the registry


def test_all_heads_are_found_with_their_tasks() -> None:
    ours = ["classifier", "conv", "conv-released", "knn", "linear", "nn", "pixel-knn",
            "pixel-linear", "pixel-mlp", "upernet"]
    assert head_names()[:10] == ours and {"points", "pixels"} <= set(head_names())
    assert heads_of("correspondence") == ["conv", "conv-released", "nn", "points", "bare"]
    assert heads_of("segmentation", "pixels") == [*ours[6:], "pixels", "strange"]
    assert [name for name in ours if not head_of(name).learns] == ["nn"]


def test_a_head_of_no_task_or_strange_options_is_refused() -> None:
    options = TASKS["classification"].options
    with pytest.raises(UserError, match=r"no task 'pixel' \(did you mean 'pixels'\?\)"):
        Head("a", "pixel", options, print)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be a subclass of PixelSpec"):
        Head("a", "pixels", options, print)


@pytest.mark.parametrize(("head", "says"), [
    ("gone", "train.head: no_such_module:HEAD cannot be imported (No module named"),
    ("misnamed", "train.head: head 'misnamed': entry point 'misnamed' of 'gate_cache.heads' must"),
    ("strange", "train: head 'strange' has a default for 'epochs', which is no field of train"),
    ({"name": "points", "scale": 0}, "train.head.scale: must be more than 0.0, got 0"),
    ({"name": "points", "scal": 1}, "train.head.scal: unknown field (did you mean 'scale'?); known:"
     " name, resolution, matching, standardise, temperature, pose_align, scale"),
])
def test_what_is_wrong_with_a_head_is_a_line(tmp_path: Path, head: Any, says: str) -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(tmp_path, head=head)
    (line,) = refused.value.problems
    assert says in line and line.startswith("toy.yaml:")


# ------------------------------------------------------------------------------ through the stages


@pytest.mark.long
def test_a_head_of_points_goes_through_all(root: Path, tmp_path: Path) -> None:  # noqa: F811
    fields = {"head": {"name": "points", "scale": 2}, "steps": 2, "validate_steps": 1}
    loaded, roots = manifest(tmp_path, **fields), Roots(stores=root / "stores", runs=tmp_path)
    found = train(Workspace(loaded, roots, "cpu"), run=tmp_path / "run")
    assert [r.trained for r in found.tables[0].rows] == [False, True, False, True, True]
    assert found.tables[0].protocol.endswith("; by points")
    again = evaluate(Workspace(loaded, roots, "cpu"), found.run)
    assert again.head == "points"
    gate = found.tables[0].rows[-1].scores.values
    assert again.values == pytest.approx(gate)
    of_run(Workspace(loaded, roots, "cpu"), found.run)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"grid": {"head.scale": [1.0, 2.0]}}))
    swept = sweep(Workspace(loaded, roots, "cpu"), load_sweep(tmp_path / "s.yaml", loaded),
                  tmp_path / "sweep")
    rows = {r.name: r for r in swept.rows}
    assert rows["head.scale=2.0"].test == again.values
    assert rows["head.scale=1.0"].test != again.values or \
        rows["head.scale=1.0"].val != rows["head.scale=2.0"].val
    assert "points" in write_report(tmp_path / "sweep", roots).read_text()


def test_each_head_of_a_sweep_has_baselines(root: Path, tmp_path: Path) -> None:  # noqa: F811
    loaded = manifest(tmp_path, steps=1, validate_steps=1, assigners=1)
    heads = [{"name": "conv", "conv_channels": 4}, "bare", "nn"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"grid": {"head": heads}}))
    found = sweep(Workspace(loaded, Roots(stores=root / "stores"), "cpu"),
                  load_sweep(tmp_path / "s.yaml", loaded), tmp_path / "sweep")
    names = [r.name for r in found.rows if r.trained]
    assert names == [f"head {head}, {name}" for head in ("conv", "bare") for name in (
        "single feature: noise-0", "all features, uniform weights")] + [
        "head=conv+conv_channels=4", "head=bare", "head=nn"]


def test_a_head_of_pixels_predicts(masks: Path, tmp_path: Path) -> None:  # noqa: F811
    loaded = mask_manifest(tmp_path, head={"name": "pixels", "extra": ["ddpm"]})
    assert (loaded.manifest.train.batch, loaded.manifest.train.items) == (16, 48)
    roots = Roots(stores=masks / "stores", runs=tmp_path)
    found = train(Workspace(loaded, roots, "cpu"), run=tmp_path / "run")
    again = evaluate(Workspace(loaded, roots, "cpu"), found.run)
    row: Any = found.tables[0].rows[-1]
    assert again.values == pytest.approx(row.scores.values)
    made = predict(Workspace(loaded, roots, "cpu"), found.run)
    assert {p.painted.classes.shape for p in made.images} == {(64, 64)} and SMALL["test"] == 8


def test_pixels_of_any_head_are_read_where_they_are(tmp_path: Path) -> None:
    """Of heads without first layers of their own: as feature by feature, and as the fast way."""
    write_maps(tmp_path / "a.zarr", "pad", Pictures(), IDS["train"])
    task = task_of("pixel-mlp", native(tmp_path / "a.zarr"))
    spec = TrainSpec.model_validate({"head": {"name": "pixel-mlp", "members": 3}, "hidden": 8})
    for weights, chosen in ((None, [0, 1]), ([1.0], [1])):
        model = task.model(spec, chosen, weights, True).eval()
        image = WholeImage(task.maps, "t1", (24, 48))
        points = centres((24, 48), slice(7, 900))
        with torch.inference_mode():
            slow = [*image._one_by_one(model, points)]
        fast = [*image.outputs(model, slice(7, 900))]
        for part in ("values", "weights"):
            a, b = (torch.cat([getattr(f, part) for f in found], 1) for found in (slow, fast))
            assert np.allclose(a, b, atol=1e-4)


# ------------------------------------------------------------------------------------- data sets


@pytest.mark.parametrize(("dataset", "says"), [
    ({"name": "lost", "root": "a"}, "dataset: no_such_module:Spec cannot be imported"),
    ({"name": "listd", "root": "a"}, "unknown name 'listd' (did you mean 'listed'?)"),
    ({"name": "listed", "root": "a", "tabel": "b"},
     "dataset.tabel: unknown field (did you mean 'table'?); known: name, root, table"),
    ({"name": "listed"}, "dataset.root: required, but not given"),
])
def test_what_is_wrong_with_a_data_set_is_a_line(tmp_path: Path, dataset: dict[str, Any],
                                                 says: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"dataset": dataset, "model": {"source": "tiny"},
                                    "conv": {"a": {"prompt": "b"}}}))
    with pytest.raises(ManifestError) as refused:
        load(path)
    (line,) = refused.value.problems
    assert says in line and line.startswith("m.yaml:")


def test_a_data_set_is_dumped_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({"dataset": {"name": "listed", "root": "a", "table": "b"},
                                    "model": {"source": "tiny"}, "conv": {"a": {"prompt": "b"}}}))
    kept = load(path).manifest.model_dump(mode="json")["dataset"]
    assert kept == {"name": "listed", "root": "a", "table": "b"}
