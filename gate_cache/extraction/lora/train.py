"""``lora``: train a LoRA on a few of a data set's images, for the manifest's model (paper, A.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from gate_cache.core.errors import ModelError
from gate_cache.core.fingerprint import Recipe
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Progress, Silent
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.captions import Captions, read_captions
from gate_cache.datasets.common.images import Pixels
from gate_cache.datasets.common.model_input import model_input
from gate_cache.diffusion.lora.adapter import Adapter
from gate_cache.diffusion.lora.training import LoraSettings, LoraTrainer
from gate_cache.diffusion.models import loading
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.layouts import SD
from gate_cache.diffusion.models.sources import ModelFiles, locate
from gate_cache.extraction.caption import captions_path
from gate_cache.extraction.lora.files import LoraFiles, output_files, refuse_existing
from gate_cache.extraction.lora.images import TrainingImage, training_images
from gate_cache.manifest.load import Loaded
from gate_cache.store.places.disk import disk_errors
from gate_cache.workspace.data_root import told_dataset
from gate_cache.workspace.device import choose_device, out_of_memory

SAY_EVERY = 50
CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class TrainedLora:
    """What a training left.

    Attributes
    ----------
    paths : steps to the LoRAs' files, ascending
    source : what a manifest calls the last one
    images : trained on
    loss : mean of the last steps of this run; None if it had none to do
    """

    paths: dict[int, Path]
    source: str
    images: int
    loss: float | None


def train_lora(loaded: Loaded, roots: Roots, settings: LoraSettings, *, images: int = 30,
               steps: int = 1000, save_at: Sequence[int] = (), out: str | None = None,
               captions: str | None = None, device: str | None = None, force: bool = False,
               progress: Progress | None = None) -> TrainedLora:
    """Train a LoRA, or go on where a training was interrupted: the result is the same.

    Parameters
    ----------
    images : of the training split, chosen at random
    save_at : earlier steps whose LoRAs are wanted too, as ``<out>-<step>.safetensors``
    out : the file, below the models root; by default ``<manifest>-lora.safetensors``
    captions : the captions file, below the data root; by default the manifest's, else that of
        `caption`, if it is there
    force : write over files that exist

    Raises
    ------
    UserError
        Something is missing, in the way or full; the last checkpoint is kept.
    """
    show = progress or Silent()
    source = out or f"{loaded.path.stem}-lora.safetensors"
    outputs = output_files(roots.below("models", source, "--out"), steps, save_at)
    if not force:
        refuse_existing(outputs[steps])
    dataset = told_dataset(loaded, roots, show)
    known = _captions(loaded, roots, captions)
    chosen = training_images(dataset, images, settings.seed, known, show)
    model, spec = _need_model(loaded, roots), loaded.manifest.model
    files = LoraFiles(outputs, _recipe(model, loaded, settings, chosen))
    if not force:
        files.refuse_strange()
    then = "and run the same command again; the last checkpoint is kept"
    with disk_errors(outputs[steps], "--out", then), out_of_memory("a smaller --batch or --rank"):
        show.say(f"loading {model.source}")
        backbone = loading.load(model, choose_device(device), torch.float32)
        preprocessing = Preprocessing.of(spec, model.size(spec.size))
        latents = _latents(backbone, lambda i: model_input(dataset, i, preprocessing), chosen, show)
        tokens = _tokens(backbone, chosen, show)
        backbone = _cast(backbone, _compute(loaded))
        adapter = Adapter(backbone, settings.rank, settings.alpha, settings.seed,
                          settings.text_lr > 0)
        trainer = LoraTrainer(backbone, adapter, latents, tokens, settings)
        files.resume(trainer)
        loss = _train(files, adapter, trainer, show)
    return TrainedLora(outputs, source, len(chosen), loss)


def _captions(loaded: Loaded, roots: Roots, given: str | None) -> Captions | None:
    path = captions_path(loaded, roots, given, "--captions")
    asked = given or loaded.manifest.captions
    return read_captions(path) if asked or path.exists() else None


def _need_model(loaded: Loaded, roots: Roots) -> ModelFiles:
    """The model alone: the manifest's combos may use the very LoRA that is to be trained."""
    files = locate(loaded.manifest.model, roots, download=True)
    if files is None:
        raise ModelError(f"{loaded.manifest.model.source}: not on this machine")
    if files.kind is not SD:
        raise ModelError(f"{files.source}: a {files.title}; LoRAs are trained here for Stable"
                         " Diffusion 1.x and 2.x only; extract can use one that was trained"
                         " elsewhere, if the model takes text")
    return files


def _recipe(files: ModelFiles, loaded: Loaded, settings: LoraSettings,
            chosen: list[TrainingImage]) -> Recipe:
    spec = loaded.manifest.model
    return {
        "kind": "lora", "weights": files.weights, "schedule": files.schedule(),
        "size": files.size(spec.size), "fit": spec.fit, "settings": asdict(settings),
        **Preprocessing.of(spec, 0).recipe,
        "compute": str(_compute(loaded)).removeprefix("torch."),
        "images": {i.id: {"sha256": i.sha256, "sentence": i.sentence} for i in chosen},
    }


def _compute(loaded: Loaded) -> torch.dtype:
    """What the frozen weights compute in; in float16 gradients would vanish."""
    return torch.float32 if loaded.manifest.model.dtype == "float32" else torch.bfloat16


@torch.no_grad()
def _latents(model: Backbone, read: Callable[[str], Pixels], chosen: list[TrainingImage],
             show: Progress) -> torch.Tensor:
    """(N, 4, h, w) float32, on the CPU; the VAE runs once an image."""
    found = []
    with show.task("encoding", len(chosen), "images") as task:
        for image in chosen:
            found.append(model.encode(torch.from_numpy(read(image.id)[None])).cpu())
            task.advance()
    return torch.cat(found)


def _tokens(model: Backbone, chosen: list[TrainingImage], show: Progress) -> torch.Tensor:
    """(N, 3, 77) token ids; of a caption over 75 tokens the first 75, and that is said."""
    pieces = [[model.tokens.encode(c).ids for c in image.captions] for image in chosen]
    cut = sum(any(len(ids) > 1 for ids in captions) for captions in pieces)
    if cut:
        show.say(f"note: captions of {cut} images are longer than 75 tokens and are cut there")
    return torch.tensor([[ids[0] for ids in captions] for captions in pieces])


def _cast(model: Backbone, dtype: torch.dtype) -> Backbone:
    """The model without its VAE, in the dtype it computes in."""
    model.unet.to(dtype)
    model.text_encoder.to(dtype)
    return replace(model, vae=None, dtype=dtype)


def _train(files: LoraFiles, adapter: Adapter, trainer: LoraTrainer,
           show: Progress) -> float | None:
    """Train to the last step; return the mean loss of the last steps."""
    if trainer.step:
        show.say(f"going on at step {trainer.step}")
    losses: list[float] = []
    files.write(adapter, trainer.step)
    with show.task("training", files.steps - trainer.step, "steps") as task:
        while trainer.step < files.steps:
            losses = [*losses[1 - SAY_EVERY :], trainer.advance()]
            task.advance()
            if trainer.step % SAY_EVERY == 0 or trainer.step == files.steps:
                show.say(f"step {trainer.step}: loss {_mean(losses):.4f}")
            files.write(adapter, trainer.step)
            if trainer.step % CHECKPOINT_EVERY == 0 and trainer.step < files.steps:
                files.keep(trainer)
    files.forget()
    return _mean(losses) if losses else None


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)
