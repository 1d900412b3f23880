"""Extraction end to end: values, resuming, changes of the data set, and everything that fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import zarr
from conftest import CONTROL, PROMPT, TOY, WriteManifest
from diffusers import StableDiffusionPipeline
from marks import marked

from gate_cache import FeatureStore
from gate_cache.core.errors import (
    DataError,
    DiskError,
    ModelError,
    RowNotDone,
    StoreError,
    UserError,
)
from gate_cache.core.progress import stopping
from gate_cache.core.roots import Roots
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.embedded import HOME, LORAS
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.models.stable_diffusion import StableDiffusion
from gate_cache.diffusion.passes.noise import noise
from gate_cache.extraction.extract import extract
from gate_cache.extraction.inputs import ImageSource
from gate_cache.extraction.plan import plan
from gate_cache.extraction.status import status
from gate_cache.manifest.load import Loaded
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.places.disk import bytes_below
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import StoreWriter
from gate_cache.workspace.device import out_of_memory
from gate_cache.workspace.workspace import Workspace

Toy = tuple[Loaded, Roots, Path]
FOLDER: dict[str, Any] = {
    "dataset": {"name": "folder", "root": "photos"}, "attention": {}, "conv": {"plain": PROMPT},
}


def arrays(store: Path) -> dict[str, np.ndarray]:
    """Every array of a store, through plain zarr."""
    root = zarr.open_group(store, mode="r")
    return {f"{name}/{key}": np.asarray(array[:]) for name, group in root.groups()
            for key, array in group.arrays()}


def assert_same(a: Path, b: Path) -> None:
    left, right = arrays(a), arrays(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def photos(roots: Roots, count: int, size: int = 40) -> Path:
    """Write `count` photographs below the data root."""
    folder = roots.data / "photos" / "duck"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)
        if not (folder / f"{i:02}.png").exists():
            cv2.imwrite(str(folder / f"{i:02}.png"), pixels)
    return folder


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """A shell's background job begins with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_stored_maps_equal_a_pass_of_plain_diffusers(toy: Toy) -> None:
    """One row from scratch: picture, VAE mean, noise as defined, UNet with plain hooks."""
    loaded, roots, path = toy
    store = FeatureStore.open(path)
    ids = store.samples.ids[0:2]  # one pass is two images
    images = np.stack([open_dataset(loaded.manifest.dataset, roots).image(i) for i in ids])
    files = ModelFiles("tiny", HOME)
    pipe = StableDiffusionPipeline.from_pretrained(HOME)
    unet, vae, text = pipe.unet, pipe.vae, pipe.text_encoder
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[50]
    seen: dict[str, torch.Tensor] = {}
    for i, block in enumerate(unet.up_blocks):
        block.register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"up{i}": out}))
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        x0 = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        eps = torch.stack([noise(0, i, x0.shape[1:]) for i in ids])
        states = text(torch.tensor(files.tokens.encode(PROMPT["prompt"]).ids))[0]
        unet(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, 50, states.expand(2, -1, -1))
    (latents,) = store.latents()
    np.testing.assert_allclose(latents["x0"][0:2], x0, rtol=1e-5, atol=1e-6)
    for name, value in seen.items():
        stored = store["plain"][name][0:2].astype(np.float32)
        np.testing.assert_allclose(stored, value, rtol=2e-3, atol=2e-3, err_msg=name)


def test_attention_maps_sum_to_one_over_tokens(toy: Toy) -> None:
    view = FeatureStore.open(toy[2])["attn"]
    assert view.maps == ("attn1", "attn2")
    assert view.attrs["tokens"][:4] == ["<|startoftext|>", "a", "photo", "<|endoftext|>"]
    for name in view:
        np.testing.assert_allclose(view[name][:].astype(np.float32).sum(1), 1, atol=2e-2)


def test_combos_differ_and_seeds_differ(toy: Toy) -> None:
    store = FeatureStore.open(toy[2])
    values = [store[name]["up2"][:] for name in ("plain", "seed-1", "lora", "control")]
    for i, a in enumerate(values):
        for b in values[i + 1:]:
            assert np.abs(a.astype(np.float32) - b).mean() > 0.01


def test_the_plan_is_what_lands_on_disk(toy: Toy) -> None:
    loaded, roots, path = toy
    said = plan(Workspace(loaded, roots))
    assert said.files == sum(len(files) for _, _, files in os.walk(path))
    assert abs(said.bytes / bytes_below(path) - 1) < 0.02
    assert said.images == 7
    assert said.unet_passes == 7 * (4 + 3)


@pytest.mark.long
def test_what_combos_share_changes_no_byte(roots: Roots, manifest: WriteManifest,
                                           tmp_path: Path) -> None:
    """Passes, halves and batches are shared in one store, and nothing is in the other ones."""
    conv = {"plain": {"prompt": "a photo"}, "seed-1": {"prompt": "a photo", "seed": 1},
            "horse": PROMPT, "control": CONTROL}
    sections: dict[str, dict[str, Any]] = {"conv": conv, "attention": {"attn": CONTROL}}
    together = extract(Workspace(manifest("all.yaml", **sections), roots, "cpu")).store
    said = plan(Workspace(manifest("all.yaml", **sections), roots))
    assert (said.unet_passes, said.pieces.halves) == (7 * 4, 3)
    whole = {k: v for k, v in arrays(together).items() if not k.startswith("samples/")}
    for section, combos in sections.items():
        for name, combo in combos.items():
            one = {"conv": {}, "attention": {}, section: {name: combo}}
            alone = arrays(extract(Workspace(manifest(f"{name}.yaml", **one), roots, "cpu")).store)
            for key, value in alone.items():
                if not key.startswith("samples/"):
                    np.testing.assert_array_equal(value, whole.pop(key, value), err_msg=key)
    assert not [k for k in whole if not k.startswith("latents")]


def test_a_second_run_does_nothing(toy: Toy) -> None:
    loaded, roots, path = toy
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}
    again = extract(Workspace(loaded, roots, "cpu"))
    assert again.new_images == 0
    assert not any(again.rows.values())
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()} == before


def assert_goes_on(toy: Toy, roots: Roots) -> None:
    """A part is done; the rest and no more is computed, to the same bytes."""
    done = {c.name: c.done for c in status(Workspace(toy[0], roots)).combos}
    assert 0 < sum(done.values()) < 5 * 7, done
    result = extract(Workspace(toy[0], roots, "cpu"))
    assert {k: 7 - v for k, v in done.items()} == {k: result.rows[k] for k in done}
    assert_same(result.store, toy[2])


def test_an_interrupted_run_goes_on_and_ends_the_same(toy: Toy, roots: Roots,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = GroupWriter.write_stored, iter(range(100))

    def stop_at_fifth(self: GroupWriter, *args: Any) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(GroupWriter, "write_stored", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        extract(Workspace(toy[0], roots, "cpu"))
    monkeypatch.undo()
    assert_goes_on(toy, roots)


def test_ctrl_c_stops_after_a_pass_and_loses_no_other(
        toy: Toy, roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """In the middle of a block: what was computed of it is in the store."""
    from gate_cache.report.terminal.console import Lines

    passes, real = list[int](), StableDiffusion.predict

    def predict(self: StableDiffusion, *args: Any) -> torch.Tensor:
        passes.append(len(passes))
        if len(passes) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return real(self, *args)

    sections: dict[str, Any] = {"conv": {"plain": PROMPT}, "attention": {},
                                "store": {"block": 7, "batch": 2}}
    monkeypatch.setattr(StableDiffusion, "predict", predict)
    with pytest.raises(KeyboardInterrupt):
        extract(Workspace(manifest(**sections), roots, "cpu", Lines()))
    assert "stopping after this pass; Ctrl-C once more aborts at once" in capsys.readouterr().err
    assert len(passes) == 2
    (combo,) = status(Workspace(manifest(**sections), roots)).combos
    assert combo.done == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    result = extract(Workspace(manifest(**sections), roots, "cpu"))
    assert result.rows == {"latents": 0, "plain": 3}
    found, wanted = (FeatureStore.open(p)["plain"] for p in (result.store, toy[2]))
    for name in wanted:
        np.testing.assert_array_equal(found[name][:], wanted[name][:])


def test_ctrl_c_stops_between_batches_of_the_autoencoder_and_steps(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, encode, predict = list[str](), StableDiffusion.encode, StableDiffusion.predict

    def seen(name: str, real: Any, last: int) -> Any:
        def run(self: StableDiffusion, *args: Any) -> Any:
            calls.append(name)
            if calls.count(name) == last:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
            return real(self, *args)
        return run

    sections: dict[str, Any] = {
        "conv": {"plain": {**PROMPT, "denoise": {"from": 900, "steps": 50}}}, "attention": {},
        "store": {"block": 7, "batch": 2}}
    monkeypatch.setattr(StableDiffusion, "predict", seen("step", predict, 3))
    monkeypatch.setattr(StableDiffusion, "encode", seen("encode", encode, 2))
    with pytest.raises(KeyboardInterrupt):
        extract(Workspace(manifest(**sections), roots, "cpu"))
    assert calls == ["encode"] * 2
    calls[:] = ["encode"] * 2
    with pytest.raises(KeyboardInterrupt):
        extract(Workspace(manifest(**sections), roots, "cpu"))
    assert calls == [*["encode"] * 4, *["step"] * 3]


def test_a_second_ctrl_c_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    said, ended = list[str](), list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(KeyboardInterrupt), stopping(lambda: said.append("stop"), said.append):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    assert ended == [130] and [line[:7] for line in said[:3]] == ["stoppin", "stop", "aborted"]
    with ThreadPoolExecutor(1) as pool, stopping(lambda: None, said.append):
        def elsewhere() -> Any:
            with stopping(lambda: None, said.append):
                return signal.getsignal(signal.SIGINT)
        assert pool.submit(elsewhere).result() is signal.getsignal(signal.SIGINT)


@pytest.mark.long
def test_a_killed_run_goes_on_and_ends_the_same(toy: Toy, roots: Roots) -> None:
    """kill -9 as soon as the first blocks are done, in another process."""
    command = [sys.executable, "-m", "gate_cache.cli", "extract", str(toy[0].path),
               "--stores", str(roots.stores), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = roots.stores / "toy.zarr"
    while process.poll() is None and marked(store) < 4:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not status(Workspace(toy[0], roots)).complete
    assert_same(extract(Workspace(toy[0], roots, "cpu")).store, toy[2])


@pytest.mark.long
def test_two_at_once_share_the_work(toy: Toy, roots: Roots) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: extract(Workspace(toy[0], roots, "cpu")), range(2)))
    assert sorted(sum(b.rows.values()) for b in both) == [0, 42]
    assert_same(both[0].store, toy[2])


@pytest.mark.long
def test_new_combos_and_order_change_no_byte(toy: Toy, roots: Roots,
                                             manifest: WriteManifest) -> None:
    """One combo today, the others tomorrow, in another order."""
    combos = TOY["conv"]
    extract(Workspace(manifest(conv={"control": combos["control"]}, attention={}), roots, "cpu"))
    reordered = {name: combos[name] for name in reversed(combos)}
    result = extract(Workspace(manifest(conv=reordered), roots, "cpu"))
    assert result.rows["control"] == 0
    assert result.rows["latents"] == 0
    assert_same(result.store, toy[2])


@pytest.mark.long
def test_the_batch_size_changes_values_within_rounding(toy: Toy, roots: Roots) -> None:
    other = extract(Workspace(toy[0], roots, "cpu"), batch=3).store
    for name, value in arrays(toy[2]).items():
        if "/up" in name:
            found = arrays(other)[name].astype(np.float32)
            np.testing.assert_allclose(found, value.astype(np.float32), rtol=4e-3, atol=4e-3)


def test_an_edited_prompt_is_another_combo_and_status_says_why(
        toy: Toy, roots: Roots, manifest: WriteManifest) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    edited = manifest(conv={**TOY["conv"], "plain": {"prompt": "a boat"}})
    (found,) = [c for c in status(Workspace(edited, roots)).combos if c.state != "done"]
    assert (found.name, found.state) == ("plain", "stale")
    assert found.why == ['prompt changed: "a photo of a horse, high quality" → "a boat"']
    assert extract(Workspace(edited, roots, "cpu")).rows == {
        "latents": 0, "plain": 7, "seed-1": 0, "lora": 0, "control": 0, "attn": 0}


def test_images_added_later_are_all_that_is_computed(roots: Roots,
                                                     manifest: WriteManifest) -> None:
    loaded = manifest(**FOLDER)
    photos(roots, 4)
    extract(Workspace(loaded, roots, "cpu"))
    old = FeatureStore.open(roots.stores / "toy.zarr")["plain"]["up2"][:]
    photos(roots, 8)
    result = extract(Workspace(loaded, roots, "cpu"))
    assert (result.new_images, result.rows) == (4, {"latents": 4, "plain": 4})
    store = FeatureStore.open(result.store)
    np.testing.assert_array_equal(store["plain"]["up2"][:4], old)
    assert store["plain"].done().all()


def test_a_changed_image_gets_a_new_row(roots: Roots, manifest: WriteManifest) -> None:
    loaded = manifest(**FOLDER)
    folder = photos(roots, 3)
    extract(Workspace(loaded, roots, "cpu"))
    shutil.copy(folder / "00.png", folder / "02.png")
    result = extract(Workspace(loaded, roots, "cpu"))
    assert (result.new_images, result.rows["plain"]) == (1, 1)
    store = FeatureStore.open(result.store)
    assert store.samples.ids.count("duck/02.png") == 2
    assert store.samples.row("duck/02.png") == 3


def test_where_the_data_was_is_remembered_beside_the_store(roots: Roots, tmp_path: Path,
                                                          manifest: WriteManifest) -> None:
    photos(roots, 3)
    extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    elsewhere = Roots(tmp_path / "nothing", roots.models, roots.stores, roots.runs)
    found = status(Workspace(manifest(**FOLDER), elsewhere))
    assert found.complete
    assert f"taken from {roots.data}, where extract found it" in found.notes[0]
    shutil.rmtree(roots.data)
    with pytest.raises(DataError, match=f"{elsewhere.data}/photos: image folder not found"):
        status(Workspace(manifest(**FOLDER), elsewhere))


def test_touching_and_moving_files_recomputes_nothing(roots: Roots, tmp_path: Path,
                                                     manifest: WriteManifest) -> None:
    folder = photos(roots, 3)
    extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    os.utime(folder / "00.png", (1, 1))
    moved = Roots(tmp_path / "data2", roots.models, tmp_path / "stores2", roots.runs)
    shutil.move(roots.data, moved.data)
    shutil.move(roots.stores, moved.stores)
    again = manifest("renamed.yaml", **FOLDER, store={**TOY["store"], "path": "toy.zarr"})
    assert not any(extract(Workspace(again, moved, "cpu")).rows.values())


def more(manifest: WriteManifest) -> Loaded:
    return manifest(**{**FOLDER, "conv": {"plain": PROMPT, "control": CONTROL}})


def test_a_new_combo_leaves_out_rows_whose_image_is_gone(roots: Roots,
                                                        manifest: WriteManifest) -> None:
    """Neither are they computed from another content, nor do they stop the others."""
    folder = photos(roots, 5)
    extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    shutil.copy(folder / "00.png", folder / "02.png")
    (folder / "04.png").unlink()
    result = extract(Workspace(more(manifest), roots, "cpu"))
    assert result.rows == {"latents": 1, "plain": 1, "control": 4}
    store = FeatureStore.open(result.store)
    assert store["plain"].done().all()
    assert store["control"].done().tolist() == [True, True, False, True, False, True]
    for row in (2, 4):
        with pytest.raises(RowNotDone, match="its image was gone or changed"):
            store["control"]["up1"][row]
    assert not any(extract(Workspace(more(manifest), roots, "cpu")).rows.values())


def test_an_image_that_comes_back_is_computed_then(roots: Roots, manifest: WriteManifest,
                                                   tmp_path: Path) -> None:
    folder = photos(roots, 5)
    extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    shutil.move(folder / "04.png", tmp_path / "04.png")
    extract(Workspace(more(manifest), roots, "cpu"))
    shutil.move(tmp_path / "04.png", folder / "04.png")
    result = extract(Workspace(more(manifest), roots, "cpu"))
    assert result.rows == {"latents": 0, "plain": 0, "control": 2}  # its block of rows 3 and 4
    other = Roots(roots.data, roots.models, tmp_path / "fresh", roots.runs)
    straight = FeatureStore.open(extract(Workspace(more(manifest), other, "cpu")).store)
    again = FeatureStore.open(result.store)
    for name in again["control"]:
        np.testing.assert_array_equal(again["control"][name][:], straight["control"][name][:])


def test_fewer_images_in_the_manifest_leave_the_store_usable(
        toy: Toy, roots: Roots, manifest: WriteManifest) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    fewer = manifest(dataset={"name": "toyworld", "train": 2, "val": 0, "test": 3},
                     conv={"new": {"prompt": "a boat"}}, attention={})
    assert extract(Workspace(fewer, roots, "cpu")).rows == {"latents": 0, "new": 5}


def test_damaged_kept_rows_are_refused_not_marked_done_again(
        roots: Roots, manifest: WriteManifest) -> None:
    photos(roots, 4)
    store = extract(Workspace(manifest(**FOLDER), roots, "cpu")).store
    next(store.glob("plain-*/up1/c.1.0.0.0")).unlink()
    photos(roots, 5)
    with pytest.raises(StoreError, match="a finished block is missing or damaged"):
        extract(Workspace(manifest(**FOLDER), roots, "cpu"))


def test_what_a_store_keeps_to_is_said(toy: Toy, capsys: pytest.CaptureFixture[str],
                                       manifest: WriteManifest) -> None:
    from gate_cache.report.terminal.console import Lines

    changed = manifest(store={"block": 5, "batch": 4, "dtype": "float32", "path": "toy.zarr"})
    assert not any(extract(Workspace(changed, toy[1], "cpu", Lines())).rows.values())
    said = capsys.readouterr().err
    for words in ("blocks of 3", "batches of 2", "plain in float16"):
        assert words in said


def test_damaged_images_are_told_at_the_end_and_hold_up_no_other(
        roots: Roots, manifest: WriteManifest) -> None:
    folder = photos(roots, 4)
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    (folder / "03.png").write_text("no picture")
    result = extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    assert list(result.unread) == ["duck/01.png", "duck/03.png"]
    assert [i in why for i, why in result.unread.items()] == [True, True]
    assert result.rows == {"latents": 2, "plain": 2}
    store = FeatureStore.open(result.store)
    assert store.samples.ids == ("duck/00.png", "duck/02.png") and store["plain"].done().all()
    (folder / "01.png").write_bytes(whole)
    again = extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    assert (list(again.unread), again.rows["plain"]) == (["duck/03.png"], 1)


def test_a_damaged_image_ends_the_command_with_2(roots: Roots, manifest: WriteManifest,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    from gate_cache.commands.extraction import extract as command
    from gate_cache.commands.options import Machine

    (photos(roots, 3) / "01.png").write_text("no picture")
    loaded = manifest(**FOLDER)
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read and were left out") as told:
        command(loaded.path, on=Machine(roots.data, roots.models, str(roots.stores), roots.runs))
    assert told.value.exit_code == 2 and "01.png" in str(told.value)
    assert "extracted (images): plain 2" in capsys.readouterr().out


def test_an_image_that_goes_bad_after_it_was_registered_is_left_out(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = photos(roots, 4), ImageSource.image
    broken = ["duck/02.png"]

    def image(self: ImageSource, row: int) -> Any:
        if self.samples[row] in broken:
            raise DataError(f"{folder}/02.png: cannot be read")
        return real(self, row)

    monkeypatch.setattr(ImageSource, "image", image)
    result = extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    assert list(result.unread) == broken and result.rows["plain"] == 3
    store = FeatureStore.open(result.store)
    assert store["plain"].done().tolist() == [True, True, False, True]
    with pytest.raises(RowNotDone, match="its image was gone or changed"):
        store["plain"]["up1"][2]
    broken.clear()
    result = extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    assert not result.unread and FeatureStore.open(result.store)["plain"].done().all()


@pytest.mark.long
def test_extracting_begins_before_all_images_are_looked_at(
        roots: Roots, manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    """In rounds, the first one of two images: rows and values are those of one round."""
    photos(roots, 11)
    other = Roots(roots.data, roots.models, tmp_path / "rounds", roots.runs)
    at_once = extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    appended, real = list[int](), StoreWriter.append

    def append(self: StoreWriter, new: Any) -> Any:
        appended.append(len(new))
        return real(self, new)

    monkeypatch.setattr(StoreWriter, "append", append)
    monkeypatch.setattr("gate_cache.extraction.extract.FIRST", 2)
    result = extract(Workspace(manifest(**FOLDER), other, "cpu"))
    assert appended == [6, 5]  # blocks of three: 2 wait, 6 of 6, the rest
    assert (result.new_images, result.rows) == (11, at_once.rows)
    assert_same(result.store, at_once.store)
    assert (roots.data / "photos/duck/04.png").unlink() is None
    photos(roots, 13)  # 04.png is another picture now
    for place in (roots, other):
        extract(Workspace(more(manifest), place, "cpu"))
    assert_same(result.store, at_once.store)


def test_a_missing_data_set_is_named(roots: Roots, manifest: WriteManifest) -> None:
    with pytest.raises(DataError, match="photos: image folder not found"):
        extract(Workspace(manifest(**FOLDER), roots, "cpu"))
    assert not roots.stores.exists()


def test_every_missing_weight_is_named_at_once(roots: Roots, manifest: WriteManifest) -> None:
    combos = {"a": {"prompt": "a", "lora": {"source": "styles/dusk.safetensors"}},
              "b": {"prompt": "b", "controlnet": {"source": "nets/depth"}}}
    with pytest.raises(ModelError) as caught:
        extract(Workspace(manifest(conv=combos), roots, "cpu"))
    assert "styles/dusk.safetensors: no such LoRA file" in str(caught.value)
    assert "nets/depth" in str(caught.value)
    assert not roots.stores.exists()


def test_a_lora_file_below_the_models_root_is_used(roots: Roots, manifest: WriteManifest,
                                                   toy: Toy) -> None:
    (roots.models / "styles").mkdir(parents=True)
    shutil.copy(LORAS["tiny/moderate"], roots.models / "styles/moderate.safetensors")
    combos = {"lora": {"prompt": "a photo", "lora": {"source": "styles/moderate.safetensors"}}}
    result = extract(Workspace(manifest(conv=combos, attention={}), roots, "cpu"))
    np.testing.assert_array_equal(FeatureStore.open(result.store)["lora"]["up1"][:],
                                  FeatureStore.open(toy[2])["lora"]["up1"][:])


@pytest.mark.long
def test_a_full_disk_keeps_what_is_done(toy: Toy, roots: Roots,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = LocalFolder._name, iter(range(1000))

    def fill_up(self: LocalFolder, key: str, parts: Any) -> list[Path]:
        if "/up" in key and "/c." in key and next(calls) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, key, parts)

    monkeypatch.setattr(LocalFolder, "_name", fill_up)
    with pytest.raises(DiskError, match=r"toy\.zarr: the disk is full"):
        extract(Workspace(toy[0], roots, "cpu"))
    monkeypatch.undo()
    assert_goes_on(toy, roots)


def test_too_small_a_disk_is_refused_before_the_model_is_loaded(
        toy: Toy, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr("gate_cache.store.places.disk.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"needs .* but only 1\.0 kB are free"):
        extract(Workspace(toy[0], roots, "cpu"))


def test_values_beyond_float16_are_refused(toy: Toy, roots: Roots,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache.diffusion.passes.extractor import Extractor
    from gate_cache.diffusion.passes.pieces import Piece

    real = Extractor.run

    def large(*args: Any) -> Iterator[Piece]:
        for piece in real(*args):
            yield piece._replace(maps={n: m * 1e6 for n, m in piece.maps.items()})

    monkeypatch.setattr(Extractor, "run", large)
    with pytest.raises(StoreError, match=r"not finite; try float32 as store\.dtype"):
        extract(Workspace(toy[0], roots, "cpu"))


def test_a_device_that_is_not_there_is_named(toy: Toy, roots: Roots) -> None:
    with pytest.raises(UserError, match="--device nowhere: cannot be used here"):
        extract(Workspace(toy[0], roots, "nowhere"))


def test_a_map_the_model_lacks_is_named(roots: Roots, manifest: WriteManifest) -> None:
    combos = {"a": {"prompt": "a", "maps": ["up2", "up7"]}}
    with pytest.raises(ModelError, match="no map 'up7'"):
        extract(Workspace(manifest(conv=combos), roots, "cpu"))


def test_only_the_maps_that_are_wanted_are_stored(roots: Roots, manifest: WriteManifest,
                                                 toy: Toy) -> None:
    combos = {"plain": {**PROMPT, "maps": ["up2"]}}
    result = extract(Workspace(manifest(conv=combos, attention={}), roots, "cpu"))
    view = FeatureStore.open(result.store)["plain"]
    assert view.maps == ("up2",)
    np.testing.assert_array_equal(view["up2"][:], FeatureStore.open(toy[2])["plain"]["up2"][:])


def test_attention_maps_that_were_stored_by_default_once_can_be_kept(
        roots: Roots, manifest: WriteManifest) -> None:
    """Release 0.1 stored all; today's default leaves out those of the latent's own resolution."""
    names, few = ["attn1", "attn2", "attn3"], {"dataset": {**TOY["dataset"], "train": 1}}
    kept = manifest(conv={}, attention={"attn": {**PROMPT, "maps": names}}, **few)
    store = FeatureStore.open(extract(Workspace(kept, roots, "cpu")).store)
    now = Workspace(manifest(conv={}, attention={"attn": PROMPT}, **few), roots, "cpu")
    (found,) = status(now).combos
    assert found.state == "stale" and found.why == [
        'maps changed: ["attn1", "attn2", "attn3"] → ["attn1", "attn2"]',
        "'maps: [attn1, attn2, attn3]' in the combo keeps what is stored"]
    (old,) = store.views()
    (new,) = [v for v in FeatureStore.open(extract(now).store).views() if v.name != old.name]
    assert new.maps == ("attn1", "attn2")
    for name in new:
        np.testing.assert_array_equal(new[name][:], old[name][:])


@pytest.mark.mostly_long("error0-*")
@pytest.mark.parametrize(("batch", "says"), [
    (8, "memory is full: use --batch 4, or --batch auto; what is done is kept"),
    (1, "use a smaller model.size")])
@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_memory_that_is_full_is_one_line(toy: Toy, roots: Roots, monkeypatch: pytest.MonkeyPatch,
                                         error: Exception, batch: int, says: str) -> None:
    from gate_cache.diffusion.passes.extractor import Extractor

    def full(*args: Any) -> None:
        raise error

    monkeypatch.setattr(Extractor, "encode", full)
    with pytest.raises(UserError, match=re.escape(says)):
        extract(Workspace(toy[0], roots, "cpu"), batch=batch)


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory("less"):
        raise RuntimeError("shape mismatch")
