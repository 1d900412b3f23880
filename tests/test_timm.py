"""Models of timm: maps are those of the library's own ``features_only``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteManifest
from safetensors.torch import load_file, save_file

from gate_cache.core.errors import ModelError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.datasets.common.model_input import model_input
from gate_cache.diffusion.models.published import published
from gate_cache.extraction.extract import extract
from gate_cache.extraction.layers import layers
from gate_cache.extraction.plan import plan
from gate_cache.extraction.recompute import recompute
from gate_cache.manifest.specs import ModelSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

SECTIONS: dict[str, Any] = {
    "dataset": {"name": "toyworld", "train": 2, "val": 0, "test": 1}, "attention": {},
    "train": {}, "store": {"dtype": "float32"}}
SMALL: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet10t": (64, {}), "convnext_atto": (64, {}), "vit_tiny_patch16_224": (224, {"depth": 3}),
    "swin_tiny_patch4_window7_224": (224, {"depths": [1, 1, 1, 1]})}
"""Architectures: side of the input, and arguments that make them smaller."""


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm")


def write(timm: Any, name: str, folder: Path, args: dict[str, Any]) -> None:
    """As timm writes models for the hub, with statistics that no default has."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **args)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    model.pretrained_cfg.update(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), num_classes=5)
    timm.models.save_for_hf(model, folder, model_args=args or None, safe_serialization=True)


def plain(timm: Any, name: str, folder: Path, args: dict[str, Any],
          images: np.ndarray) -> list[torch.Tensor]:
    """What timm's own ``features_only`` gives, of its own data configuration's normalised input."""
    config = json.loads((folder / "config.json").read_text())
    net = timm.create_model(
        name, features_only=True, pretrained=True, **args,
        pretrained_cfg_overlay={"file": str(folder / "model.safetensors"), "custom_load": False})
    net = timm.create_model(
        name, features_only=True, pretrained=True, out_indices=range(len(net.feature_info.info)),
        **args,
        pretrained_cfg_overlay={"file": str(folder / "model.safetensors"), "custom_load": False})
    data = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    mean, std = (torch.tensor(data[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        found = net.eval()((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    return [v.permute(0, 3, 1, 2) if "swin" in name else v for v in found]


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_those_of_features_only(timm: Any, name: str, manifest: WriteManifest,
                                         roots: Roots) -> None:
    side, args = SMALL[name]
    write(timm, name, roots.models / "m", args)
    every = layers(ModelSpec(source=["m"]), roots, every=True)
    names = [m.name for m in every.layers]
    loaded = manifest(model={"source": "m", "size": side}, conv={"a": {"maps": names}}, **SECTIONS)
    here = Workspace(loaded, roots, "cpu")
    store, dataset = FeatureStore.open(extract(here).store), here.dataset()
    images = np.stack([model_input(dataset, i, Preprocessing(Size.of(side)))
                       for i in store.samples.ids])
    expected = plain(timm, name, roots.models / "m", args, images)
    assert set(store["a"].maps) == set(names) and len(names) == len(expected)
    infos = timm.create_model(name, features_only=True, **args).feature_info.info
    for info, values in zip(infos, expected, strict=True):
        assert values.std() > 0.01
        np.testing.assert_allclose(store["a"][info["module"]][:], values, rtol=1e-3, atol=1e-4)
    assert recompute(here, 1).equal


def test_a_size_of_its_own(timm: Any, manifest: WriteManifest, roots: Roots) -> None:
    """A ViT's positions are interpolated; Swin's windows are of one size."""
    write(timm, "vit_tiny_patch16_224", roots.models / "vit", {"depth": 3})
    write(timm, "swin_tiny_patch4_window7_224", roots.models / "swin", {"depths": [1, 1, 1, 1]})
    wide = manifest(model={"source": "vit", "size": [32, 64]}, conv={"a": {}}, **SECTIONS)
    store = FeatureStore.open(extract(Workspace(wide, roots, "cpu")).store)
    assert store["a"]["blocks.2"].shape == (3, 192, 2, 4)
    with pytest.raises(ModelError, match=r"model\.size: 256 is more than the 224 pixels"):
        plan(Workspace(manifest(model={"source": "swin", "size": 256}, conv={"a": {}}, **SECTIONS),
                       roots, "cpu"))


def test_a_hub_id_is_planned_without_its_files(timm: Any, manifest: WriteManifest,
                                               roots: Roots) -> None:
    loaded = manifest(model={"source": "timm/resnet50.a1_in1k"}, conv={"a": {}}, **SECTIONS)
    (line,) = [x for x in plan(Workspace(loaded, roots, "cpu")).lines if x.name == "a"]
    assert line.shapes == {"layer2": (512, 28, 28), "layer4": (2048, 7, 7)}
    with pytest.raises(ModelError, match=r"^timm/resnet50\.x: timm .* has no such model"):
        layers(ModelSpec(source=["timm/resnet50.x"]), roots)
    with pytest.raises(ModelError, match=r"of 288 pixels, not one cell for each 2; not read"):
        layers(ModelSpec(source=["timm/inception_v3.tv_in1k"]), roots)


def test_files_that_do_not_hold_the_model_are_refused(timm: Any, manifest: WriteManifest,
                                                      roots: Roots) -> None:
    write(timm, "resnet10t", roots.models / "m", {})
    file = roots.models / "m/model.safetensors"
    tensors = load_file(file)
    here = Workspace(manifest(model={"source": "m", "size": 32}, conv={"a": {}}, **SECTIONS),
                     roots, "cpu")
    save_file({k: v for k, v in tensors.items() if k != "layer1.0.conv1.weight"}, file)
    with pytest.raises(ModelError, match=r"1 weight of resnet10t not in the file: layer1\."):
        extract(here)
    save_file({**tensors, "wing": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="1 tensor not read by resnet10t: wing"):
        extract(here)
    config = json.loads((roots.models / "m/config.json").read_text())
    for fields, line in (
            ({"architecture": "resnet0"}, r"architecture: timm .* has no 'resnet0'"),
            ({"architecture": "hf-hub:other/model"}, "has no 'hf-hub:other/model'"),
            ({"model_args": {"checkpoint_path": "other.pth"}},
             "model_args: checkpoint_path: not an architecture's")):
        (roots.models / "m/config.json").write_text(json.dumps({**config, **fields}))
        with pytest.raises(ModelError, match=line):
            plan(here)


def test_without_the_library_the_extra_is_named(manifest: WriteManifest, roots: Roots,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    published.cache_clear()
    loaded = manifest(model={"source": "timm/resnet18.a1_in1k"}, conv={"a": {}}, **SECTIONS)
    with pytest.raises(ModelError, match=r"^timm's models need the library: pip install 'gate-c"):
        plan(Workspace(loaded, roots, "cpu"))
    (roots.models / "m").mkdir(parents=True)
    (roots.models / "m/config.json").write_text(json.dumps(
        {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224]}}))
    with pytest.raises(ModelError, match=r"^m: timm's models need the library"):
        layers(ModelSpec(source=["m"]), roots)
