"""One pass from the noised input to the output: every level seen, the model left as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate_cache import FeatureStore
from gate_cache.analysis.activations import activations
from gate_cache.cli import main
from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots
from gate_cache.diffusion.passes.hooks import tapped
from gate_cache.extraction.passes import chosen_combos, open_passes
from gate_cache.learn.features.pca import ColourPCA
from gate_cache.manifest.load import Loaded
from gate_cache.report.figures.show import pass_page
from gate_cache.workspace.pick import one, pick
from gate_cache.workspace.workspace import Workspace

Toy = tuple[Loaded, Roots, Path]
LEVELS = {"down0": (32, 8, 8), "down1": (64, 4, 4), "down2": (96, 2, 2), "down3": (128, 2, 2),
          "mid": (128, 2, 2), "up0": (128, 4, 4), "up1": (96, 8, 8), "up2": (64, 16, 16),
          "up3": (32, 16, 16)}


def test_levels_come_in_the_order_of_the_pass(toy: Toy) -> None:
    loaded, roots, _ = toy
    (found,) = activations(Workspace(loaded, roots), combos=["control"])
    assert {n: level.shape for n, level in found.levels.items()} == LEVELS
    assert list(found.levels) == list(LEVELS)
    assert (found.t, found.combo) == (50, "control")
    assert found.latents.shape == found.noise.shape == (4, 16, 16)


def test_up_levels_are_the_maps_of_the_store(toy: Toy) -> None:
    """The pass that is shown is the one that extract reads."""
    loaded, roots, path = toy
    (found,) = activations(Workspace(loaded, roots), combos=["control"])
    store = FeatureStore.open(path)
    row = store.samples.row(found.id)
    for name in ("up0", "up2"):
        kept = np.asarray(store["control"][name][row], np.float32)
        apart = found.levels[name].colours.astype(int) - ColourPCA(kept)(kept)
        assert np.abs(apart).max() <= 2  # float16 in the store


def test_the_image_is_seen_through_the_noise(toy: Toy) -> None:
    """Of one pass at a small t, the denoised picture is nearer to the image than the noised one."""
    loaded, roots, _ = toy
    (found,) = activations(Workspace(loaded, roots))
    noised, clean = (np.square(p.astype(float) - found.image).mean()
                     for p in (found.noised, found.clean))
    assert clean < noised < 3000


def test_the_model_is_restored(toy: Toy) -> None:
    loaded, roots, _ = toy
    work = Workspace(loaded, roots)
    dataset, combos = work.dataset(), chosen_combos(work, ["plain"])
    with open_passes(work, combos, dataset, [dataset.samples()[0].id]) as passes:
        unet = passes.extractor.model.unet
        with pytest.raises(RuntimeError, match="stop"), tapped(
                unet, passes.family.levels) as taps:
            unet(torch.zeros(1, 4, 16, 16), 50, encoder_hidden_states=torch.zeros(1, 77, 64))
            assert list(taps.take()) == list(LEVELS)
            raise RuntimeError("stop")
        assert not any(m._forward_hooks for m in unet.modules())


def test_every_image_and_combo_has_a_page(toy: Toy) -> None:
    loaded, roots, _ = toy
    ids = [s.id for s in Workspace(loaded, roots).dataset().samples()][:2]
    found = list(activations(Workspace(loaded, roots), ids, ["plain", "lora", "attn"]))
    assert {(f.id, f.combo) for f in found} == {(i, c) for i in ids
                                                for c in ("plain", "lora", "attn")}
    assert pass_page(found[0]).shape[1] > 900


@pytest.mark.parametrize("asked, said", [
    (["--image", "nowhere"], "toy.yaml: 'nowhere' is not an image of its data set"),
    (["--combo", "plan"], r"has no combo 'plan' \(did you mean 'plain'\?\)"),
    (["--token", "horse"], "--token is for attention maps"),
])
def test_bad_input_is_a_line(toy: Toy, asked: list[str], said: str,
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, toy, str(toy[0].path), *asked) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    with pytest.raises(UserError, match=said):
        raise UserError(errors)


def test_a_store_alone_cannot_run_a_model(toy: Toy, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, toy, str(toy[2])) == 2
    assert "needs the manifest" in capsys.readouterr().err


def test_the_command(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(monkeypatch, toy, str(toy[0].path), "--out", str(tmp_path))
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == tmp_path and path.name.endswith("-plain-activations.png")
    with Image.open(path) as picture:
        assert picture.width > 900


def run(monkeypatch: pytest.MonkeyPatch, toy: Toy, *words: str) -> int:
    roots = toy[1]
    monkeypatch.setattr("sys.argv", ["gate-cache", "show", *words, "--activations",
                                     "--stores", str(roots.stores), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_images_are_drawn_or_picked_by_name() -> None:
    ids = [f"train/{i:02}" for i in range(10)]
    drawn = pick(ids, [], 4, "m", "it")
    assert len(set(drawn)) == 4 and drawn == sorted(drawn) == pick(ids, [], 4, "m", "it")
    assert pick(ids, [], 99, "m", "it") == ids
    assert pick(ids, ["07", "train/03", "07"], 4, "m", "it") == ["train/07", "train/03"]
    with pytest.raises(UserError, match="'train' fits 10 images"):
        one(ids, "train", "m", "it")
    with pytest.raises(UserError, match="has no images"):
        pick([], [], 4, "m", "it")
