"""The command line: output for people and programs, exit codes, errors without tracebacks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import PROMPT, WriteManifest
from marks import marks_of

import gate_cache
from gate_cache import cli
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import CONTROLNETS
from gate_cache.manifest.load import Loaded

Toy = tuple[Loaded, Roots, Path]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, as the console script does."""
    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["gate-cache", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        return Ran(code if isinstance(code, int) else 0, *capsys.readouterr())
    return run


def places(roots: Roots, *names: str) -> list[object]:
    return [word for name in names for word in (f"--{name}", getattr(roots, name))]


def test_help_lists_the_commands(gate: Run) -> None:
    found = gate("--help")
    assert found.code == 0
    for command in ("validate", "plan", "extract", "status", "inspect", "train", "probe", "lora",
                    "caption", "verify", "diff", "prune"):
        assert command in found.out


def test_the_version_is_an_option_too(gate: Run) -> None:
    assert gate("--version").out == gate("version").out == f"{gate_cache.__version__}\n"


def test_help_tells_defaults_in_brackets(gate: Run) -> None:
    found = " ".join(gate("show", "--help").out.split())
    assert "[all]" in found and "[a GPU where there is one]" in found and "[<store>-" in found


def test_help_explains_arguments_and_keeps_brackets(gate: Run) -> None:
    words = " ".join(gate("extract", "--help").out.replace("│", " ").split())
    assert "The manifest, a YAML file." in words
    assert "[GATE_CACHE_DATA, else data/]" in words


def test_a_bad_manifest_shows_every_problem_and_no_traceback(gate: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("dataset: {name: toywrld}\nmodel: {source: tiny}\n"
                    "conv:\n  a: {promt: x}\n  a: {prompt: y, seed: -1}\n")
    for command in ("validate", "plan", "extract", "status", "train"):
        found = gate(command, path)
        assert found.code == 2
        assert "Traceback" not in found.err
        lines = found.err.splitlines()
        assert all(line.startswith("error: bad.yaml:") for line in lines)
        assert any("did you mean 'toyworld'?" in line for line in lines)
        assert any("key given twice" in line for line in lines)


def test_validate_says_what_is_not_here(gate: Run, roots: Roots, manifest: WriteManifest) -> None:
    loaded = manifest(dataset={"name": "pf-willow"}, model={"source": "org/sd"}, conv={
        "a": {**PROMPT, "lora": {"source": "x.safetensors"}}}, attention={})
    found = gate("validate", loaded.path, *places(roots, "data", "models"))
    assert found.code == 0
    assert "toy.yaml: valid, 1 combo\n" in found.out
    for word in ("PF-WILLOW not found", "x.safetensors", "org/sd"):
        assert word in found.out


def test_validate_of_what_cannot_run_says_not_ready(gate: Run, roots: Roots,
                                                    manifest: WriteManifest) -> None:
    net = roots.models / "union"
    net.mkdir(parents=True)
    (net / "config.json").write_text('{"_class_name": "ControlNetUnionModel"}')
    shutil.copy(CONTROLNETS["tiny"] / "diffusion_pytorch_model.safetensors", net)
    loaded = manifest(conv={"a": {**PROMPT, "controlnet": {"source": "union"}},
                            "b": {**PROMPT, "lora": {"source": "x.safetensors"}}}, attention={})
    for words in (("validate",), ("validate", "--json")):
        found = gate(*words, loaded.path, *places(roots, "data", "models"))
        assert found.code == 2 and ": valid," not in found.out + found.err
        wrong, absent = found.err.splitlines()
        assert wrong.startswith("error: toy.yaml: not ready: ")
        assert wrong.endswith("config.json: its class is ControlNetUnionModel; only"
                              " ControlNetModel is read here")
        assert absent.startswith("error: toy.yaml: not here yet: b.lora.source: ")
    assert gate("plan", loaded.path, *places(roots, "data", "models")).code == 2


def test_plan_as_a_table_and_as_json(gate: Run, toy: Toy) -> None:
    loaded, roots, _ = toy
    table = gate("plan", loaded.path, *places(roots, "stores")).out
    assert "model passes" in table
    assert "in all" in table
    data = json.loads(gate("plan", loaded.path, *places(roots, "stores"), "--json").out)
    assert data["images"] == 7
    assert data["unet_passes"] == 49
    assert data["bytes"] == sum(line["bytes"] for line in data["lines"])


def test_extract_that_has_nothing_to_do_says_so(gate: Run, toy: Toy) -> None:
    loaded, roots, _ = toy
    found = gate("extract", loaded.path, *places(roots, "stores"))
    assert found.code == 0
    assert "nothing to do: all 7 images" in found.out
    data = json.loads(gate("extract", loaded.path, *places(roots, "stores"), "--json").out)
    assert set(data["rows"].values()) == {0}


def test_status_as_a_table_and_as_json(gate: Run, toy: Toy) -> None:
    loaded, roots, _ = toy
    assert "7/7" in gate("status", loaded.path, *places(roots, "stores")).out
    data = json.loads(gate("status", loaded.path, *places(roots, "stores"), "--json").out)
    assert data["complete"]
    assert {c["state"] for c in data["combos"]} == {"done"}


def test_status_without_a_store(gate: Run, roots: Roots, manifest: WriteManifest) -> None:
    data = json.loads(gate("status", manifest().path, *places(roots, "stores"), "--json").out)
    assert not data["exists"]
    assert {c["state"] for c in data["combos"]} == {"missing"}


def test_inspect_shows_tree_settings_and_bytes(gate: Run, toy: Toy) -> None:
    text = gate("inspect", toy[2]).out
    for word in ("up2  7×64×16×16  float16", "attn2  7×77×8×8", "done: 7/7",
                 "prompt: a photo of a horse, high quality", "lora from: tiny/moderate",
                 "canny", "latents-", "blocks of 3"):
        assert word in text
    data = json.loads(gate("inspect", toy[2], "--json").out)
    assert len(data["groups"]) == 6
    assert all(g["missing"] == [] for g in data["groups"])


def test_inspect_names_missing_rows(gate: Run, toy: Toy, tmp_path: Path) -> None:
    import shutil

    store = shutil.copytree(toy[2], tmp_path / "copy.zarr")
    marks_of(store, "plain").write(1, 0)
    assert "done: 4/7, missing rows 3–5" in gate("inspect", store).out


def test_inspect_of_no_store(gate: Run, tmp_path: Path) -> None:
    found = gate("inspect", tmp_path)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: ")
    assert len(found.err.splitlines()) == 1


def test_train_prints_the_table_and_leaves_a_run(gate: Run, roots: Roots, tmp_path: Path,
                                                 manifest: WriteManifest,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = manifest(dataset={"name": "toyworld", "train": 16, "val": 0, "test": 16}, attention={},
                      conv={"a": PROMPT, "b": {**PROMPT, "seed": 1}},
                      store={"batch": 8, "block": 32})
    where = places(roots, "stores")
    assert gate("extract", loaded.path, *where).code == 0
    out = tmp_path / "my-run"
    found = gate("train", loaded.path, *where, "--out", out, "--steps", 1, "--head", "nn")
    assert found.code == 0
    for word in ("copy the position", "single feature: a", "GATE: 2 assigners", "split by image",
                 "original-image pixels", str(out)):
        assert word in found.out
    assert json.loads((out / "metrics.json").read_text())["head"] == "nn"
    few = ["probe", loaded.path, *where, "--split", "test", "--images", 4]
    ranked = json.loads(gate(*few, "--json").out)
    assert [t["task"] for t in ranked["tables"]] == [
        "correspondence", "segmentation", "classification"]
    assert "mean of 2" in gate(*few).out
    unseen = gate("probe", loaded.path, *where)
    assert unseen.code == 2 and "split 'val' has no images; pass --split test" in unseen.err

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gate_cache.analysis.probe.probe", interrupted)
    assert gate("probe", loaded.path, *where).err == (
        "error: interrupted; a probe keeps nothing; --images 100 takes less\n")


def test_train_without_a_store_says_how_to_get_one(gate: Run, roots: Roots,
                                                  manifest: WriteManifest) -> None:
    found = gate("train", manifest().path, *places(roots, "stores", "runs"))
    assert found.code == 2
    assert "gate-cache extract" in found.err
    assert not roots.runs.exists()


@pytest.mark.long
def test_lora_trains_one_that_extract_uses(gate: Run, roots: Roots,
                                           manifest: WriteManifest) -> None:
    combo = {"prompt": "a photo", "lora": {"source": "toy-lora.safetensors"}, "maps": ["up0"]}
    loaded = manifest(conv={"mine": combo}, attention={})
    words = ["lora", loaded.path, *places(roots, "data", "models", "stores"), "--steps", 2,
             "--save-at", 1, "--images", 9, "--rank", 2, "--batch", 1]
    found = gate(*words)
    assert found.code == 0
    assert found.out.splitlines() == [
        f"step 1: {roots.models / 'toy-lora-000001.safetensors'}",
        f"step 2: {roots.models / 'toy-lora.safetensors'}",
        "in a combo: lora: {source: toy-lora.safetensors}"]
    assert "note: only 4 different training images, 9 asked for" in found.err
    assert "step 2: loss 0." in found.err
    assert gate("extract", loaded.path, *places(roots, "models", "stores")).code == 0
    again = gate(*words)
    assert (again.code, again.out) == (2, "")
    assert again.err.startswith(f"error: {roots.models / 'toy-lora.safetensors'}: exists already")
    assert len(again.err.splitlines()) == 1


def test_lora_without_training_images(gate: Run, roots: Roots, manifest: WriteManifest) -> None:
    loaded = manifest(dataset={"name": "toyworld", "train": 0, "val": 0, "test": 3})
    found = gate("lora", loaded.path, *places(roots, "data", "models", "stores"))
    assert (found.code, found.err) == (
        2, "error: toyworld: no training images; a LoRA needs some\n")


def test_caption_without_its_model(gate: Run, roots: Roots, manifest: WriteManifest) -> None:
    found = gate("caption", manifest().path, *places(roots, "data", "models", "stores"))
    assert found.code == 2
    assert "Salesforce/blip-image-captioning-base: not on this machine" in found.err
    assert found.err.splitlines()[-1].startswith("error: ")


def test_caption_says_how_many(gate: Run, roots: Roots, manifest: WriteManifest) -> None:
    from test_captions import make_blip

    make_blip(roots.models / "blip")
    words = ["caption", manifest().path, *places(roots, "data", "models", "stores"), "--model",
             "blip"]
    path = roots.data / "captions" / "toy.jsonl"
    assert gate(*words).out == f"{path}: 7 images, 7 captioned now\n"
    assert gate(*words).out == (
        f"{path}: 7 images, 0 captioned now; remove the file to caption them again\n")


def test_a_wrong_option_is_refused_in_one_line(gate: Run, manifest: WriteManifest) -> None:
    found = gate("train", manifest().path, "--head", "nm")
    assert found.code == 2
    assert "did you mean 'nn'?" in found.err


def test_ctrl_c_is_one_line(gate: Run, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gate_cache.extraction.extract.extract", interrupted)
    found = gate("extract", toy[0].path)
    assert found.code == 130
    assert found.err.splitlines() == ["error: interrupted; finished blocks are kept, run the same"
                                      " command again to resume"]


def test_paths_that_leave_their_roots_are_refused_unasked(gate: Run, roots: Roots, tmp_path: Path,
                                                          manifest: WriteManifest) -> None:
    loaded = manifest(dataset={"name": "folder", "root": str(tmp_path / "pictures")})
    found = gate("plan", loaded.path, *places(roots, "data"))
    assert found.code == 2
    assert "is absolute" in found.err
    allowed = gate("plan", loaded.path, *places(roots, "data"), "--allow-outside")
    assert "image folder not found" in allowed.err


def test_progress_is_plain_lines_when_not_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from gate_cache.report.terminal.console import console_progress

    with console_progress().task("extracting", 4, "rows") as task:
        task.advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extracting: 0/4 rows"
    assert lines[-1].startswith("extracting: 4/4 rows, ")
    assert "rows/s" in lines[-1]


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (125, "2:05"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    from gate_cache.report.terminal.console import clock

    assert clock(seconds) == text


def test_json_is_what_every_reader_of_json_takes(capsys: pytest.CaptureFixture[str]) -> None:
    from gate_cache.commands.options import print_result

    values = {"box": float("nan"), "bounds": [float("-inf"), 1.5], "at": Path("a/b"), "ü": 3}
    print_result(values, print, True, more=float("inf"))
    text = capsys.readouterr().out
    assert "NaN" not in text and "Infinity" not in text and "ü" in text
    assert json.loads(text) == {"box": None, "bounds": [None, 1.5], "at": "a/b", "ü": 3,
                                "more": None}
