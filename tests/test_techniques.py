"""Techniques end to end: each against what it should be, in stores of a few images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import WriteManifest
from diffusers import StableDiffusionPipeline
from doc_blocks import DOCS, Reader, blocks, forget_plugins, install
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from gate_cache.core.errors import DataError, ManifestError, ModelError
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.captions import Caption, write_captions
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.diffusion.passes.noise import add_noise, noise
from gate_cache.diffusion.techniques.controlnet import canny
from gate_cache.diffusion.techniques.denoise import Walk, ddim
from gate_cache.diffusion.techniques.ip_adapter import IPAdapter
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.load import load as load_manifest
from gate_cache.manifest.specs import IPAdapterSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

DATA = {"name": "toyworld", "train": 3, "val": 0, "test": 0}
PHOTO = {"prompt": "a photo"}
Extract = Callable[..., FeatureStore]


@pytest.fixture
def extracted(manifest: WriteManifest, roots: Roots) -> Extract:
    """Extract some combos of three pictures."""
    def run(name: str = "m.yaml", attention: Any = None, **sections: Any) -> FeatureStore:
        loaded = manifest(name, dataset=DATA, attention=attention or {}, **sections)
        return FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)
    return run


def same(store: FeatureStore, a: str, b: str, rows: Any = slice(None)) -> bool:
    return all(np.array_equal(store[a][m][rows], store[b][m][rows]) for m in store[a].maps)


def model() -> Backbone:
    return load(ModelFiles("tiny", HOME), torch.device("cpu"), torch.float32)


# ------------------------------------------------------------------------------------ captions


def pictures(loaded: Loaded, roots: Roots) -> tuple[list[str], Any]:
    dataset = open_dataset(loaded.manifest.dataset, roots)
    return [s.id for s in dataset.samples()], dataset


def captions(roots: Roots, loaded: Loaded, texts: list[str], stale: bool = False) -> Path:
    ids, dataset = pictures(loaded, roots)
    path = roots.data / "captions" / "c.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_captions(path, [Caption(i, "0" * 64 if stale else dataset.sha256(i), text)
                          for i, text in zip(ids, texts, strict=False)])
    return path


OWN = {"own": {"prompt": "{caption}, high quality"}}
SOURCE = {"captions": "captions/c.jsonl"}


def test_each_image_has_its_own_caption(manifest: WriteManifest, extracted: Extract,
                                        roots: Roots) -> None:
    texts = ["a red horse", "word " * 80, "a car {caption}"]
    captions(roots, manifest("c.yaml", dataset=DATA), texts)
    fixed = {f"c{i}": {"prompt": f"{t}, high quality"} for i, t in enumerate(texts[:2])}
    store = extracted(conv={**OWN, **fixed}, **SOURCE)
    assert same(store, "own", "c0", 0) and same(store, "own", "c1", 1)
    assert not same(store, "own", "c0", 2)


def test_other_captions_are_another_combo(manifest: WriteManifest, extracted: Extract,
                                          roots: Roots) -> None:
    loaded = manifest("c.yaml", dataset=DATA)
    captions(roots, loaded, ["a", "b", "c"])
    before = extracted(conv=OWN, **SOURCE)["own"].fingerprint
    captions(roots, loaded, ["a", "b", "d"])
    assert extracted("d.yaml", conv=OWN, **SOURCE)["own"].fingerprint != before


@pytest.mark.parametrize(("texts", "stale", "says"), [
    (["a", "b"], False, "has no caption; run 'gate-cache caption'"),
    (["a", "b", "c"], True, "has changed since it was captioned"),
    ([], False, "no such file; 'gate-cache caption' writes one")])
def test_captions_that_do_not_fit_are_refused(manifest: WriteManifest, roots: Roots,
                                              extracted: Extract, texts: list[str], stale: bool,
                                              says: str) -> None:
    if texts:
        captions(roots, manifest("c.yaml", dataset=DATA), texts, stale)
    with pytest.raises((DataError, ModelError), match=says):
        extracted(conv=OWN, **SOURCE)


def test_a_caption_too_long_for_attention_is_refused(manifest: WriteManifest, roots: Roots,
                                                     extracted: Extract) -> None:
    captions(roots, manifest("c.yaml", dataset=DATA), ["a", "b", "word " * 80])
    with pytest.raises(DataError, match=r"attention\.own has over 75 tokens"):
        extracted(conv={"p": PHOTO}, attention=OWN, **SOURCE)


def test_a_place_for_captions_needs_a_file(manifest: WriteManifest) -> None:
    with pytest.raises(ManifestError, match="no 'captions' file is named"):
        manifest(conv=OWN)


# ------------------------------------------------------------------------- control images


def test_control_images_from_a_folder(manifest: WriteManifest, extracted: Extract,
                                      roots: Roots) -> None:
    """Canny edges from files are what Canny edges of the input are."""
    ids, dataset = pictures(manifest("c.yaml", dataset=DATA), roots)
    for i in ids:
        path = (roots.data / "edges" / i).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), canny(dataset.image(i)[None], 100, 200)[0])
    net = {"source": "tiny"}
    combos = {"canny": {**PHOTO, "controlnet": net},
              "files": {**PHOTO, "controlnet": {**net, "images": "edges"}}}
    store = extracted(conv=combos)
    assert same(store, "canny", "files") and store["canny"].name != store["files"].name
    path.write_bytes((roots.data / "edges" / ids[0]).with_suffix(".png").read_bytes())
    again = extracted("again.yaml", conv={"files": combos["files"]})
    assert again["files"].fingerprint != store["files"].fingerprint
    assert not np.array_equal(again["files"]["up1"][2], store["files"]["up1"][2])
    path.unlink()
    with pytest.raises(DataError, match=f"no control image for '{ids[2]}'"):
        extracted(conv={"files": combos["files"]})


def test_a_missing_folder_of_control_images_is_named(extracted: Extract) -> None:
    net = {"source": "tiny", "images": "edges"}
    with pytest.raises(ModelError, match=r"files\.controlnet\.images: .*no such folder"):
        extracted(conv={"files": {**PHOTO, "controlnet": net}})


# --------------------------------------------------------------------------------- guidance


def test_guidance_pushes_the_steps_away_from_the_negative_prompt(
        extracted: Extract, roots: Roots, manifest: WriteManifest) -> None:
    combo = {"prompt": "a horse", "denoise": {"from": 200, "steps": 2}}
    store = extracted(conv={"plain": combo, "guided": {
        **combo, "guidance": {"scale": 4.0, "negative": "a car"}}}, store={"dtype": "float32"})
    assert not same(store, "plain", "guided")
    net, name = model(), store.samples[0]
    text, away = net.embed("a horse"), net.embed("a car")
    x0 = latent(store)
    with torch.inference_mode():
        x = add_noise(x0, noise(0, name, x0.shape[1:])[None], 200, net.alphas_cumprod)

        def guided(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = net.predict(x, t, text), net.predict(x, t, away)
            eps, abar = b + 4 * (a - b), net.alphas_cumprod[t]
            return (x - (1 - abar).sqrt() * eps) / abar.sqrt(), eps

        x = ddim(x, Walk(200, 50, 2).timesteps(), net.noised, guided)
        with tapped(net.unet, [s for s in ModelFiles("tiny", HOME).family.maps
                               if s.kind == "conv"]) as taps:
            maps = taps.read(lambda: net.predict(x, 50, text))
    for key, value in maps.items():
        np.testing.assert_allclose(store["guided"][key][0], value[0].numpy(), rtol=2e-3, atol=2e-3)


def latent(store: FeatureStore) -> torch.Tensor:
    import zarr

    group = zarr.open_group(store.path, mode="r")
    (name,) = [n for n in group if n.startswith("latents")]
    return torch.from_numpy(np.asarray(group[f"{name}/x0"][:1]))


def test_guidance_of_one_is_none(extracted: Extract) -> None:
    combo = {"prompt": "a horse", "denoise": {"from": 200, "steps": 2}}
    store = extracted(conv={"plain": combo, "one": {**combo, "guidance": {"scale": 1.0}}})
    assert same(store, "plain", "one")


def test_guidance_takes_two_passes_a_step(manifest: WriteManifest, roots: Roots) -> None:
    combo = {"prompt": "a", "denoise": {"from": 60, "steps": 3}, "guidance": {"scale": 2.0}}
    loaded = manifest(dataset=DATA, conv={"g": combo}, attention={})
    assert plan(Workspace(loaded, roots)).unet_passes == 21


def test_guidance_without_steps_is_refused(manifest: WriteManifest) -> None:
    with pytest.raises(ManifestError, match=r"conv\.g\.guidance: .*there is no 'denoise'"):
        manifest(conv={"g": {"prompt": "a", "guidance": {"scale": 2.0}}})


# ------------------------------------------------------------------------------- IP-Adapter


def write_ip_adapter(models: Path, plus: bool = False,
                     unet: Any = None) -> dict[str, torch.Tensor]:
    """A random IP-Adapter for tiny in the published layout, and a small image encoder."""
    torch.manual_seed(0)
    unet = unet or model().unet
    width, embed, hidden = unet.config.cross_attention_dim, 24, 32
    state = {}
    for i, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            attn = unet.get_submodule(name.removesuffix(".processor"))
            for part in ("k", "v"):
                state[f"ip_adapter.{i}.to_{part}_ip.weight"] = torch.randn(
                    attn.to_q.out_features, width) / width**0.5
    if plus:
        state |= {f"image_proj.{k}": v for k, v in plus_projection(hidden, width).items()}
    else:
        state |= {"image_proj.proj.weight": torch.randn(4 * width, embed) / 5,
                  "image_proj.proj.bias": torch.zeros(4 * width),
                  "image_proj.norm.weight": torch.ones(width),
                  "image_proj.norm.bias": torch.zeros(width)}
    models.mkdir(parents=True, exist_ok=True)
    save_file(state, models / "ip.safetensors")
    CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8, projection_dim=embed)).save_pretrained(models / "encoder")
    return state


def plus_projection(hidden: int, width: int) -> dict[str, torch.Tensor]:
    """The resampler of IP-Adapter Plus."""
    inner, r = 64, lambda *s: torch.randn(s) / s[-1] ** 0.5
    found = {"latents": r(1, 4, width), "proj_in.weight": r(width, hidden),
             "proj_in.bias": r(width), "proj_out.weight": r(width, width),
             "proj_out.bias": r(width), "norm_out.weight": torch.ones(width),
             "norm_out.bias": torch.zeros(width)}
    for i in range(4):
        for name in ("0.norm1", "0.norm2", "1.0"):
            found |= {f"layers.{i}.{name}.weight": torch.ones(width),
                      f"layers.{i}.{name}.bias": torch.zeros(width)}
        found |= {f"layers.{i}.0.to_q.weight": r(inner, width),
                  f"layers.{i}.0.to_kv.weight": r(2 * inner, width),
                  f"layers.{i}.0.to_out.weight": r(width, inner),
                  f"layers.{i}.1.1.weight": r(4 * width, width),
                  f"layers.{i}.1.3.weight": r(width, 4 * width)}
    return found


ADAPTER = {"source": "ip.safetensors", "image_encoder": "encoder"}


def test_an_ip_adapter_does_what_diffusers_does(roots: Roots) -> None:
    state = write_ip_adapter(roots.models)
    net = model()
    before = {k: v.clone() for k, v in net.unet.state_dict().items()}
    opened = IPAdapter("c", IPAdapterSpec(**ADAPTER, scale=0.7)).open(net, roots)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    x, text = torch.randn(2, 4, 16, 16), net.embed("a horse")
    text = type(text).joined([text, text])

    class Inputs:
        def images(self, rows: Any) -> Any:
            return image[list(rows)]

    with torch.inference_mode():
        plain = net.predict(x, 50, text)
        with opened.active():
            extra = opened.batch(Inputs(), range(2))
            steered = net.predict(x, 50, text, extra)
        assert torch.equal(net.predict(x, 50, text), plain)
        pipe: Any = StableDiffusionPipeline.from_pretrained(HOME)
        pipe.unet._load_ip_adapter_weights([{
            part: {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(part)}
            for part in ("image_proj", "ip_adapter")}], low_cpu_mem_usage=False)
        pipe.set_ip_adapter_scale(0.7)
        expected = pipe.unet(x, 50, text.states, added_cond_kwargs=extra(None)[
            "added_cond_kwargs"]).sample
    torch.testing.assert_close(steered, expected)
    assert not torch.allclose(steered, plain, atol=1e-3)
    after = net.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("plus", [False, True])
def test_an_ip_adapter_in_a_manifest(extracted: Extract, roots: Roots, plus: bool) -> None:
    write_ip_adapter(roots.models, plus)
    store = extracted(conv={
        "plain": PHOTO, "ip": {**PHOTO, "ip_adapter": ADAPTER},
        "off": {**PHOTO, "ip_adapter": {**ADAPTER, "scale": 0.0}}},
        attention={"attn": {**PHOTO, "ip_adapter": ADAPTER}}, store={"dtype": "float32"})
    assert not same(store, "plain", "ip")
    for name in store["plain"].maps:
        np.testing.assert_allclose(store["off"][name][:], store["plain"][name][:],
                                   rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(store["attn"]["attn2"][:].sum(1), 1, atol=1e-4)


def test_an_ip_adapter_that_does_not_fit_is_refused(extracted: Extract, roots: Roots) -> None:
    combos = {"ip": {**PHOTO, "ip_adapter": ADAPTER}}
    with pytest.raises(ModelError, match=r"ip\.ip_adapter\.source: .*no such \.safetensors"):
        extracted(conv=combos)
    state = write_ip_adapter(roots.models)
    save_file({"w": torch.ones(1)}, roots.models / "ip.safetensors")
    with pytest.raises(ModelError, match="not an IP-Adapter of the plain, the Plus or the Full"):
        extracted(conv=combos)
    save_file({**state, "ip_adapter.99.to_k_ip.weight": torch.ones(2, 2)},
              roots.models / "ip.safetensors")
    with pytest.raises(ModelError, match="tensors fit this model"):
        extracted(conv=combos)


# ------------------------------------------------------------------- of other packages


HOW_TO = DOCS / "how-to" / "add-a-technique.md"


@pytest.fixture
def freeu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example of the how-to as an installed package, and one that cannot be imported."""
    reader = Reader(tmp_path, monkeypatch)
    for block in blocks(HOW_TO):
        reader.write(block)
    project = tmp_path / "my-freeu" / "pyproject.toml"
    project.write_text(project.read_text() + 'broken = "no_such_module:X"\n')
    install(project.parent, monkeypatch)
    yield
    forget_plugins()


FREEU = {"s1": 0.9, "s2": 0.2, "b1": 1.4, "b2": 1.6}


def test_a_technique_of_another_package(freeu: None, extracted: Extract) -> None:
    store = extracted(conv={
        "plain": PHOTO, "freeu": {**PHOTO, "extra": {"freeu": FREEU}},
        "last": {**PHOTO, "seed": 1}})
    assert not same(store, "plain", "freeu")
    alone = extracted("alone.yaml", conv={"last": {**PHOTO, "seed": 1}})
    assert all(np.array_equal(alone["last"][m][:], store["last"][m][:]) for m in alone["last"].maps)


@pytest.mark.parametrize(("extra", "says"), [
    ({"freeu": {"s1": 1}}, r"freeu\.extra\.freeu: needs s1, s2, b1, b2"),
    ({"freu": FREEU}, r"no technique 'freu' \(did you mean 'freeu'\?\); installed: freeu, broken"),
    ({"broken": {}}, r"extra\.broken: no_such_module:X cannot be imported")])
def test_a_technique_that_is_not_there_is_named(freeu: None, extracted: Extract,
                                                extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        extracted(conv={"freeu": {**PHOTO, "extra": extra}})


def test_manifests_of_the_docs_are_sound(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "techniques.md").read_text(encoding="utf-8")
    section = re.findall(r"```yaml\n(.*?)```", text, re.S)[0]
    path = tmp_path / "m.yaml"
    path.write_text(f"dataset: {{name: toyworld}}\nmodel: {{source: tiny}}\n{section}")
    assert load_manifest(path).manifest.conv["freeu-0"].extra == {"freeu": FREEU}
