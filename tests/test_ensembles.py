"""Ensembles of noises, passes without noise, mirrored images: against the unmodified library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import PROMPT, WriteManifest, write
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from gate_cache import FeatureStore
from gate_cache.analysis.activations import activations
from gate_cache.analysis.score import Selection, score_combos
from gate_cache.analysis.show import ShownImages, show
from gate_cache.core.errors import ManifestError, UserError
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.embedded import CONTROLNETS, HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.noise import noise
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.recompute import recompute
from gate_cache.extraction.status import status
from gate_cache.extraction.validate import validate
from gate_cache.manifest.load import Loaded
from gate_cache.report.figures.show import page
from gate_cache.report.terminal.store_tables import show_store
from gate_cache.report.terminal.tables import show_plan
from gate_cache.store.check.inspect import inspect
from gate_cache.workspace.workspace import Workspace

CONTROL = {"prompt": "a photo", "controlnet": {"source": "tiny"}}
COMBOS: dict[str, Any] = {
    "conv": {
        "one": {**PROMPT, "seed": 5},
        "mean": {**PROMPT, "seed": 4, "ensemble": 3},
        "clean": {**PROMPT, "noise": "none", "t": 261},
        "mirrored": {**PROMPT, "mirror": True},
        "edges": {**CONTROL, "mirror": True},
    },
    "attention": {"words": {**PROMPT, "seed": 4, "ensemble": 3}},
}
DATA = {"dataset": {"name": "toyworld", "train": 2, "val": 0, "test": 1}}
UPS = ("up0", "up1", "up2", "up3")
Maps = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Roots, FeatureStore]:
    home = tmp_path_factory.mktemp("ensembles")
    roots = Roots(*(home / name for name in ("data", "models", "stores", "runs")))
    loaded = write(home / "toy.yaml", **COMBOS, **DATA)
    return loaded, roots, FeatureStore.open(extract(Workspace(loaded, roots, "cpu")).store)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return StableDiffusionPipeline.from_pretrained(HOME)


class Plain:
    """Passes of the unmodified UNet over a store's images, read by plain hooks."""

    def __init__(self, made: tuple[Loaded, Roots, FeatureStore], pipe: Any) -> None:
        loaded, roots, store = made
        data = open_dataset(loaded.manifest.dataset, roots)
        self.ids, self.pipe = store.samples.ids, pipe
        self.images = np.stack([data.image(i) for i in self.ids])

    @torch.no_grad()
    def latents(self, images: Any) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 127.5 - 1
        vae = self.pipe.vae
        found: torch.Tensor = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        return found

    def noised(self, x0: torch.Tensor, seed: int, t: int) -> torch.Tensor:
        abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t]
        eps = torch.stack([noise(seed, i, x0.shape[1:]) for i in self.ids])
        return abar.sqrt() * x0 + (1 - abar).sqrt() * eps

    @torch.no_grad()
    def maps(self, x: torch.Tensor, t: int, prompt: str = PROMPT["prompt"],
             edges: torch.Tensor | None = None) -> Maps:
        seen: Maps = {}
        hooks = [block.register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"up{i}": out}))
                 for i, block in enumerate(self.pipe.unet.up_blocks)]
        ids = ModelFiles("tiny", HOME).tokens.encode(prompt).ids
        states = self.pipe.text_encoder(torch.tensor(ids))[0].expand(len(x), -1, -1)
        more = {}
        if edges is not None:
            net = ControlNetModel.from_pretrained(CONTROLNETS["tiny"])
            down, mid = net(x, t, states, edges, return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        self.pipe.unet(x, t, states, **more)
        for hook in hooks:
            hook.remove()
        return seen


@pytest.fixture(scope="module")
def plain(made: tuple[Loaded, Roots, FeatureStore], pipe: Any) -> Plain:
    return Plain(made, pipe)


def assert_stored(view: Any, expected: Maps) -> None:
    for name in UPS:
        np.testing.assert_allclose(view[name][:].astype(np.float32), expected[name], rtol=2e-3,
                                   atol=2e-3, err_msg=name)


def test_an_ensemble_is_the_mean_of_single_passes(made: Any, plain: Plain) -> None:
    x0 = plain.latents(plain.images)
    each = [plain.maps(plain.noised(x0, seed, 50), 50) for seed in (4, 5, 6)]
    assert_stored(made[2]["one"], each[1])
    assert_stored(made[2]["mean"], {n: sum(m[n] for m in each) / 3 for n in UPS})  # type: ignore[misc]
    assert (each[0]["up2"] - each[1]["up2"]).abs().mean() > 0.01


def test_attention_of_an_ensemble_is_a_mean_too(made: Any) -> None:
    view = made[2]["words"]
    for name in view:
        np.testing.assert_allclose(view[name][:].astype(np.float32).sum(1), 1, atol=2e-2)


def test_without_noise_the_latent_itself_goes_in(made: Any, plain: Plain) -> None:
    """As CleanDIFT's published UNets are run: x_0, and a timestep that the UNet is told."""
    assert_stored(made[2]["clean"], plain.maps(plain.latents(plain.images), 261))


@pytest.fixture
def unet_file(roots: Roots) -> Path:
    """A UNet's weights alone, in diffusers' names, as CleanDIFT publishes them."""
    tensors = load_file(HOME / "unet" / "diffusion_pytorch_model.safetensors")
    tensors["conv_in.weight"] = tensors["conv_in.weight"].float() * 1.5
    roots.models.mkdir()
    save_file(tensors, roots.models / "clean.safetensors")
    return roots.models / "clean.safetensors"


def test_a_unet_published_alone_takes_the_place_of_the_sources(
    unet_file: Path, roots: Roots, manifest: WriteManifest, plain: Plain, made: Any,
) -> None:
    model = {"source": "tiny", "unet": unet_file.name}
    work = Workspace(manifest(model=model, conv={"clean": COMBOS["conv"]["clean"]}, attention={},
                              **DATA), roots, "cpu")
    assert validate(work).absent == []
    store = FeatureStore.open(extract(work).store)
    inner = plain.pipe.unet.conv_in.weight.data
    before = inner.clone()
    inner *= 1.5
    expected = plain.maps(plain.latents(plain.images), 261)
    inner.copy_(before)
    assert_stored(store["clean"], expected)
    assert store["clean"].attrs["model"] == "tiny with clean.safetensors"
    here, there = store["clean"].recipe, made[2]["clean"].recipe
    assert [k for k in here if here[k] != there[k]] == ["weights"]
    assert [k for k in here["weights"] if here["weights"][k] != there["weights"][k]] == ["unet"]
    unet_file.unlink()  # without it, combos are known by their settings
    assert [c.state for c in status(work).combos] == ["done"]
    plainly = Workspace(manifest(conv={"clean": COMBOS["conv"]["clean"]}, attention={},
                                 model={"source": "elsewhere/model"}, **DATA), roots)
    assert [c.state for c in status(plainly).combos] == ["stale"]


@pytest.mark.parametrize(("model", "said"), [
    ({"source": "tiny", "unet": "none.safetensors"}, "model.unet: .*no such file; put it there"),
    ({"source": "tiny", "unet": "clean.ckpt"}, "model.unet: .*expected a .safetensors file"),
    ({"source": "tiny", "unet": "../clean.safetensors"}, "model.unet: '../clean.safetensors'"),
    ({"source": "tiny", "unet": "part.safetensors"}, "part.safetensors: its weights have 3 down"),
    ({"source": "tiny", "unet": "other.safetensors"}, "1 tensor not part of its unet"),
])
def test_a_unet_that_does_not_fit_is_refused(
    unet_file: Path, roots: Roots, manifest: WriteManifest, model: dict[str, Any], said: str,
) -> None:
    whole = load_file(unet_file)
    part = {k: v for k, v in whole.items() if not k.startswith("down_blocks.3.")}
    save_file(part, roots.models / "part.safetensors")
    save_file({**whole, "strange.weight": whole["conv_in.weight"].clone()},
              roots.models / "other.safetensors")
    (roots.models / "clean.ckpt").touch()
    work = Workspace(manifest(model=model, attention={}, **DATA), roots, "cpu")
    with pytest.raises(UserError, match=said):
        extract(work)
    assert not roots.stores.exists()


def test_mirrored_maps_lie_as_the_image_does(made: Any, plain: Plain) -> None:
    """The picture is mirrored, encoded and noised; what is read off is mirrored back."""
    x0 = plain.latents(plain.images[:, :, ::-1])
    found = plain.maps(plain.noised(x0, 0, 50), 50)
    assert_stored(made[2]["mirrored"], {n: m.flip(-1) for n, m in found.items()})
    flipped = plain.latents(plain.images).flip(-1)
    assert (flipped - x0).abs().max() > 0.01  # why the mirrored picture is encoded itself


def test_techniques_see_the_mirrored_image(made: Any, plain: Plain) -> None:
    pictures = np.ascontiguousarray(plain.images[:, :, ::-1])
    edges = torch.from_numpy(np.stack([cv2.Canny(i, 100, 200) for i in pictures]))[:, None] / 255
    x = plain.noised(plain.latents(pictures), 0, 50)
    found = plain.maps(x, 50, "a photo", edges.expand(-1, 3, -1, -1))
    assert_stored(made[2]["edges"], {n: m.flip(-1) for n, m in found.items()})


def test_no_bit_depends_on_what_else_is_extracted(made: Any, roots: Roots,
                                                  manifest: WriteManifest) -> None:
    """Three noises in passes of two: an image's are split between passes in many ways."""
    for name in ("mean", "mirrored"):
        alone = manifest(conv={name: COMBOS["conv"][name]}, attention={}, **DATA,
                         store={"block": 3, "batch": 2, "path": f"{name}.zarr"})
        view = FeatureStore.open(extract(Workspace(alone, roots, "cpu")).store)[name]
        for each in UPS:
            assert view[each][:].tobytes() == made[2][name][each][:].tobytes()


def test_it_is_recomputed_to_the_bit(made: Any) -> None:
    found = recompute(Workspace(made[0], made[1], "cpu"), 2)
    assert found.equal and {c.name for c in found.combos} >= set(COMBOS["conv"])


def test_a_plan_counts_every_noise(made: Any) -> None:
    said = plan(Workspace(made[0], made[1]))
    each = {line.name: (line.unet_passes, line.controlnet_passes) for line in said.lines}
    assert each["mean"] == each["words"] == (9, 0) and each["one"] == (3, 0)
    assert each["edges"] == (3, 3)
    assert said.unet_passes == 3 * (3 + 1 + 1 + 1 + 1)  # mean and words are read off the same
    # seeds 5, 4 to 6, and 0 of the mirrored; none for the clean one
    assert (said.pieces.noised, said.pieces.encoded) == (4, 2)


def test_the_store_says_what_a_combo_is(made: Any) -> None:
    told = {n: v.recipe["settings"] for n, v in zip(made[2].combos, made[2].views(), strict=True)}
    assert told["mean"]["ensemble"] == 3 and told["mirrored"]["mirror"] is True
    assert told["clean"] == {"prompt": PROMPT["prompt"], "noise": "none", "t": 261}
    assert set(told["one"]) == {"prompt", "seed", "t"}  # as before there was a choice
    (view,) = [v for v in made[2].views() if v.label == "clean"]
    assert json.dumps(view.recipe)


def test_plan_inspect_and_show_say_it(made: Any, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gate_cache.report.terminal.grid.PLAIN_WIDTH", 200)
    show_plan(plan(Workspace(made[0], made[1])))
    show_store(inspect(made[2].path))
    out = capsys.readouterr().out
    for word in ("(mean of 3 noises)", "(no noise)", "(mirrored)", "6 images read and encoded",
                 "ensemble: 3", "noise: none", "mirror: True"):
        assert word in out
    (found,) = show(ShownImages(made[2], None), [made[2].samples.ids[0]])
    assert found.about["mean"] == "mean of 3 noises" and found.about["one"] == ""
    page(found)


def test_activations_are_of_one_pass(made: Any) -> None:
    work = Workspace(made[0], made[1], "cpu")
    mean, mirrored = activations(work, (), ["mean", "mirrored"])
    assert (mean.combo, mirrored.combo) == ("mean", "mirrored")
    np.testing.assert_array_equal(mirrored.image, mean.image[:, ::-1])


def test_scores_are_against_the_plain_feature_read_alike(made: Any) -> None:
    found = score_combos(Workspace(made[0], made[1], "cpu"),
                         Selection(combos=["mean", "clean", "mirrored"], count=1))
    rows = {row.name: row for row in found.rows}
    assert {"no technique", "no technique, no noise"} <= set(rows)
    assert rows["no technique, no noise"].t == 261
    assert all(rows[n].gain is not None for n in ("mean", "clean", "mirrored"))


def test_another_ensemble_is_another_combo(made: Any, tmp_path: Path) -> None:
    more = {**COMBOS["conv"], "mean": {**PROMPT, "seed": 4, "ensemble": 4}}
    loaded = write(tmp_path / "toy.yaml", **{**COMBOS, "conv": more}, **DATA)
    (found,) = [c for c in status(Workspace(loaded, made[1])).combos if c.state != "done"]
    assert (found.name, found.why) == ("mean", ["ensemble changed: 3 → 4"])


@pytest.mark.parametrize(("fields", "said"), [
    ({"noise": "none"}, "t: required with 'noise: none': the UNet's timestep"),
    ({"noise": "none", "t": 261, "seed": 1}, "seed: has no effect with 'noise: none'"),
    ({"noise": "none", "t": 261, "ensemble": 8}, "ensemble: is a mean over noises"),
    ({"noise": "none", "t": 20, "denoise": {"from": 60}}, "denoise: takes noise away"),
    ({"noise": "uniform"}, "noise: expected 'gaussian' or 'none'"),
    ({"ensemble": 0}, "ensemble: must be at least 1, got 0"),
    ({"ensemble": 1000}, "ensemble: must be at most 100, got 1000"),
    ({"ensemble": 2.5}, "ensemble: expected a whole number"),
    ({"mirror": "yes"}, "mirror: expected true or false"),
])
def test_what_makes_no_sense_is_refused(manifest: WriteManifest, fields: dict[str, Any],
                                        said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest(conv={"a": {"prompt": "x", **fields}}, attention={})
    (line,) = caught.value.problems
    assert f"conv.a.{said}" in line


@pytest.mark.parametrize(("combos", "said"), [
    ({"a": {"prompt": "x", "ensemble": 50}}, "conv.a.ensemble: 50 noises are 50 passes an image"),
    ({"a": {"prompt": "x", "ensemble": 8}, "b": {"prompt": "x", "ensemble": 8, "seed": 1}},
     "conv.b.seed: 7 of its 8 noises are those of 'a'"),
    ({"a": {"prompt": "the left paw", "mirror": True}}, "conv.a.prompt: says 'left'"),
    ({"a": {"prompt": "x", "lora": [{"source": "tiny/moderate"},
                                    {"source": "tiny/overfit", "scale": 0}]}},
     "conv.a.lora[1].scale: 0, so it has no effect"),
    ({"a": {"prompt": "x", "controlnet": {"source": "tiny", "scale": 0}}},
     "conv.a.controlnet.scale: 0, so"),
    ({"a": {"prompt": "x", "denoise": {"from": 60}, "guidance": {"scale": 2, "negative": "x"}}},
     "conv.a.guidance: with a scale of 1, or the prompt itself as 'negative', it has no effect"),
])
def test_what_is_improbable_is_told(manifest: WriteManifest, roots: Roots, combos: dict[str, Any],
                                    said: str) -> None:
    work = Workspace(manifest(conv=combos, attention={}), roots)
    for lines in (plan(work).notes, validate(work).data):
        assert len([line for line in lines if said in line]) == 1


def test_what_is_usual_is_not_told(made: Any) -> None:
    assert not [n for n in plan(Workspace(made[0], made[1])).notes if "conv." in n]
