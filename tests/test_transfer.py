"""Maps on their way from the device: to the bit as numpy stores them, and never read too early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from gate_cache.extraction.transfer import Buffers, HostMemory, Move, Transfer
from gate_cache.extraction.transfer import encode as on_the_device
from gate_cache.store.format.codes import DoesNotFit, encode
from gate_cache.store.format.encodings import Encoding

SHAPE = (3, 5, 4, 6)
ENCODINGS = [Encoding("float16"), Encoding("float16", 3), Encoding("float32"),
             Encoding("float32", 12), Encoding("bfloat16"), Encoding("int8")]


def values(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """All sizes that float16 holds, subnormal ones included, zeros of both signs, equal ones."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(SHAPE, generator=generator)
    found *= 2.0 ** torch.randint(-26, 14, SHAPE, generator=generator)
    found[0, 0] = 0
    found[0, 1] = -0.0
    found[0, 2] = 1e-42  # a scale below the least normal number
    found[1, 0] = torch.arange(24).view(4, 6) + 0.5  # ties
    return found.to(dtype)


def moved(encoding: Encoding, maps: torch.Tensor, transfer: Transfer,
          memory: HostMemory) -> tuple[Buffers, Callable[[], bool]]:
    """Memory that a map's rows were moved into, and what waits for it."""
    parts = {part.suffix: part for part in encoding.parts(SHAPE[1:])}
    block = memory.take(parts, len(maps))
    return block, transfer.start(encoding, [Move(maps, block.tensors)])


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_encoding_is_numpys_to_the_bit(encoding: Encoding, dtype: torch.dtype,
                                             layout: torch.memory_format) -> None:
    maps = values(dtype).contiguous(memory_format=layout)
    wanted = encode(encoding, maps.float().numpy())
    block, there = moved(encoding, maps, Transfer(torch.device("cpu")), HostMemory(False))
    assert there()
    beside = on_the_device(encoding, maps)  # as on a GPU, where nothing is cast while it is copied
    for suffix, array in wanted.items():
        assert block.arrays[suffix].dtype == array.dtype
        assert block.arrays[suffix].tobytes() == array.tobytes()
        assert beside[suffix].is_contiguous()
        assert beside[suffix].view(torch.uint8).numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3.39e38])
def test_what_does_not_fit_is_told(encoding: Encoding, wrong: float) -> None:
    maps = values()
    maps[2, 4, 3, 5] = wrong
    if np.isfinite(wrong):
        try:
            encode(encoding, maps.numpy())
            fits = True
        except DoesNotFit:
            fits = False
    else:
        fits = False
    _, there = moved(encoding, maps, Transfer(torch.device("cpu")), HostMemory(False))
    assert there() == fits


class Late:
    """A stand-in for CUDA whose copies run when an event is waited for, and not before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[Callable[[], object]] = []
        self.said: list[str] = []
        copy, empty = torch.Tensor.copy_, torch.empty

        def copy_(into: torch.Tensor, source: torch.Tensor,
                  non_blocking: bool = False) -> torch.Tensor:
            if not non_blocking:
                return copy(into, source)
            self.said.append("copy")
            self.waiting.append(lambda: copy(into, source))
            return into

        monkeypatch.setattr(torch.Tensor, "copy_", copy_)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
        monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
        monkeypatch.setattr(torch.cuda, "Stream", lambda *_: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: "the model's")
        monkeypatch.setattr(torch.cuda, "stream", self._inside)

    @contextmanager
    def _inside(self, stream: Any) -> Iterator[None]:
        assert stream is self
        self.said.append("inside")
        yield

    def wait_stream(self, other: str) -> None:
        self.said.append(f"after {other}")

    def record(self, stream: Any) -> None:
        self.said.append("event")

    def synchronize(self) -> None:
        for run in self.waiting:
            run()
        self.waiting.clear()


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_copies_run_beside_the_model_and_are_waited_for(
        encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(monkeypatch)
    block, there = moved(encoding, values(), Transfer(torch.device("cuda")), HostMemory(True))
    parts = len(block.arrays)
    assert late.said == ["after the model's", "inside", *["copy"] * (parts + 1), "event"]
    for array in block.arrays.values():
        array.view(np.uint8)[:] = 7
    assert there()
    for suffix, array in encode(encoding, values().numpy()).items():
        assert block.arrays[suffix].tobytes() == array.tobytes()


def test_memory_is_used_again() -> None:
    memory, parts = HostMemory(False), {"a": Encoding("float16").parts((2, 3, 3))[0]}
    first, second = memory.take(parts, 4), memory.take(parts, 4)
    place = first.tensors["a"].data_ptr()
    assert second.tensors["a"].data_ptr() != place
    memory.give_back(first)
    assert memory.take(parts, 4).tensors["a"].data_ptr() == place
    assert memory.take(parts, 3).arrays["a"].shape == (3, 2, 3, 3)
