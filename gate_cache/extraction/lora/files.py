"""The files of a LoRA training: what it leaves, and the checkpoint from which it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from gate_cache.core.errors import UserError
from gate_cache.core.fingerprint import Recipe, differences
from gate_cache.core.replacing import replacing

if TYPE_CHECKING:
    from gate_cache.extraction.lora.trainer import Adapter, LoraTrainer

OURS = "gate_cache"
"""Key of our own metadata in a LoRA's file: how it was trained, and for how many steps."""


def parse_steps(text: str | None) -> list[int]:
    """``500,1000`` as numbers.

    Raises
    ------
    UserError
        Something else than numbers and commas.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"--save-at {text}: expected steps with commas between, as in 500,1000"
                        ) from None


@dataclass(frozen=True)
class LoraOutput:
    """What a training is to leave.

    Attributes
    ----------
    steps : of the whole training
    save_at : earlier steps whose LoRAs are wanted too, as ``<out>-<step>.safetensors``
    out : the file, below the models root; by default ``<manifest>-lora.safetensors``
    force : write over files that exist
    """

    steps: int = 1000
    save_at: Sequence[int] = ()
    out: str | None = None
    force: bool = False

    def files(self, last: Path) -> dict[int, Path]:
        """Steps to the files that are written after them, ascending.

        Raises
        ------
        UserError
            A wrong ending, or a step that is not before the last.
        """
        if last.suffix != ".safetensors":
            raise UserError(f"--out {last.name}: give the file the ending .safetensors")
        wrong = [s for s in self.save_at if not 0 < s < self.steps]
        if wrong:
            raise UserError(f"--save-at {wrong[0]}: expected a step before the last, which is"
                            f" {self.steps}")
        early = {s: last.with_name(f"{last.stem}-{s:06}.safetensors")
                 for s in sorted(set(self.save_at))}
        return {**early, self.steps: last}


def refuse_existing(path: Path) -> None:
    """Raise `UserError` if there is a file already."""
    if path.exists():
        raise UserError(f"{path}: exists already; give --out another name, or --force to write"
                        " over it")


class LoraFiles:
    """Where one training writes.

    Parameters
    ----------
    outputs : as `LoraOutput.files` gives them
    recipe : all that decides the weights but the number of steps
    """

    def __init__(self, outputs: dict[int, Path], recipe: Recipe) -> None:
        self.outputs = outputs
        self.steps = max(outputs)
        self._recipe = recipe
        last = outputs[self.steps]
        self._checkpoint = last.with_name(f".{last.stem}.checkpoint.safetensors")

    def refuse_strange(self) -> None:
        """Refuse files of another training: outputs, and a checkpoint to go on from.

        Raises
        ------
        UserError
            Such a file, and what differs; files that this training saved on its way are taken.
        """
        for step, path in self.outputs.items():
            if not self._is_ours(step):
                refuse_existing(path)
        why = self._differences() if self._checkpoint.exists() else []
        if why:
            raise UserError(f"{self._checkpoint}: an unfinished training that differs"
                            f" ({'; '.join(why[:3])}); finish that one as it was started, or pass"
                            " --force to start over")

    def _differences(self) -> list[str]:
        """Why the checkpoint is not one of this training, a line each."""
        text = read_metadata(self._checkpoint).get(OURS)
        if text is None:
            return ["it is not readable"]
        state = json.loads(text)
        past = [s for s in self.outputs if s < state["step"] and not self._is_ours(s)]
        return [*differences(state["recipe"], self._recipe),
                *(f"it is past step {s}, at {state['step']}" for s in past)]

    def _is_ours(self, step: int) -> bool:
        return read_metadata(self.outputs[step]).get(OURS) == self._metadata(step)

    def _metadata(self, step: int) -> str:
        return json.dumps({"recipe": self._recipe, "step": step}, sort_keys=True)

    def write(self, adapter: Adapter, step: int) -> None:
        """Write the LoRA, if it is asked for after this step."""
        if step in self.outputs:
            write_tensors(self.outputs[step], adapter.tensors(),
                          {**adapter.metadata(), OURS: self._metadata(step)})

    def keep(self, trainer: LoraTrainer) -> None:
        """Replace the checkpoint."""
        write_tensors(self._checkpoint, trainer.state(), {OURS: self._metadata(trainer.step)})

    def resume(self, trainer: LoraTrainer) -> None:
        """Go on from the checkpoint, if there is one of this training."""
        if self._checkpoint.exists() and not self._differences():
            step = json.loads(read_metadata(self._checkpoint)[OURS])["step"]
            trainer.restore(step, load_file(self._checkpoint))

    def forget(self) -> None:
        """Remove the checkpoint: all is done."""
        self._checkpoint.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor],
                  metadata: Mapping[str, str]) -> None:
    """Write a safetensors file under another name, then rename it.

    Parameters
    ----------
    tensors : contiguous, on the CPU
    """
    data = memoryview(save(dict(tensors), dict(metadata)))  # a view: tensors are not copied again
    end = 8 + int.from_bytes(data[:8], "little")
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(_sorted_header(bytes(data[8:end])))
        file.write(data[end:])


def _sorted_header(header: bytes) -> bytes:
    """A header with its keys in order: the library writes metadata in a random one."""
    text = json.dumps(json.loads(header), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors behind it are aligned, as it does
    return len(text).to_bytes(8, "little") + text


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file; none where it is not such a file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
