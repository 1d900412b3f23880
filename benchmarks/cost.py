"""What one image costs: processor time, memory and bytes of a model at one size.

    python -m benchmarks.cost MODELS --model sd-1.5 --size 512
    python -m benchmarks.cost MODELS --model sdxl-base --size 1024

Writes the published architecture with random weights to MODELS, where it is not there yet (2 GB in
bfloat16 for sd-1.5, 7 GB for sdxl-base): the cost of a pass does not depend on the weights. One
combo, a prompt without techniques, all maps of the up blocks, images one at a time, one thread, so
that processor seconds are seconds on a free core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.extract import images, size_of
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.published import published
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import Manifest
from gate_cache.text.tokens import BOS, EOS, read_tokens
from gate_cache.workspace.workspace import Workspace

PIPELINES = {"sd-1.5": "StableDiffusionPipeline", "sdxl-base": "StableDiffusionXLPipeline"}
TEXTS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


class Clock(Silent):
    """Processor and wall seconds of the work, without loading."""

    processor = wall = 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Any]:
        processor, wall = time.process_time(), time.perf_counter()
        with super().task(label, total, unit) as task:
            yield task
        if label == "extracting":
            self.processor = time.process_time() - processor
            self.wall = time.perf_counter() - wall


def write(name: str, folder: Path) -> None:
    """Write a published architecture with random weights, in bfloat16."""
    spec, classes = published(name), {"unet": ["diffusers", "UNet2DConditionModel"]}
    _save(UNet2DConditionModel, spec["unet"], folder / "unet")
    _save(AutoencoderKL, spec["vae"], folder / "vae")
    tokens = read_tokens(HOME / "tokenizer")
    for part, cls in TEXTS.items():
        if part in spec:
            own = {"vocab_size": len(tokens.vocab), "bos_token_id": tokens.vocab[BOS],
                   "eos_token_id": tokens.vocab[EOS]}
            _save(cls, CLIPTextConfig(**{**spec[part], **own}), folder / part)
            tokenizer = part.replace("text_encoder", "tokenizer")
            shutil.copytree(HOME / "tokenizer", folder / tokenizer)
            classes |= {part: ["transformers", cls.__name__],
                        tokenizer: ["transformers", "CLIPTokenizer"]}
    DDIMScheduler(**spec["scheduler"], clip_sample=False, steps_offset=1).save_pretrained(
        folder / "scheduler")
    classes |= {"vae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": PIPELINES[name], **classes}), encoding="utf-8")


def _save(cls: Any, config: Any, folder: Path) -> None:
    with torch.device("meta"):
        model = cls.from_config(config) if isinstance(config, dict) else cls(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.02)
        else:
            parameter.data.fill_(1)
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--model", choices=PIPELINES, default="sd-1.5")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--images", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.models / args.model).exists():
        writer = multiprocessing.get_context("spawn").Process(
            target=write, args=(args.model, args.models / args.model))
        writer.start()  # its memory is not that of an extraction
        writer.join()
    with tempfile.TemporaryDirectory() as temp:
        home, clock = Path(temp), Clock()
        roots = Roots(home / "data", args.models, home / "stores", home / "runs")
        images(roots.data / "images", args.images)
        manifest = Manifest.model_validate({
            "dataset": {"name": "folder", "root": "images"},
            "model": {"source": args.model, "size": args.size, "dtype": args.dtype},
            "conv": {"plain": {"prompt": "a photo"}}, "store": {"batch": 1}})
        loaded = Loaded(path=home / "m.yaml", manifest=manifest)
        store = extract(Workspace(loaded, roots, progress=clock)).store
        print(json.dumps({
            "model": args.model, "size": args.size, "dtype": args.dtype, "images": args.images,
            "processor_s an image": round(clock.processor / args.images, 1),
            "wall_s an image": round(clock.wall / args.images, 1),
            "peak_GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 1),
            "GB for 1,000 images": round(size_of(store) / args.images / 1e6, 2),
        }, indent=2))


if __name__ == "__main__":
    main()
