"""What each way of storing maps costs in quality and saves in bytes: tiny, on toyworld.

    python -m benchmarks.encodings --plot docs/encodings.png
    python -m benchmarks.encodings --codecs    # bytes and speed of every codec, nothing trained

Maps are extracted once, in float32, and stored anew in each way. Quality: PCK of the head nn, and
mIoU of a linear probe of pixels (which category, or background). Speed: synthetic maps of Stable
Diffusion 1.5's sizes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from benchmarks.encodings_report import Row, plot, table
from gate_cache.core.codecs import Codec
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.toy import ToyWorld
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.fit.trial import Trial
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, build_model
from gate_cache.learn.tasks.matching import judge
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.report.terminal.console import console_progress
from gate_cache.store.format.codes import encode
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.samples import NewSample
from gate_cache.store.format.shards import compress, decompress
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.store.writer import open_writer
from gate_cache.toyworld.names import CATEGORIES
from gate_cache.training.inputs import TrainingInputs, open_any
from gate_cache.workspace.workspace import Workspace

ENCODINGS = [
    Encoding("float16"), Encoding("float32"), Encoding("bfloat16"), Encoding("int8"),
    Encoding("float16", codec=Codec.parse("zstd")), Encoding("bfloat16", codec=Codec.parse("zstd")),
    Encoding("int8", codec=Codec.parse("zstd")),
    *(Encoding("float16", bits, Codec.parse("zstd")) for bits in (7, 5, 3, 1)),
]
CODECS = [Encoding("float16"), *(Encoding("float16", bits, Codec.parse(codec))
                                 for bits in (None, 7, 5) for codec in (
    "zstd", "blosc", {"name": "blosc", "clevel": 5}, {"name": "blosc", "cname": "lz4"}, "lz4",
    *(["pcodec"] if find_spec("pcodec") else ())))]
"""Blosc shuffles bits."""
SD15 = {"up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64), "up3": (320, 64, 64)}
CLASSES = 1 + len(CATEGORIES)
PCK = 0.1, "image", "point"
DECAY = 1e-3
"""Of the linear probe's weights."""
Maps = dict[str, npt.NDArray[np.float32]]


def store_again(source: FeatureStore, path: Path, encoding: Encoding) -> FeatureStore:
    """All combos of a store, in another way."""
    table, attrs = source.samples, source.attrs
    with open_writer(path, attrs["dataset"], source.block, attrs["batch"]) as writer:
        rows = zip(table.ids, table.sha256, table.sizes.tolist(), strict=True)
        writer.append([NewSample(i, digest, *size) for i, digest, size in rows])
        for view in source.views():
            shapes = {name: view[name].shape[1:] for name in view}
            group = writer.require(view.label, view.recipe, shapes, encoding, view.attrs)
            group.fit()
            for block in group.todo():
                group.write(block, {n: view[n][block.start : block.stop] for n in view})
    return FeatureStore.open(path)


def shard_bytes(store: FeatureStore) -> int:
    """Bytes of all combos' maps on disk."""
    home = Path(str(store.path))
    files = [p for view in store.views() for name in view
             for p in (home / view.name).glob(f"{name}*/c*")]
    return sum(p.stat().st_size for p in files if p.is_file())


def errors(truth: FeatureStore, store: FeatureStore) -> tuple[float, float]:
    """Over all maps: rms error by rms value, and the largest error by the map's largest value."""
    found = [_errors(view[name][:], store[view.label][name][:])
             for view in truth.views() for name in view]
    return float(np.sqrt(np.mean([r**2 for r, _ in found]))), max(m for _, m in found)


def _errors(truth: npt.NDArray[Any], stored: npt.NDArray[Any]) -> tuple[float, float]:
    error = np.abs(stored.astype(np.float64) - truth)
    return (float(np.sqrt((error**2).mean() / (truth.astype(np.float64) ** 2).mean())),
            float(error.max() / np.abs(truth).max()))


def pck(study: TrainingInputs, seeds: int) -> dict[str, Any]:
    """PCK on the test split: of the single feature as it is, and of GATE for some seeds."""
    test = study.pairs["test"]
    single = judge(study.single(study.spec), study.features, test)
    gate = [judge(_trained(study, seed), study.features, test).values[PCK] for seed in range(seeds)]
    return {"single": single.values[PCK], "gate": float(np.mean(gate)), "gate of seeds": gate,
            "points": single.points}


def _trained(study: TrainingInputs, seed: int) -> CorrespondenceModel:
    """GATE of one seed, after its last step."""
    torch.manual_seed(seed)
    model = build_model(study.spec, study.features.channels)
    trial = Trial("GATE", study.spec.model_copy(update={"seed": seed}), lambda: model, study.task,
                  study.device)
    fit_trials([trial], study.task, False, FitSession(Silent()))
    return model


def probe(view: ComboView) -> float:
    """mIoU (%) of logistic regression on single pixels of a combo: train split to test split."""
    store = view.store
    buckets = Buckets(store, BucketSpec((view.name,)), torch.device("cpu"),
                      {i: r for r, i in enumerate(store.samples)})
    world = ToyWorld({})
    split = {s: [i for i in store.samples if i.startswith(f"{s}/")] for s in ("train", "test")}
    maps = {s: torch.stack([buckets.named(i).conv[0] for i in ids]) for s, ids in split.items()}
    labels = {s: torch.stack([_classes(world, i) for i in ids]) for s, ids in split.items()}
    mean = maps["train"].mean((0, 2, 3), keepdim=True)
    std = maps["train"].std((0, 2, 3), keepdim=True) + 1e-6
    maps = {s: (m - mean) / std for s, m in maps.items()}
    step = labels["train"].shape[-1] // buckets.resolution.width
    cells = labels["train"][:, step // 2 :: step, step // 2 :: step]
    weight, bias = _logistic(maps["train"].permute(0, 2, 3, 1).flatten(0, 2), cells.flatten())
    logits = torch.einsum("nchw,ck->nkhw", maps["test"], weight) + bias[:, None, None]
    found = F.interpolate(logits, labels["test"].shape[1:], mode="bilinear").argmax(1)
    return _miou(found.flatten(), labels["test"].flatten())


def _classes(world: ToyWorld, sample_id: str) -> torch.Tensor:
    """(h, w): 0 for the background, else the category and 1."""
    scene = world.scene(sample_id)
    return torch.from_numpy(scene.parts > 0) * (CATEGORIES.index(scene.category) + 1)


def _logistic(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.zeros(x.shape[1], CLASSES, requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> float:
        search.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + DECAY * weight.square().sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    search.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _miou(found: torch.Tensor, true: torch.Tensor) -> float:
    counts = torch.bincount(true * CLASSES + found, minlength=CLASSES**2).view(CLASSES, CLASSES)
    both = counts.diag()
    either = counts.sum(0) + counts.sum(1) - both
    return float(100 * (both[either > 0] / either[either > 0]).mean())


Speed = tuple[float, float, float, float]
"""Seconds of writing, of reading, and of the codec alone in reading; and bytes of a value."""


def speeds(folder: Path, rows: int, rounds: int,
           encodings: Sequence[Encoding] = ENCODINGS) -> dict[Encoding, Speed]:
    """Of writing, and of reading rows in random order (processor time, least of rounds)."""
    rng = np.random.default_rng(0)
    maps = {n: smooth(rng, (rows, *shape)) for n, shape in SD15.items()}
    order = rng.permutation(rows).tolist()
    took: dict[Encoding, list[Speed]] = {e: [] for e in encodings}
    for turn in range(rounds):
        for i, encoding in enumerate(encodings):
            took[encoding].append(_speed(folder / f"{turn}-{i}.zarr", encoding, maps, order))
    return {e: (*(min(some) for some in list(zip(*t, strict=True))[:3]), t[0][3])
            for e, t in took.items()}


def _speed(path: Path, encoding: Encoding, maps: Maps, order: list[int]) -> Speed:
    with open_writer(path, "toy", 8, 8) as writer:
        writer.append([NewSample(str(r), f"{r:064x}", 1, 1) for r in order])
        group = writer.require("a", {"kind": "conv"}, SD15, encoding, {})
        group.fit()

        def write() -> None:
            for block in group.todo():
                group.write(block, {n: m[block.start : block.stop] for n, m in maps.items()})

        written = seconds(write)
    view = FeatureStore.open(path)["a"]
    outs = {n: np.empty((1, *shape), view[n].dtype) for n, shape in SD15.items()}

    def read() -> None:
        for row in order:
            for name, out in outs.items():
                view[name].read_into([row], out)

    read()  # from here on the files are in memory, and their checksums compared
    size = shard_bytes(FeatureStore.open(path)) / sum(m.size for m in maps.values())
    found = written, seconds(read), _alone(encoding, maps), size
    shutil.rmtree(path)
    return found


def _alone(encoding: Encoding, maps: Maps) -> float:
    """Seconds in which the codec's library decompresses all rows, from memory to memory."""
    codec = encoding.codec
    if codec is None:
        return 0.0
    packed = [(compress(codec, row), np.empty_like(row)) for m in maps.values()
              for row in encode(encoding, m)[""]]

    def unpack() -> None:
        for chunk, out in packed:
            decompress(codec, memoryview(chunk), out)

    return seconds(unpack)


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Noise of two scales, with channels of different sizes."""
    coarse = torch.from_numpy(rng.standard_normal((*shape[:2], 8, 8), np.float32))
    fine = torch.from_numpy(rng.standard_normal(shape, np.float32))
    size = torch.from_numpy(rng.lognormal(0, 0.7, (1, shape[1], 1, 1)).astype(np.float32))
    return ((F.interpolate(coarse, shape[2:], mode="bilinear") + 0.3 * fine) * size).numpy()


def seconds(work: Callable[[], object]) -> float:
    """How much time of the processor it takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def manifest(test: int, store: dict[str, Any]) -> Loaded:
    """Three features of toyworld and their amalgamation, trained shortly."""
    of = {"t": 100, "prompt": "a photo of aeroplane, bird, boat, bottle, car, cat, chair, horse"}
    return Loaded(path=Path("encodings.yaml"), manifest=Manifest.model_validate({
        "dataset": {"name": "toyworld", "train": 96, "val": 0, "test": test},
        "model": {"source": "tiny"}, "store": {"block": 32, **store},
        "conv": {"prompt": of, "lora": {**of, "lora": {"source": "tiny/moderate"}},
                 "control": {**of, "controlnet": {"source": "tiny", "scale": 0.5}}},
        "train": {"attention": False, "hidden": 32, "steps": 40, "validate_steps": 40}}))


def judged(roots: Roots, truth: FeatureStore, encoding: Encoding, test: int, seeds: int) -> Row:
    """One way of storing: its bytes, errors and quality."""
    name = f"{encoding}.zarr"
    store = store_again(truth, Path(str(roots.stores)) / name, encoding)
    again = manifest(test, {"path": name, "dtype": encoding.dtype, "keep_bits": encoding.keep_bits,
                            "codec": encoding.codec and encoding.codec.to_json()})
    rms, most = errors(truth, store)
    study = open_any(Workspace(again, roots, "cpu"))
    assert isinstance(study, TrainingInputs)
    found = {"store": str(encoding), "bytes": shard_bytes(store), "rms": 100 * rms,
             "max": 100 * most, **pck(study, seeds),
             "miou": probe(store["prompt"])}
    print(json.dumps(found), file=sys.stderr)
    return found


def tell_codecs(rows: int, rounds: int) -> None:
    """A table of bytes, largest error and speeds, relative to raw float16."""
    with tempfile.TemporaryDirectory() as temp:
        took = speeds(Path(temp), rows, rounds, CODECS)
    base = took[CODECS[0]]
    print("| stored as | bytes | error | write | read | the codec alone |",
          "|---|---|---|---|---|---|", sep="\n")
    for encoding, (write, read, alone, size) in took.items():
        limit = f"{base[1] / alone:.2f}" if alone else ""
        print(f"| {encoding} | {size / base[3]:.2f} | {encoding.error} | {base[0] / write:.2f} |"
              f" {base[1] / read:.2f} | {limit} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="of the test split")
    parser.add_argument("--seeds", type=int, default=1, help="of GATE's training")
    parser.add_argument("--rows", type=int, default=8, help="images whose speed is measured")
    parser.add_argument("--rounds", type=int, default=3, help="of measuring speed")
    parser.add_argument("--plot", type=Path, help="a PNG to write")
    parser.add_argument("--codecs", action="store_true", help="their bytes and speed alone")
    args = parser.parse_args()
    if args.codecs:
        return tell_codecs(args.rows, args.rounds)
    with tempfile.TemporaryDirectory() as temp:
        roots = Roots(stores=Path(temp))
        exact = manifest(args.images, {"path": "exact.zarr", "dtype": "float32"})
        work = Workspace(exact, roots, progress=console_progress())
        truth = FeatureStore.open(extract(work).store)
        rows = [judged(roots, truth, e, args.images, args.seeds) for e in ENCODINGS]
    with tempfile.TemporaryDirectory() as temp:
        took = speeds(Path(temp), args.rows, args.rounds)
    base, whole = took[Encoding()], rows[0]["bytes"]
    for row, encoding in zip(rows, ENCODINGS, strict=True):
        write, read, _, _ = took[encoding]
        row |= {"bytes": row["bytes"] / whole, "write": base[0] / write, "read": base[1] / read}
    print(json.dumps(rows, indent=2))
    print(table(rows))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
