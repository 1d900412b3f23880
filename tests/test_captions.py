"""Captions: the file, and captioning with BLIP and Kosmos-2, small and with random weights."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WriteManifest
from safetensors.torch import load_file, save_file
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    XLMRobertaTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from gate_cache.core.errors import DataError, DiskError, ModelError, UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.captions import (
    Caption,
    append_captions,
    read_captions,
    write_captions,
)
from gate_cache.datasets.common.images import Image
from gate_cache.datasets.toy import ToyWorld
from gate_cache.extraction.captions.caption import caption
from gate_cache.extraction.captions.captioner import Captioner, find_captioner, open_captioner
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded
from gate_cache.workspace.workspace import Workspace

A, B = "a" * 64, "b" * 64
CPU = torch.device("cpu")
LINES = [Caption("x/1.png", A, "a horse, \"running\""), Caption("x/2.png", B, "ein Pferd – schön")]


# ------------------------------------------------------------------------------ the file

def test_captions_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep/c.jsonl"
    append_captions(path, LINES[:1])
    append_captions(path, LINES[1:])
    found = read_captions(path)
    assert found == {line.id: line.caption for line in LINES}
    assert found.sha256 == {"x/1.png": A, "x/2.png": B}
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert first == {"id": "x/1.png", "sha256": A, "caption": 'a horse, "running"'}


def test_ids_are_taken_as_paths(tmp_path: Path) -> None:
    lines = [{"id": i, "sha256": A, "caption": "x"} for i in ("./x/1.png", "x\\2.png", "x//3.png")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_captions(tmp_path / "c.jsonl")) == ["x/1.png", "x/2.png", "x/3.png"]


def test_a_caption_is_checked_against_its_image(tmp_path: Path) -> None:
    write_captions(tmp_path / "c.jsonl", LINES)
    found = read_captions(tmp_path / "c.jsonl")
    assert found.check("x/1.png", A) == 'a horse, "running"'
    with pytest.raises(DataError, match=r"'x/1\.png' has changed since it was captioned"):
        found.check("x/1.png", B)
    with pytest.raises(DataError, match=r"'x/3\.png' has no caption; run 'gate-cache caption'"):
        found.check("x/3.png", A)


@pytest.mark.parametrize("torn", [b'{"id": "x/3.png", "sha', '{"id": "ö'.encode()[:-1], b"\0\0"])
def test_a_torn_last_line_is_not_counted(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "c.jsonl"
    write_captions(path, LINES)
    path.write_bytes(path.read_bytes() + torn)
    assert list(read_captions(path)) == ["x/1.png", "x/2.png"]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    write_captions(path, LINES)
    path.write_bytes(b"\n" + path.read_bytes().rstrip(b"\n"))
    assert list(read_captions(path)) == ["x/1.png", "x/2.png"]


GOOD = json.dumps({"id": "x", "sha256": A, "caption": "c"})


@pytest.mark.parametrize(("line", "reason"), [
    ("{", "c.jsonl:2: Expecting"),
    ("[]", "c.jsonl:2: not a JSON object"),
    (GOOD.replace("caption", "captoin"), "c.jsonl:2: unknown field 'captoin' .did you mean"),
    ('{"id": "y", "sha256": "' + A + '"}', "c.jsonl:2: 'caption' is missing or not a string"),
    (GOOD.replace('"c"', "3"), "c.jsonl:2: 'caption' is missing or not a string"),
    (GOOD.replace(A, "abc"), "c.jsonl:2: 'sha256' is not 64 hex digits"),
    (GOOD, "c.jsonl:2: 'x' has a caption already, in line 1"),
])
def test_errors_name_the_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DataError, match=reason):
        read_captions(path)


def test_a_file_that_is_not_utf8_or_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(GOOD.encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"c\.jsonl:2: 'utf-8' codec"):
        read_captions(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match=r"d\.jsonl: no captions here; write them with"):
        read_captions(tmp_path / "d.jsonl")


# ------------------------------------------------------------------------------ the models

WORDS = ["a", "photo", "of", "horse", "cat", "red", "blue", "running", "with", "hat"]


def make_blip(folder: Path) -> Path:
    """BLIP in its published layout: BERT's vocabulary, and a begin token beyond it."""
    folder.mkdir(parents=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512,
        "processor_class": "BlipProcessor"}))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor",
        "do_resize": True, "do_normalize": True, "resample": 3, "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28], "size": {"height": 32, "width": 32}}))
    text = {"vocab_size": len(vocab) + 1, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 96,
            "bos_token_id": len(vocab), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
              "initializer_range": 0.5}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(
        text_config={**text, "initializer_range": 0.5}, vision_config=vision, projection_dim=16))
    with torch.no_grad():  # never the token that ends it, so that there is something to read
        model.text_decoder.cls.predictions.bias[3] = -100
    model.save_pretrained(folder)
    return folder


def make_kosmos(folder: Path) -> Path:
    """Kosmos-2 with its own processor: XLM-R's kind of tokenizer, tags and places in the image."""
    vocab = [(w, 0.0) for w in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [(f"<image_{i}>", -20.0) for i in range(64)]
    vocab += [(f"▁{w}", -2.0) for w in ("An", "image", *WORDS)]
    vocab += [(c, -5.0) for c in "▁abcdefghijklmnopqrstuvwxyzAI."]
    images = CLIPImageProcessorPil(size={"shortest_edge": 28},
                                   crop_size={"height": 28, "width": 28})
    processor = Kosmos2Processor(images, XLMRobertaTokenizer(vocab=vocab), num_patch_index_tokens=4)
    processor.save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({  # as published
        **tokenizer, "tokenizer_class": "XLMRobertaTokenizer"}))
    text = {"vocab_size": len(processor.tokenizer), "embed_dim": 16, "layers": 1, "ffn_dim": 32,
            "attention_heads": 2, "max_position_embeddings": 256, "init_std": 0.5}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(1)
    Kosmos2ForConditionalGeneration(
        Kosmos2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models root with a BLIP and a Kosmos-2."""
    root = tmp_path_factory.mktemp("models")
    make_blip(root / "blip")
    make_kosmos(root / "microsoft" / "kosmos-2-patch14-224")
    return root


def some_images() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (64, 32))]


def test_blip_gives_sentences_of_its_words(models: Path) -> None:
    captioner = open_captioner("blip", models / "blip", CPU)
    found = captioner.captions(some_images())
    assert len(found) == 2
    assert all(text and set(text.split()) <= {*WORDS, "[UNK]"} for text in found)
    assert captioner.captions(some_images()[1:]) == found[1:]


def test_blip_is_what_transformers_makes_of_it(models: Path) -> None:
    """Against the library's own classes, without our loader."""
    from transformers import BlipProcessor

    processor = BlipProcessor.from_pretrained(models / "blip")
    model = BlipForConditionalGeneration.from_pretrained(models / "blip").eval()
    inputs = processor(images=some_images(), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    expected = [" ".join(t.split()) for t in processor.batch_decode(ids, skip_special_tokens=True)]
    assert open_captioner("blip", models / "blip", CPU).captions(some_images()) == expected


def test_kosmos_is_asked_and_its_marks_are_taken_out(models: Path) -> None:
    source = "microsoft/kosmos-2-patch14-224"
    captioner = open_captioner(source, find_captioner(source, None, Roots(models=models)), CPU)
    for text in captioner.captions(some_images()):
        assert text.startswith("An image of")
        assert len(text) > len("An image of")
        assert "<grounding>" not in text
        assert "<image" not in text.split("An image of")[0]


def test_weights_that_are_missing_are_refused(models: Path, tmp_path: Path) -> None:
    folder = make_blip(tmp_path / "blip")
    state = load_file(folder / "model.safetensors")
    state.pop(next(k for k in state if "vision" in k and "layers.0" in k))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight of .* not in the file: vision"):
        open_captioner("blip", folder, CPU)


def test_pickled_weights_are_not_read(roots: Roots) -> None:
    folder = roots.models / "blip"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"only pickled weights .* put \*\.safetensors there"):
        find_captioner("blip", None, roots)


def test_a_captioner_that_is_nowhere_is_one_line(roots: Roots) -> None:
    with pytest.raises(ModelError, match=r"org/none: .* put its files into .* \*\.safetensors"):
        find_captioner("org/none", None, roots)


def test_a_path_out_of_the_models_root_is_refused(roots: Roots, models: Path) -> None:
    with pytest.raises(UserError, match=r"--model: .* is absolute"):
        find_captioner(str(models / "blip"), None, roots)


@pytest.mark.parametrize("lacks", ["preprocessor_config.json", "vocab.txt", "config.json"])
def test_a_folder_that_is_not_whole_says_what_is_expected(tmp_path: Path, lacks: str) -> None:
    folder = make_blip(tmp_path / "blip")
    (folder / lacks).unlink()
    with pytest.raises(ModelError, match="expected a captioner of the transformers library"):
        open_captioner("blip", folder, CPU).captions(some_images())


# ------------------------------------------------------------------------------ the command

def by_size(self: Captioner, images: list[Any]) -> list[str]:
    return [f"mean {image.mean():.3f}" for image in images]


class Stops(Silent):
    """Stops the captioning after its first batch, as Ctrl-C does."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        with super().task(label, total, unit) as task:
            yield self if label == "captioning" else task

    def advance(self, n: int = 1) -> None:
        raise KeyboardInterrupt


def run(loaded: Loaded, models: Path, roots: Roots, **more: Any) -> Any:
    places = Roots(roots.data, models, roots.stores, roots.runs)
    work = Workspace(loaded, places, "cpu", more.pop("progress", Silent()))
    return caption(work, model="blip", batch=2, **more)


def test_every_image_gets_a_caption(manifest: WriteManifest, models: Path, roots: Roots) -> None:
    loaded = manifest()
    found = run(loaded, models, roots)
    assert (found.path, found.images, found.new) == (roots.data / "captions/toy.jsonl", 7, 7)
    data = ToyWorld({"train": 4, "val": 0, "test": 3})
    captions = read_captions(found.path)
    assert list(captions) == [s.id for s in data.samples()]
    assert all(captions.check(i, data.sha256(i)) for i in captions)
    before = found.path.read_bytes()
    assert run(loaded, models, roots).new == 0
    assert found.path.read_bytes() == before


def test_captions_go_where_the_manifest_looks_for_them(
        manifest: WriteManifest, models: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Captioner, "captions", by_size)
    loaded = manifest(captions="mine.jsonl", attention={}, conv={
        "a": {"prompt": "{caption}, high quality", "maps": ["up0"]}})
    assert run(loaded, models, roots).path == roots.data / "mine.jsonl"
    assert extract(Workspace(loaded, roots, "cpu")).rows["a"] == 7
    assert run(loaded, models, roots, out="other.jsonl").path == roots.data / "other.jsonl"


def test_an_interrupted_run_goes_on_and_leaves_the_same_file(
        manifest: WriteManifest, models: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Captioner, "captions", by_size)
    loaded = manifest()
    whole = run(loaded, models, roots, out="whole.jsonl").path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(loaded, models, roots, progress=Stops())
    path = roots.data / "captions/toy.jsonl"
    assert len(read_captions(path)) == 2
    path.write_bytes(path.read_bytes() + b'{"id": "train/')
    assert run(loaded, models, roots).new == 5
    assert path.read_bytes() == whole


def test_changed_images_are_captioned_again(manifest: WriteManifest, models: Path, roots: Roots,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Captioner, "captions", by_size)
    folder = roots.data / "images"
    folder.mkdir(parents=True)
    for name, grey in (("a", 10), ("b", 20), ("c", 30)):
        Image.new("RGB", (8, 8), (grey,) * 3).save(folder / f"{name}.png")
    loaded = manifest(dataset={"name": "folder", "root": "images"})
    path = run(loaded, models, roots).path
    Image.new("RGB", (8, 8), (90,) * 3).save(folder / "a.png")
    (folder / "c.png").rename(roots.data / "c.png")
    assert run(loaded, models, roots).new == 1
    assert read_captions(path) == {"a.png": "mean 90.000", "b.png": "mean 20.000",
                                   "c.png": "mean 30.000"}
    (roots.data / "c.png").rename(folder / "c.png")
    assert run(loaded, models, roots).new == 0


def test_a_full_disk_is_one_line(manifest: WriteManifest, models: Path, roots: Roots,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Captioner, "captions", by_size)
    monkeypatch.setattr("gate_cache.datasets.common.captions.os.fsync", full)
    with pytest.raises(DiskError, match="the disk is full; free some space and run the same"):
        run(manifest(), models, roots)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=["cuda", "cpu"])
def test_full_memory_is_one_line(manifest: WriteManifest, models: Path, roots: Roots,
                                 monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", full)
    with pytest.raises(UserError, match="memory is full: use a smaller --batch"):
        run(manifest(), models, roots)


def test_a_captioner_that_is_not_found_leaves_no_file(manifest: WriteManifest,
                                                      roots: Roots) -> None:
    with pytest.raises(ModelError):
        caption(Workspace(manifest(), roots, "cpu"), model="org/none")
    assert not roots.data.exists()
