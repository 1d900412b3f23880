"""``lora``: train a LoRA on a few of a data set's images, for the manifest's model (paper, A.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from gate_cache.core.errors import ModelError, counted
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.datasets.common.captions import Captions, read_captions
from gate_cache.datasets.common.model_input import model_input
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.models import loading
from gate_cache.diffusion.models.layouts import SD
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.extraction.captions.caption import captions_path
from gate_cache.extraction.lora.files import LoraFiles, LoraOutput, refuse_existing
from gate_cache.extraction.lora.images import TrainingImage, training_images
from gate_cache.extraction.lora.trainer import Adapter, LoraSettings, LoraTrainer
from gate_cache.extraction.passes import need_whole
from gate_cache.store.places.disk import disk_errors
from gate_cache.workspace.device import out_of_memory

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.images import Pixels
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.workspace.workspace import Workspace

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


def train_lora(work: Workspace, settings: LoraSettings, output: LoraOutput, *, images: int = 30,
               captions: str | None = None) -> TrainedLora:
    """Train a LoRA, or go on where a training was interrupted: the result is the same.

    Parameters
    ----------
    work : the manifest on this machine
    settings : all that decides the weights, but the images and the number of steps
    output : how many steps, and the files they leave
    images : of the training split, chosen at random
    captions : the captions file, below the data root; by default the manifest's, else that of
        `caption`, if it is there

    Raises
    ------
    UserError
        Something is missing, in the way or full; the last checkpoint is kept.
    """
    show, force = work.progress, output.force
    source = output.out or f"{work.loaded.path.stem}-lora.safetensors"
    need_whole(work)
    outputs = output.files(work.roots.below("models", source, "--out"))
    last = outputs[output.steps]
    if not force:
        refuse_existing(last)
    dataset = work.dataset()
    known = _captions(work, captions)
    chosen = training_images(dataset, images, settings.seed, known, show)
    model, spec = _need_model(work), work.manifest.model
    files = LoraFiles(outputs, _recipe(model, work, settings, chosen))
    if not force:
        files.refuse_strange()
    then = "and run the same command again; the last checkpoint is kept"
    with disk_errors(last, "--out", then), out_of_memory("a smaller --batch or --rank"):
        show.say(f"loading {model.source}")
        backbone = loading.load(model, work.torch_device(), torch.float32)
        preprocessing = model.preprocessing(spec)
        latents = _latents(backbone, lambda i: model_input(dataset, i, preprocessing), chosen, show)
        tokens = _tokens(backbone, chosen, show)
        backbone = _cast(backbone, _compute(work))  # after the VAE, whose latents are float32
        adapter = Adapter(backbone, settings.rank, settings.alpha, settings.seed,
                          settings.text_lr > 0)
        trainer = LoraTrainer(backbone, adapter, latents, tokens, settings)
        files.resume(trainer)
        loss = _train(files, adapter, trainer, show)
    return TrainedLora(outputs, source, len(chosen), loss)


def _captions(work: Workspace, file: str | None) -> Captions | None:
    path = captions_path(work, file, "--captions")
    named = file or work.manifest.captions
    return read_captions(path) if named or path.exists() else None


def _need_model(work: Workspace) -> ModelFiles:
    """The model alone: the manifest's combos may use the very LoRA that is to be trained."""
    files = locate(work.manifest.model, work.roots, download=True)
    if files is None:
        raise ModelError(f"{work.manifest.model.source}: not on this machine")
    if files.kind is not SD:
        raise ModelError(f"{files.source}: a {files.title}; LoRAs are trained here for Stable"
                         " Diffusion 1.x and 2.x only; extract can use one that was trained"
                         " elsewhere, if the model takes text")
    return files


def _recipe(files: ModelFiles, work: Workspace, settings: LoraSettings,
            chosen: list[TrainingImage]) -> Recipe:
    spec = work.manifest.model
    return {
        "kind": "lora", "weights": files.weights, "schedule": files.schedule(),
        "size": files.preprocessing(spec).size.sides, "fit": spec.fit, "settings": asdict(settings),
        **Preprocessing.of(spec).recipe,
        "compute": str(_compute(work)).removeprefix("torch."),
        "images": {i.id: {"sha256": i.sha256, "sentence": i.sentence} for i in chosen},
    }


def _compute(work: Workspace) -> torch.dtype:
    """What the frozen weights compute in; in float16 gradients would vanish."""
    return torch.float32 if work.manifest.model.dtype == "float32" else torch.bfloat16


@torch.no_grad()
def _latents(model: Backbone, read: Callable[[str], Pixels], chosen: list[TrainingImage],
             show: Progress) -> torch.Tensor:
    """(N, 4, h, w) float32, on the CPU; the VAE runs once an image."""
    latents = []
    with show.task("encoding", len(chosen), "images") as task:
        for image in chosen:  # one by one: in another batch size the last bits are others
            latents.append(model.encode(torch.from_numpy(read(image.id)[None])).cpu())
            task.advance()
    return torch.cat(latents)


def _tokens(model: Backbone, chosen: list[TrainingImage], show: Progress) -> torch.Tensor:
    """(N, 3, 77) token ids; of a caption over 75 tokens the first 75, and that is said."""
    pieces = [[model.tokens.encode(c).ids for c in image.captions] for image in chosen]
    cut = sum(any(len(ids) > 1 for ids in captions) for captions in pieces)
    if cut:
        show.say(f"note: captions of {counted(cut, 'image')} are longer than 75 tokens and are"
                 " cut there")
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
        show.say(f"resuming at step {trainer.step}")
    losses: list[float] = []
    files.write(adapter, trainer.step)  # that of the checkpoint may be a step that is asked for
    with show.task("training", files.steps - trainer.step, "steps") as task:
        while trainer.step < files.steps:
            losses = [*losses[1 - SAY_EVERY :], trainer.advance()]
            task.advance()
            if trainer.step % SAY_EVERY == 0 or trainer.step == files.steps:
                show.say(f"step {trainer.step}: loss {fmean(losses):.4f}")
            files.write(adapter, trainer.step)
            if trainer.step % CHECKPOINT_EVERY == 0 and trainer.step < files.steps:
                files.keep(trainer)
    files.forget()
    return fmean(losses) if losses else None
