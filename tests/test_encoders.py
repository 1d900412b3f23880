"""Vision encoders: their maps are what the unmodified model gives at each patch."""

import json
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import WriteManifest
from small_encoders import MEAN, MODELS, SHAPE, STD, small, write

from gate_cache.analysis.activations import activations
from gate_cache.analysis.score import Selection, score_combos
from gate_cache.core.errors import ManifestError, ModelError, UserError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.roots import Roots
from gate_cache.core.size import Sides, Size
from gate_cache.datasets.common.model_input import model_input
from gate_cache.diffusion.models.encoders import LAYERS, SIDE, TYPES
from gate_cache.diffusion.models.published import _encoders
from gate_cache.extraction.extract import extract
from gate_cache.extraction.layers import layers
from gate_cache.extraction.plan import plan
from gate_cache.extraction.recompute import recompute
from gate_cache.extraction.status import status
from gate_cache.manifest.specs import ModelSpec
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

SECTIONS = {"dataset": {"name": "toyworld", "train": 2, "val": 0, "test": 1}, "attention": {},
            "train": {}, "store": {"dtype": "float32"}}
MAPS = ["layer0", "layer1", "layer2"]
FOLDERS = ("data", "models", "stores", "runs")
PREFIX = {"registers": 3, "dinov3": 5, "siglip": 0, "ijepa": 0}
"""Tokens before those of the patches, where they are not the class token alone."""


def work(manifest: WriteManifest, roots: Roots, size: Sides = 32, **combo: Any) -> Workspace:
    loaded = manifest(model={"source": "m", "size": size}, conv={"a": combo}, **SECTIONS)
    return Workspace(loaded, roots, "cpu")


def expected(name: str, model: Any, images: np.ndarray) -> dict[str, torch.Tensor]:
    """What the unmodified model gives for the processor's pixels: (N, C, h, w) by map."""
    processor = transformers.ViTImageProcessorPil(image_mean=MEAN, image_std=STD, do_resize=False)
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    always = name in ("dinov2", "registers", "dinov3")  # interpolate without being asked
    if name == "mae":
        model.config.mask_ratio = 0.0
    with torch.inference_mode():
        found = model(pixels, output_hidden_states=True,
                      **({} if always else {"interpolate_pos_encoding": True}))
    cells, prefix = [n // SHAPE["patch_size"] for n in images.shape[1:3]], PREFIX.get(name, 1)
    states = {f"layer{i}": s[:, prefix:] for i, s in
              enumerate([*found.hidden_states[1:-1], found.last_hidden_state])}
    if name == "mae":  # which shuffles its tokens, and says how
        order = found.ids_restore[..., None].expand(-1, -1, SHAPE["hidden_size"])
        states = {k: v.gather(1, order) for k, v in states.items()}
    maps = {k: v.transpose(1, 2).unflatten(2, cells) for k, v in states.items()}
    token = found.pooler_output if name == "clip" else found.last_hidden_state[:, 0]
    return maps | ({"cls": token[..., None, None]} if prefix else {})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [32, (32, 48)])
def test_maps_are_hidden_states_of_the_unmodified_model(
        name: str, size: Sides, manifest: WriteManifest, roots: Roots) -> None:
    model = small(name)
    write(roots.models / "m", model)
    size = size if isinstance(size, int) else list(size)  # as YAML has it
    here = work(manifest, roots, size, maps=[*MAPS, *(["cls"] if PREFIX.get(name, 1) else [])])
    store, dataset = FeatureStore.open(extract(here).store), here.dataset()
    how = Preprocessing(Size.of(size))
    images = np.stack([model_input(dataset, i, how) for i in store.samples.ids])
    found = expected(name, model, images)
    assert set(store["a"].maps) == found.keys()
    for map_name, values in found.items():
        assert values.std() > 0.01
        np.testing.assert_allclose(store["a"][map_name][:], values.numpy(), rtol=1e-3, atol=1e-4)


def test_defaults_are_those_of_the_classes() -> None:
    for name, kind in TYPES.items():
        config = transformers.AutoConfig.for_model(name)
        assert kind.cls in dir(transformers)
        assert (config.hidden_size, config.patch_size) == (kind.hidden, kind.patch), name
        assert (config.num_hidden_layers, config.image_size) == (LAYERS, SIDE)
        assert getattr(config, "num_register_tokens", 0) in (kind.registers, 0)
    assert all(c["model_type"] in TYPES for c in _encoders().values())


CARDS = {
    # transformers' convert_dinov2_to_hf.py, convert_dinov2_with_registers_to_hf.py
    "facebook/dinov2{}-{}": {"small": (384, 12, 14, 518), "base": (768, 12, 14, 518),
                             "large": (1024, 24, 14, 518), "giant": (1536, 40, 14, 518)},
    # convert_dinov3_vit_to_hf.py
    "facebook/dinov3-{}-pretrain-lvd1689m": {
        "vits16": (384, 12, 16, 224), "vits16plus": (384, 12, 16, 224),
        "vitb16": (768, 12, 16, 224), "vitl16": (1024, 24, 16, 224),
        "vith16plus": (1280, 32, 16, 224), "vit7b16": (4096, 40, 16, 224)},
    # convert_vit_mae_to_pytorch.py
    "facebook/vit-mae-{}": {"base": (768, 12, 16, 224), "large": (1024, 24, 16, 224),
                            "huge": (1280, 32, 14, 224)},
    # convert_dino_to_pytorch.py
    "facebook/dino-{}": {"vits16": (384, 12, 16, 224), "vits8": (384, 12, 8, 224),
                         "vitb16": (768, 12, 16, 224), "vitb8": (768, 12, 8, 224)},
    # convert_ijepa_to_hf.py
    "facebook/ijepa_{}": {"vith14_1k": (1280, 32, 14, 224), "vith14_22k": (1280, 32, 14, 224),
                          "vith16_1k": (1280, 32, 16, 448), "vitg16_22k": (1408, 40, 16, 224)},
    # convert_siglip_to_hf.py, and defaults of SiglipVisionConfig
    "google/{}": {"siglip-base-patch16-224": (768, 12, 16, 224),
                  "siglip-so400m-patch14-384": (1152, 27, 14, 384),
                  "siglip2-base-patch16-224": (768, 12, 16, 224),
                  "vit-base-patch16-224": (768, 12, 16, 224)},
    # defaults of CLIPVisionConfig; ViT-L/14 of Radford et al. 2021, table 20
    "openai/clip-vit-{}": {"base-patch32": (768, 12, 32, 224), "base-patch16": (768, 12, 16, 224),
                           "large-patch14": (1024, 24, 14, 224),
                           "large-patch14-336": (1024, 24, 14, 336)}}
"""By hub ids: width, layers, patch and side, and where they are said."""


def test_cards_are_what_the_conversions_to_transformers_say() -> None:
    expected = {}
    for pattern, models in CARDS.items():
        for name, values in models.items():
            for more in ("", "-with-registers") if "dinov2" in pattern else (None,):
                expected[pattern.format(*[n for n in (more, name) if n is not None])] = values
    fields = "hidden_size", "num_hidden_layers", "patch_size", "image_size"
    assert {hub: tuple(map(card.get, fields)) for hub, card in _encoders().items()} == expected
    registers = {hub: card.get("num_register_tokens") for hub, card in _encoders().items()}
    assert all(n == (4 if "registers" in hub or "dinov3" in hub else None)
               for hub, n in registers.items())


def test_plan_status_and_recompute(manifest: WriteManifest, roots: Roots) -> None:
    write(roots.models / "m", small("dinov2"))
    here = work(manifest, roots, mirror=True)
    (line,) = [line for line in plan(here).lines if line.name == "a"]
    assert line.shapes == {"layer1": (32, 4, 4), "layer2": (32, 4, 4)}
    assert [line.name for line in plan(here).lines] == ["samples", "a"]  # pixels are not kept
    store = FeatureStore.open(extract(here).store)
    assert store["a"].recipe["settings"] == {"mirror": True}
    assert store["a"].recipe["schedule"] == {} and list(store["a"].recipe["weights"]) == ["encoder"]
    assert recompute(here, 2).equal and status(here).complete
    (roots.models / "m").rename(roots.models / "gone")
    assert status(here).complete  # by settings alone


def test_layers_lists_them_all(roots: Roots) -> None:
    write(roots.models / "m", small("registers"))
    found = layers(ModelSpec(source=["m"]), roots, every=True)
    assert {m.name: m.shape for m in found.layers} == {
        **dict.fromkeys(MAPS, (32, 4, 4)), "cls": (32, 1, 1)}
    assert found.predicts == "" and list(found.digests) == ["encoder"]
    assert found.size_multiple == 8
    known = layers(ModelSpec(source=["facebook/dinov2-base"]), roots)
    assert [m.name for m in known.layers] == ["layer7", "layer11"]
    assert known.layers[0].shape == (768, 37, 37)


def test_whole_checkpoints_give_their_image_half(manifest: WriteManifest, roots: Roots) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "vocab_size": 20, "max_position_embeddings": 8}
    for name, config in (("CLIP", transformers.CLIPConfig), ("Siglip", transformers.SiglipConfig)):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(config(
            vision_config=dict(SHAPE), text_config=text)).eval()
        write(roots.models / "m", model)
        here = work(manifest, roots, maps=["layer2"])
        store = FeatureStore.open(extract(here).store)
        assert np.isfinite(store["a"]["layer2"][:]).all()
        for folder in (roots.models / "m", roots.stores):
            shutil.rmtree(folder)
    torch.manual_seed(0)
    write(roots.models / "m", transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(
        **SHAPE, decoder_hidden_size=16, decoder_num_attention_heads=2,
        decoder_num_hidden_layers=1, decoder_intermediate_size=16)))
    assert extract(work(manifest, roots)).rows["a"] == 3


@pytest.mark.parametrize(("combo", "says"), [
    ({"t": 50}, "conv.a.t: a vision encoder adds no noise and takes no text; leave it out"),
    ({"prompt": "x"}, "conv.a.prompt: a vision encoder"),
    ({"ensemble": 2}, "conv.a.ensemble: a vision encoder"),
    ({"lora": {"source": "tiny/moderate"}}, "conv.a.lora: a vision encoder"),
    ({"maps": ["layer7"]}, "this model has no map 'layer7'"),
])
def test_what_an_encoder_does_not_take(combo: dict[str, Any], says: str, manifest: WriteManifest,
                                       roots: Roots) -> None:
    write(roots.models / "m", small("vit"))
    with pytest.raises((ManifestError, ModelError)) as caught:
        plan(work(manifest, roots, **combo))
    assert says in str(caught.value)


def test_files_that_are_not_read(manifest: WriteManifest, roots: Roots) -> None:
    folder = roots.models / "m"
    write(folder, small("vit"))
    here = work(manifest, roots, size=36)
    with pytest.raises(ModelError, match=r"36 is not a multiple of 8, .* needs; try 32"):
        plan(here)
    kept = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(kept), "model_type": "vitt"}))
    with pytest.raises(ModelError, match=r"a 'vitt' of transformers is no vision encoder that is"
                       r" read \(did you mean 'vit'\?\)"):
        plan(work(manifest, roots))
    (folder / "config.json").write_text(kept)
    processor = folder / "preprocessor_config.json"
    processor.write_text('{"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}')
    with pytest.raises(ModelError, match="should be three numbers, three that are not 0"):
        plan(work(manifest, roots))
    processor.unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config\.json: cannot be read"):
        extract(work(manifest, roots))


def test_what_is_of_diffusion_alone_says_so(manifest: WriteManifest, roots: Roots) -> None:
    write(roots.models / "m", small("vit"))
    here = work(manifest, roots)
    with pytest.raises(UserError, match="adds no noise, so its maps have no shift to measure"):
        score_combos(here, Selection(count=1))
    with pytest.raises(UserError, match="a vision encoder predicts no noise"):
        next(activations(here))


def test_a_plan_needs_no_torch(manifest: WriteManifest, roots: Roots) -> None:
    write(roots.models / "m", small("vit"))
    here = work(manifest, roots)
    code = ("import sys\nfrom pathlib import Path\nfrom gate_cache.core.roots import Roots\n"
            "from gate_cache.workspace.workspace import Workspace\n"
            "from gate_cache.extraction.plan import plan\n"
            f"folders = (Path({str(roots.models)!r}).parent / n for n in {FOLDERS})\n"
            f"plan(Workspace.open({str(here.loaded.path)!r}, Roots(*folders)))\n"
            "print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
