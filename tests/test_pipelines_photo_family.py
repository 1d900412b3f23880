"""The family for photographs: ControlNet, LoRAs, files and figures, all of it in a few steps."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from gate_cache.diffusion.models.embedded import HOMES
from pipelines.tiny import controlnet, loras, measure, photo_family, photographs
from pipelines.tiny.loop import generator

KINDS = {"photographs": 4, "toyworld": 3, "cifar": 3}


def picture(shade: int) -> bytes:
    """A square on a ground of this shade."""
    buffer, image = io.BytesIO(), Image.new("RGB", (64, 64), (shade,) * 3)
    image.paste((255, 255 - shade, 0), (20, 20, 44, 44))
    image.save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def archives(tmp_path: Path) -> tuple[Path, Path]:
    """Tiny ImageNet of two classes, CIFAR-10 of two; every picture of a shade of its own."""
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as files:
        files.writestr("classes.tsv", "wnid\tname\nn1\tEgyptian cat\nn2\tpole\n")
        for split in ("train", "val"):
            for n, wnid in enumerate(("n1", "n2")):
                for i in range(5):
                    files.writestr(f"{split}/{wnid}/{i:03}.jpg", picture(40 * i + 20 * n))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as files:
        for split in ("train", "test"):
            for n, name in enumerate(("cat", "frog")):
                for i in range(3):
                    files.writestr(f"{split}/{name}/{i:04}.jpg", picture(60 * i + 30 * n))
    return tmp_path / "t.zip", tmp_path / "c.zip"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few pictures and one step; the family goes elsewhere."""
    monkeypatch.setattr(photographs, "COUNTS", KINDS)
    monkeypatch.setattr(photographs, "CLASSES", 2)
    monkeypatch.setattr(photo_family, "SEEN", KINDS)
    monkeypatch.setattr(photo_family, "HOME", tmp_path / "home")
    monkeypatch.setattr(photo_family, "CONTROL", replace(controlnet.PLAN, steps=1))
    monkeypatch.setattr(loras, "COUNT", 4)
    monkeypatch.setattr(measure, "TIMES", (500,))
    monkeypatch.setattr(measure, "STEPS", 2)
    monkeypatch.setattr(photo_family, "COUNT", 3)
    plan = photo_family.recipe("dusk").plan
    monkeypatch.setattr(photo_family, "recipe", lambda style: loras.Recipe(
        2, replace(plan, stage=style, steps=1)))


def test_latents_pictures_and_words_of_a_batch_belong_together(
        archives: tuple[Path, Path], tmp_path: Path) -> None:
    data = photographs.datasets(tmp_path, *archives)
    x0, pixels, words = photo_family.controls(data, *archives)(generator("test", 0))
    assert len(x0) == len(pixels) == len(words) == 32
    of_photographs = pixels[:18, 0, 0, 0]
    assert set(of_photographs.tolist()) == {0, 20, 40, 60}
    again = measure.load(HOMES["tiny"]).vae
    with torch.no_grad():
        z = again.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    expected = z.latent_dist.mode() * again.config.scaling_factor
    assert float((x0 - expected.clamp(-127 / 32, 127 / 32)).abs().max()) < 1 / 32  # 8 bits
    for shade, said in zip(of_photographs, words, strict=False):
        assert said in ("", "a photo", "a photo of an egyptian cat" if shade in (0, 40)
                        else "a photo of a pole")


@pytest.mark.slow
def test_a_family_is_trained_written_and_measured(
        archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", [
        "photo_family", str(HOMES["tiny"]), "--work", str(tmp_path / "work"),
        "--tiny-imagenet", str(archives[0]), "--cifar", str(archives[1])])
    photo_family.main()
    home = tmp_path / "home"
    found = json.loads((home / "figures.json").read_text())
    assert f"{home}: " in capsys.readouterr().out
    assert found["text_effect"].keys() == KINDS.keys()
    assert found["loras"]["sketch"]["sketch"].keys() == {
        "train", "val", "train_change_percent", "val_change_percent"}
    pipe = StableDiffusionPipeline.from_pretrained(home)
    pipe.load_lora_weights(home / "loras", weight_name="sketch.safetensors")
    net = load_file(home / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert float(net["controlnet_mid_block.weight"].abs().max()) > 0  # it was zero before


def test_a_sketch_is_lines_on_paper() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[16:48, 16:48] = 80
    drawn = photo_family.sketch(image)
    assert drawn.shape == image.shape and np.array_equal(drawn[..., 0], drawn[..., 2])
    rim, face, ground = drawn[20:44, 16], drawn[28:36, 28:36], drawn[:8]
    assert rim.max() < 200 and face.min() == ground.min() == 255  # lines where it gets darker
