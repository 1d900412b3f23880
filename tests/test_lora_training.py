"""Training a LoRA: what it is trained on, what its file says, going on, and being refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPT, WriteManifest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from gate_cache.core.errors import DataError, DiskError, ModelError, UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.base import Pair, Split
from gate_cache.datasets.common.captions import Caption, Captions, write_captions
from gate_cache.datasets.common.images import Image
from gate_cache.datasets.folder import ImageFolder
from gate_cache.datasets.toy import ToyWorld
from gate_cache.diffusion.lora.adapters import Loras
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.loading import load
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.extraction.extract import extract
from gate_cache.extraction.lora import train as stage
from gate_cache.extraction.lora.files import (
    LoraOutput,
    parse_steps,
    read_metadata,
    write_tensors,
)
from gate_cache.extraction.lora.images import tags, training_images
from gate_cache.extraction.lora.train import TrainedLora, train_lora
from gate_cache.extraction.lora.trainer import NAME, Adapter, LoraSettings, LoraTrainer
from gate_cache.manifest.load import Loaded
from gate_cache.store.reader import FeatureStore
from gate_cache.workspace.workspace import Workspace

TINY = ModelFiles("tiny", HOME)
CPU = torch.device("cpu")
SMALL = LoraSettings(rank=2, alpha=1.0, batch=2)


class Told(Silent):
    """Remembers what is said; stops the training in its `stop`-th step, as Ctrl-C does."""

    def __init__(self, stop: int = 0) -> None:
        self.said: list[str] = []
        self._stop = stop

    def say(self, line: str) -> None:
        self.said.append(line)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        with super().task(label, total, unit) as task:
            yield self if label == "training" else task

    def advance(self, n: int = 1) -> None:
        self._stop -= n
        if self._stop == 0:
            raise KeyboardInterrupt



def model(**changes: Any) -> Backbone:
    return replace(load(TINY, CPU, torch.float32), **changes)


def train(loaded: Loaded, roots: Roots, settings: LoraSettings = SMALL, steps: int = 2,
          **more: Any) -> TrainedLora:
    work = Workspace(loaded, roots, "cpu", more.pop("progress", Silent()))
    asked = {name: more.pop(name) for name in ("images", "captions") if name in more}
    return train_lora(work, settings, LoraOutput(steps, **more), **{"images": 3, **asked})


@pytest.fixture
def toyworld(manifest: WriteManifest) -> Loaded:
    """A manifest whose only combo uses the LoRA that is to be trained."""
    combo = {"prompt": "a photo", "lora": {"source": "toy-lora.safetensors"}, "maps": ["up1"]}
    return manifest(conv={"mine": combo, "plain": {"prompt": "a photo", "maps": ["up1"]}},
                    attention={})


# ------------------------------------------------------------------------------ the adapter

@pytest.fixture(scope="module")
def trained() -> tuple[Backbone, Adapter]:
    """An adapter of rank 4 and alpha 1 with large random weights that float16 holds exactly."""
    backbone = model()
    adapter = Adapter(backbone, 4, 1.0, 0, text=True)
    g = torch.Generator().manual_seed(0)
    for part in ("unet", "text_encoder"):
        for weight in adapter.parameters(part).values():
            weight.data = (0.2 * torch.randn(weight.shape, generator=g)).half().float()
    return backbone, adapter


def outputs(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Text states of a prompt, and what the UNet makes of them."""
    with torch.no_grad():
        text = backbone.embed("a photo of a horse").states
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        return text, backbone.unet(x, torch.tensor(50), encoder_hidden_states=text).sample


def written(adapter: Adapter, path: Path) -> Path:
    write_tensors(path, adapter.tensors(), adapter.metadata())
    return path


@pytest.mark.long
def test_our_loras_apply_the_file_as_it_was_trained(trained: tuple[Backbone, Adapter],
                                                    tmp_path: Path) -> None:
    fresh = model()
    before = outputs(fresh)
    loras = Loras(fresh)
    loras.load("d", "a.safetensors", written(trained[1], tmp_path / "a.safetensors"))
    with loras.active([("d", 1.0)]):
        found = outputs(fresh)
    for plain, ours, theirs in zip(before, found, outputs(trained[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, plain, atol=0.05)


def test_diffusers_applies_the_file_as_it_was_trained(trained: tuple[Backbone, Adapter],
                                                      tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(HOME, safety_checker=None)
    written(trained[1], tmp_path / "a.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    loaded = replace(model(), unet=pipe.unet, text_encoder=pipe.text_encoder)
    for ours, theirs in zip(outputs(loaded), outputs(trained[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_its_metadata_alpha_would_be_lost(trained: tuple[Backbone, Adapter],
                                                  tmp_path: Path) -> None:
    fresh, loras = (backbone := model()), Loras(backbone)
    save_file(trained[1].tensors(), tmp_path / "a.safetensors")
    loras.load("d", "a.safetensors", tmp_path / "a.safetensors")
    with loras.active([("d", 1.0)]):
        assert not torch.allclose(outputs(fresh)[1], outputs(trained[0])[1], atol=0.05)


def test_attention_and_convolutions_get_pairs_and_text_only_if_asked() -> None:
    names = set(Adapter(model(), 1, 1.0, 0, text=True).tensors())
    for part in ("attn1.to_q", "attn2.to_out.0", "ff.net.2", "proj_in", "resnets.0.conv2",
                 "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"):
        assert any(part in name for name in names), part
    assert "text_encoder.text_model.encoder.layers.1.mlp.fc2.lora_B.weight" in names
    assert not any("conv_in" in name or "conv_out" in name for name in names)
    assert not any("text" in name for name in Adapter(model(), 1, 1.0, 0, text=False).tensors())


def test_a_fresh_adapter_changes_nothing_and_is_drawn_by_its_seed() -> None:
    backbone = model()
    plain = outputs(backbone)
    first = Adapter(backbone, 2, 1.0, 0, text=True).tensors()
    for found, expected in zip(outputs(backbone), plain, strict=True):
        assert torch.equal(found, expected)
    other = Adapter(model(), 2, 1.0, 1, text=False).tensors()
    key = next(k for k in other if "lora_A" in k)
    assert first[key].std() == pytest.approx(other[key].std().item(), rel=0.3)
    assert not torch.equal(first[key], other[key])


# ------------------------------------------------------------------------------ the steps

def trainer(backbone: Backbone, settings: LoraSettings = SMALL, images: int = 3,
            latents: torch.Tensor | None = None) -> LoraTrainer:
    if latents is None:
        latents = torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    tokens = [[backbone.tokens.encode(c).ids[0] for c in ("", "horse", "a photo of a horse")]]
    adapter = Adapter(backbone, settings.rank, settings.alpha, settings.seed, text=True)
    return LoraTrainer(backbone, adapter, latents, torch.tensor(tokens * images), settings)


def test_all_layers_but_the_first_the_last_and_those_of_the_time_are_trained() -> None:
    backbone = model()
    layers = [m for part in (backbone.unet, backbone.text_encoder) for m in part.modules()
              if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    found = trainer(backbone)
    for _ in range(3):
        found.advance()
    second = {n: p for part in (backbone.unet, backbone.text_encoder)
              for n, p in part.named_parameters() if f"lora_B.{NAME}" in n}
    assert len(second) == len(layers) - 4
    assert [n for n, p in second.items() if not p.any()] == []


@pytest.mark.long
def test_training_lowers_the_loss_on_its_images() -> None:
    """The same draws for both: those of steps that training has not seen."""
    backbone = model()
    found = trainer(backbone, LoraSettings(rank=4, alpha=4, lr=1e-2, text_lr=1e-3, batch=2), 1)

    def judged() -> float:
        with torch.no_grad():
            losses = []
            for step in range(1000, 1004):
                found.step = step
                losses.append(found._loss(found._batch()).item())
        return float(np.mean(losses))

    before = judged()
    found.step = 0
    for _ in range(6):
        found.advance()
    assert judged() < 0.9 * before


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_unet_should_predict(prediction: str) -> None:
    """With latents of zero, noise and velocity follow from what the UNet is given."""
    backbone = model(prediction_type=prediction)
    found = trainer(backbone, latents=torch.zeros(3, 4, 16, 16))
    kept = backbone.alphas_cumprod

    def perfect(x: torch.Tensor, t: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        a = kept[t].view(-1, 1, 1, 1)
        noise = x / (1 - a).sqrt()
        return (noise if prediction == "epsilon" else a.sqrt() * noise,)

    backbone.unet = perfect
    assert found._loss(found._batch()).item() < 1e-9


def test_velocity_is_noise_less_what_is_kept_of_the_image() -> None:
    """At the last times hardly any image is left, so that velocity is its negative."""
    backbone = model(prediction_type="v_prediction", alphas_cumprod=torch.zeros(1000))
    latents = torch.ones(3, 4, 16, 16)
    found = trainer(backbone, latents=latents)
    backbone.unet = lambda x, t, **_: (-latents[:2],)
    assert found._loss(found._batch()).item() == 0


def test_another_kind_of_prediction_is_refused() -> None:
    with pytest.raises(ModelError, match="predicts 'sample'"):
        trainer(model(prediction_type="sample"))


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    backbone = model()
    found = trainer(backbone, latents=torch.full((3, 4, 16, 16), float("nan")))
    with pytest.raises(ModelError, match=r"nan at step 1; try a smaller --lr"):
        found.advance()


def test_all_images_are_seen_in_turn() -> None:
    found = trainer(model(), replace(SMALL, batch=2), images=5)
    seen = []
    for step in range(15):
        found.step = step
        seen += found._images()
    turns = [seen[i : i + 5] for i in range(0, 30, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


@pytest.mark.long
def test_frozen_weights_may_be_bfloat16(toyworld: Loaded, roots: Roots) -> None:
    half = toyworld.manifest.model.model_copy(update={"dtype": "float16"})
    loaded = toyworld.model_copy(update={
        "manifest": toyworld.manifest.model_copy(update={"only": half})})
    found = train(loaded, roots)
    told = json.loads(read_metadata(found.paths[2])["gate_cache"])
    assert told["recipe"]["compute"] == "bfloat16"
    assert all(t.isfinite().all() for t in load_file(found.paths[2]).values())


# ------------------------------------------------------------------------------ images, captions

def test_images_are_of_the_training_split_chosen_by_the_seed() -> None:
    data = ToyWorld({"train": 20, "val": 20, "test": 20})
    first, again, other = (training_images(data, 8, s, None, Silent()) for s in (0, 0, 1))
    assert len({i.id for i in first}) == 8
    assert all(i.id.startswith("train/") for i in first)
    assert first == again
    assert {i.id for i in first} != {i.id for i in other}
    assert first[0].sha256 == data.sha256(first[0].id)


def test_no_two_training_images_have_the_same_content(tmp_path: Path) -> None:
    for name, grey in (("a", 10), ("b", 10), ("c", 90)):
        Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / f"{name}.png")
    told = Told()
    found = training_images(ImageFolder(tmp_path), 3, 0, None, told)
    assert {i.id for i in found} in ({"a.png", "c.png"}, {"b.png", "c.png"})
    assert told.said == ["note: only 2 different training images, 3 asked for: all are used"]
    assert {i.sentence for i in found} == {"a photo"}


def test_without_training_images_it_says_so() -> None:
    with pytest.raises(DataError, match="toyworld: no training images"):
        training_images(ToyWorld({"test": 3}), 3, 0, None, Silent())


def test_sentences_are_of_the_captions_file_where_it_fits(tmp_path: Path) -> None:
    data = ToyWorld({"train": 8})
    ids = [s.id for s in data.samples()]
    lines = [Caption(ids[0], data.sha256(ids[0]), "an aeroplane over a field"),
             Caption(ids[1], "0" * 64, "something that was there before")]
    told = Told()
    found = {i.id: i for i in training_images(data, 8, 0, Captions(tmp_path / "c", lines), told)}
    assert found[ids[0]].captions == ("", "aeroplane, over, field", "an aeroplane over a field")
    assert "7 of 8 images have none there, or have changed since" in told.said[0]


def test_plain_sentences_name_the_category() -> None:
    data = ToyWorld({"train": 16})
    found = {i.id: i.sentence for i in training_images(data, 16, 0, None, Silent())}
    assert found["train/horse/00007"] == "a photo of a horse"
    assert found["train/aeroplane/00000"] == "a photo of an aeroplane"


def test_an_image_that_is_a_target_alone_has_its_category() -> None:
    class Listed(ToyWorld):
        def pairs(self, split: Split | None) -> list[Pair]:
            return [Pair("train/car/00004", "train/car/00012", "car")]

    found = training_images(Listed({"train": 16}), 16, 0, None, Silent())
    assert {i.id: i.sentence for i in found if i.sentence != "a photo"} == {
        "train/car/00004": "a photo of a car", "train/car/00012": "a photo of a car"}


def test_categories_of_pf_willow_lose_their_letter(willow: Path) -> None:
    from gate_cache.datasets.pf_willow import PFWillow

    data = PFWillow(willow / "PF-dataset-WILLOW")
    found = training_images(data, 30, 0, None, Silent())
    assert len({i.sha256 for i in found}) == 30
    assert {data.split_of(i.id) for i in found} == {"train"}
    assert {"a photo of a car", "a photo of a duck"} <= {i.sentence for i in found}


@pytest.mark.parametrize(("sentence", "expected"), [
    ("a photo of a red horse, high quality", "photo, red, horse, high, quality"),
    ("The dog's bowl beside the dog's bowl", "dog's, bowl, beside"), ("", ""),
])
def test_tags_are_the_words_that_say_something(sentence: str, expected: str) -> None:
    assert tags(sentence) == expected


# ------------------------------------------------------------------------------ the command

@pytest.mark.long
def test_the_lora_is_used_by_extract(toyworld: Loaded, roots: Roots) -> None:
    found = train(toyworld, roots, replace(SMALL, lr=1e-2), steps=3)
    assert (found.source, found.images) == ("toy-lora.safetensors", 3)
    assert found.paths == {3: roots.models / "toy-lora.safetensors"}
    assert {p.name for p in roots.models.iterdir()} == {"toy-lora.safetensors"}
    store = FeatureStore.open(extract(Workspace(toyworld, roots, "cpu")).store)
    assert not np.allclose(store["mine"]["up1"][:], store["plain"]["up1"][:], atol=1e-2)


@pytest.mark.long
def test_an_interrupted_training_gives_the_same_bytes(toyworld: Loaded, roots: Roots,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in step 4 of 4, with a checkpoint after 2 and a LoRA wanted after 3."""
    monkeypatch.setattr(stage, "CHECKPOINT_EVERY", 2)
    whole = train(toyworld, roots, steps=4, save_at=[3], out="whole.safetensors")
    again = train(toyworld, roots, steps=4, save_at=[3], out="again.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(toyworld, roots, steps=4, save_at=[3], out="cut.safetensors", progress=Told(stop=4))
    assert not (roots.models / "cut.safetensors").exists()
    told = Told()
    cut = train(toyworld, roots, steps=4, save_at=[3], out="cut.safetensors", progress=told)
    assert "resuming at step 2" in told.said
    for step in (3, 4):
        expected = whole.paths[step].read_bytes()
        assert again.paths[step].read_bytes() == expected
        assert cut.paths[step].read_bytes() == expected
    assert not list(roots.models.glob(".*"))


@pytest.mark.long
def test_a_lora_saved_on_the_way_is_that_of_a_shorter_training(toyworld: Loaded,
                                                               roots: Roots) -> None:
    long = train(toyworld, roots, steps=3, save_at=[2], out="long.safetensors")
    short = train(toyworld, roots, steps=2, out="short.safetensors")
    assert long.paths[2].name == "long-000002.safetensors"
    assert long.paths[2].read_bytes() == short.paths[2].read_bytes()
    assert long.paths[3].read_bytes() != long.paths[2].read_bytes()


@pytest.mark.long
def test_a_checkpoint_of_another_training_is_not_taken(toyworld: Loaded, roots: Roots,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHECKPOINT_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        train(toyworld, roots, steps=4, progress=Told(stop=3))
    other = replace(SMALL, rank=3)
    with pytest.raises(UserError, match=r"differs \(rank changed: 2 → 3\).*--force"):
        train(toyworld, roots, other, steps=4)
    with pytest.raises(UserError, match="it is past step 1, at 2"):
        train(toyworld, roots, steps=4, save_at=[1])
    checkpoint = roots.models / ".toy-lora.checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="it is not readable"):
        train(toyworld, roots, steps=4)
    checkpoint.write_bytes(whole)
    told = Told()
    found = train(toyworld, roots, other, steps=2, force=True, progress=told)
    assert not any("resuming" in line for line in told.said)
    assert load_file(found.paths[2])[next(iter(load_file(found.paths[2])))].shape[0] == 3


@pytest.mark.long
def test_files_that_exist_are_kept_unless_forced(toyworld: Loaded, roots: Roots) -> None:
    first = train(toyworld, roots)
    before = first.paths[2].read_bytes()
    with pytest.raises(UserError, match=r"toy-lora\.safetensors: exists already; .*--force"):
        train(toyworld, roots)
    other = replace(SMALL, seed=1)
    with pytest.raises(UserError, match=r"toy-lora\.safetensors: exists already"):
        train(toyworld, roots, other)
    assert first.paths[2].read_bytes() == before
    train(toyworld, roots, other, force=True)
    assert first.paths[2].read_bytes() != before


def test_a_strange_file_is_not_written_over_on_the_way(toyworld: Loaded, roots: Roots) -> None:
    roots.models.mkdir()
    strange = roots.models / "toy-lora-000001.safetensors"
    strange.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"toy-lora-000001\.safetensors: exists already"):
        train(toyworld, roots, save_at=[1])
    assert strange.read_bytes() == b"mine"


def test_the_file_says_how_it_was_trained_and_no_path(toyworld: Loaded, roots: Roots) -> None:
    found = train(toyworld, roots, images=2)
    metadata = read_metadata(found.paths[2])
    told = json.loads(metadata["gate_cache"])
    assert told["step"] == 2
    assert told["recipe"]["settings"]["alpha"] == 1.0
    assert len(told["recipe"]["images"]) == 2
    assert str(roots.models.parent) not in str(metadata)


def test_captions_of_over_75_tokens_are_cut_and_that_is_said(toyworld: Loaded,
                                                             roots: Roots) -> None:
    data = ToyWorld({"train": 4, "val": 0, "test": 3})
    lines = [Caption(s.id, data.sha256(s.id), "a horse " * 50) for s in data.samples()]
    write_captions(roots.data / "captions/toy.jsonl", lines)
    told = Told()
    train(toyworld, roots, progress=told, steps=1)
    assert "note: captions of 3 images are longer than 75 tokens and are cut there" in told.said
    assert any("captions from" in line for line in told.said)


def test_a_captions_file_that_is_asked_for_must_be_there(toyworld: Loaded, roots: Roots,
                                                         manifest: WriteManifest) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl: no captions here"):
        train(toyworld, roots, captions="mine.jsonl")
    with pytest.raises(DataError, match=r"named\.jsonl: no captions here"):
        train(manifest(captions="named.jsonl"), roots)


@pytest.mark.long
def test_images_are_squashed_or_padded_as_the_manifest_says(manifest: WriteManifest,
                                                            roots: Roots) -> None:
    folder = roots.data / "images"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "wide.png")
    found = {}
    for fit in ("squash", "pad"):
        loaded = manifest(dataset={"name": "folder", "root": "images"}, attention={},
                          model={"source": "tiny", "fit": fit})
        path = train(loaded, roots, steps=1, images=1, out=f"{fit}.safetensors").paths[1]
        assert json.loads(read_metadata(path)["gate_cache"])["recipe"]["fit"] == fit
        found[fit] = load_file(path)
    key = next(k for k in found["pad"] if "lora_B" in k)
    assert not torch.equal(found["pad"][key], found["squash"][key])


@pytest.mark.long
def test_a_full_disk_is_one_line_and_leaves_no_half_file(toyworld: Loaded, roots: Roots,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gate_cache.core.replacing.os.fsync", full)
    with pytest.raises(DiskError, match="the disk is full; free some space and run the same"):
        train(toyworld, roots)
    assert list(roots.models.iterdir()) == []


def test_full_memory_is_one_line(toyworld: Loaded, roots: Roots,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: LoraTrainer) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LoraTrainer, "advance", full)
    with pytest.raises(UserError, match="memory is full: use a smaller --batch or --rank"):
        train(toyworld, roots)


def test_a_model_that_is_not_here_is_said(manifest: WriteManifest, roots: Roots) -> None:
    loaded = manifest(model={"source": "org/sd"}, conv={"a": PROMPT}, attention={})
    with pytest.raises(ModelError, match=r"org/sd: not on this machine"):
        train(loaded, roots)


@pytest.mark.parametrize(("given", "text"), [
    ({"out": "a.bin"}, r"--out a\.bin: give the file the ending \.safetensors"),
    ({"out": "../a.safetensors"}, "climbs out"),
    ({"save_at": [2]}, "--save-at 2: expected a step before the last, which is 2"),
])
def test_wrong_options_are_refused(toyworld: Loaded, roots: Roots, given: dict[str, Any],
                                   text: str) -> None:
    with pytest.raises(UserError, match=text):
        train(toyworld, roots, **given)


def test_steps_with_commas() -> None:
    assert parse_steps("500, 1000") == [500, 1000]
    assert parse_steps(None) == []
    with pytest.raises(UserError, match="--save-at soon: expected steps with commas"):
        parse_steps("soon")
