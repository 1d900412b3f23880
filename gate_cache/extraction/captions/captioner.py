"""An automatic captioner of the transformers library: BLIP, Kosmos-2 and the like (paper, A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from gate_cache.core.errors import ModelError
from gate_cache.core.hub import from_hub
from gate_cache.core.memory import is_full
from gate_cache.core.weights import weight_files
from gate_cache.diffusion.files.unread import check_read

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots

REVISIONS = {"Salesforce/blip-image-captioning-base": "refs/pr/38"}
"""Where a hub repository's main branch has pickled weights only, a revision with safetensors."""
PROMPTS = {"kosmos-2": "<grounding>An image of"}
"""Prompts by model type; other models caption without one."""
MOST_TOKENS = 64  # of a caption
EXPECTED = ("expected a captioner of the transformers library: config.json, *.safetensors,"
            " preprocessor_config.json or processor_config.json, and tokenizer.json, vocab.json or"
            " vocab.txt")
_FILES = ["*.json", "*.txt", "model*.safetensors"]
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


class Captioner:
    """A captioning model with its processor, on a device; made by `open_captioner`."""

    def __init__(self, source: str, model: Any, processor: Any, device: torch.device) -> None:
        self._source = source
        self._model = model
        self._processor = processor
        self._device = device
        self._prompt = PROMPTS.get(model.config.model_type)

    @torch.inference_mode()
    def captions(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
        """One sentence for each (h, w, 3) uint8 RGB image, the likeliest token at each step.

        `ModelError` where the model is not a captioner, such as one that needs a prompt.
        """
        try:
            prompts = {"text": [self._prompt] * len(images)} if self._prompt else {}
            inputs = self._processor(images=list(images), return_tensors="pt", **prompts)
            tokens = self._model.generate(**inputs.to(self._device), max_new_tokens=MOST_TOKENS,
                                          do_sample=False)
        except Exception as error:
            if is_full(error):  # which a smaller batch mends; all else is the model's fault
                raise
            raise ModelError(f"{self._source}: cannot caption images: {_short(error)}") from error
        return [self._sentence(text) for text in
                self._processor.batch_decode(tokens, skip_special_tokens=True)]

    def _sentence(self, text: str) -> str:
        """A model's answer on one line, without its marks of places in the image (Kosmos-2)."""
        if self._prompt:
            text, _ = self._processor.post_process_generation(text)
        return " ".join(text.split())


def find_captioner(source: str, revision: str | None, roots: Roots) -> Path:
    """The folder of a captioner: below the models root, or fetched by its hub id.

    Parameters
    ----------
    source : folder below the models root, or hub id
    revision : of the hub repository; None for the one of `REVISIONS`, else its main branch

    Raises
    ------
    ModelError
        It is at neither place, or has no safetensors.
    """
    folder = roots.below("models", source, "--model")
    if not folder.is_dir():
        try:
            snapshot = from_hub(source, revision or REVISIONS.get(source), _FILES, _is_whole,
                                download=True)
        except ModelError as error:
            raise ModelError(f"{error}; {EXPECTED}") from error
        assert snapshot is not None  # with download it is fetched or refused
        folder = snapshot
    weight_files(folder, None)  # which refuses what is pickled
    return folder


def _is_whole(folder: Path) -> bool:
    return _has_words(folder) and any(folder.glob("*.safetensors"))


def _has_words(folder: Path) -> bool:
    """Whether there is a vocabulary; without one, transformers makes up a tokenizer of no words."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def open_captioner(source: str, folder: Path, device: torch.device) -> Captioner:
    """Load a captioner from its folder, in float32.

    `ModelError` where files are missing, weights do not fill the model, or it would run own code.
    """
    transformers_logging.set_verbosity_error()  # what does not fit is refused below
    transformers_logging.disable_progress_bar()
    if not _has_words(folder):
        raise ModelError(f"{folder}: no vocabulary here; {EXPECTED}")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **local)
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **local)
    except Exception as error:
        raise ModelError(f"{folder}: cannot be loaded as a captioner ({_short(error)});"
                         f" {EXPECTED}") from error
    check_read(folder, type(model).__name__, info["missing_keys"], info["unexpected_keys"])
    return Captioner(source, model.to(device).eval(), processor, device)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
