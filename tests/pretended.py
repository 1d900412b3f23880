"""Pretended CUDA devices: memory of the CPU whose tensors say ``cuda:0``. No GPU, no compiler.

Values are real, so results must equal the CPU's. Operations that mix devices raise, as CUDA's do;
what makes the host wait for a device is counted with its place in the package. A copy to the host
that does not block arrives when it is waited for, and no sooner: until then its target holds noise.
Random numbers on a device come from a generator of that device.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
Kinds = Counter[tuple[str, str]]
"""What waited and where (``file:function``) to how often."""

_INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default,
            aten.index_put_.default, aten._index_put_impl_.default}
_READ = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
_DATA_DEPENDENT = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
                   aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
                   aten.repeat_interleave.Tensor}


class OnDevice(torch.Tensor):
    """A tensor that says it is on a device, and holds one of the CPU."""

    held: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> OnDevice:
        found: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device="meta")  # autograd knows it
        found.held = held
        found.place = device
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None,
                   **more: Any) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **more)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _PRESENT, "a tensor has outlived its device"
        return _PRESENT[-1].run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r}, {self.device})"

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().to("cpu").numpy()
        raise TypeError(f"can't convert {self.place} device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(self._index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(self._index(index), value)

    def _index(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(map(self._index, index))
        if isinstance(index, (list, range)) or type(index).__name__ == "ndarray":
            return _to(torch.as_tensor(index), self.place)
        return index

    def tolist(self) -> Any:
        """Not an operation of torch's dispatcher."""
        _PRESENT[-1].waits("read")
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("tensors of a device must not be written as they are")


_PRESENT: list[Device] = []


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.Tensor.to`, which asks a library that is not there for the index of ``cuda``."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, late, layout = torch._C._nn._parse_to(*args, **kwargs)
    there = tensor.device if device is None else _indexed(device)
    if there == tensor.device and dtype in (None, tensor.dtype) and not layout and not copy:
        return tensor
    more = {"memory_format": layout} if layout else {}
    if isinstance(tensor, OnDevice) and there.type == "cuda":
        device = None if there == tensor.device else there
    else:
        device = there
    return _MOVE(tensor, device=device, dtype=dtype, non_blocking=late, copy=copy, **more)


_MOVE = torch.Tensor.to


class _Mode(TorchDispatchMode):
    """Sends what makes tensors on a device there; one for each thread."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __enter__(self) -> Any:
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=) makes, then moves
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.run(func, args, kwargs or {})


class Device:
    """All devices of a kind, and what was counted.

    Attributes
    ----------
    waited : all that made the host wait
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.waited: Kinds = Counter()
        self._lock = threading.RLock()
        self._states: dict[int, torch.Tensor] = {}
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Of the generators of all devices."""
        for number in range(self.count):
            self._states[number] = torch.Generator().manual_seed(seed + 1).get_state()

    def state(self, device: Any = 0) -> torch.Tensor:
        """Of a device's generator."""
        return self._states[_number(device)].clone()

    def set_state(self, state: torch.Tensor, device: Any = 0) -> None:
        """As `torch.cuda.set_rng_state`."""
        assert state.device.type == "cpu"
        self._states[_number(device)] = state.clone()

    def waits(self, kind: str) -> None:
        """The host waits for a device, here."""
        with self._lock:
            self.waited[kind, _place()] += 1

    def taken(self) -> Kinds:
        """What was counted since the last call."""
        with self._lock:
            found, self.waited = self.waited, Counter()
        return found

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation, as a device does it."""
        if func._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
                func.name(), "CompositeImplicitAutograd"):
            with _Mode(self):
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in leaves if isinstance(t, OnDevice)]
        asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if not there and (asked is None or asked.type != "cuda"):
            return func(*args, **{k: v for k, v in kwargs.items() if k != "pin_memory"})
        if asked and asked.type == "meta":
            asked = None
        place = _indexed(asked) if asked else there[0].device
        if func is aten.copy_.default:
            return self._copy(args[0], args[1], kwargs.get("non_blocking", len(args) > 2))
        if func is aten._to_copy.default:
            return self._moved(func, leaves[0], place, kwargs)
        self.refuse_mixed(func, leaves, args)
        self._count(func, leaves)
        return self._computed(func, args, kwargs, there, place)

    def _computed(self, func: Any, args: Any, kwargs: Any, there: list[OnDevice],
                  place: torch.device) -> Any:
        plain = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        if "device" in plain:
            plain["device"] = torch.device("cpu")
        with self._random(func, place):
            found = func(*tree_map(_held, args), **tree_map(_held, plain))
        known = {id(t.held): t for t in there}
        for tensor in there:
            if tensor.size() != tensor.held.size() or tensor.stride() != tensor.held.stride():
                raise AssertionError(f"{func}: changes the shape in place, which is not pretended")
        if place.type == "cpu":
            return found

        def back(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else OnDevice(value, place)
        return tree_map(back, found)

    @contextmanager
    def _random(self, func: Any, place: torch.device) -> Iterator[None]:
        if torch.Tag.nondeterministic_seeded not in func.tags or place.type == "cpu":
            yield
            return
        with self._lock:
            before = torch.get_rng_state()
            torch.set_rng_state(self.state(place))
            try:
                yield
            finally:
                self.set_state(torch.get_rng_state(), place)
                torch.set_rng_state(before)

    def _moved(self, func: Any, source: torch.Tensor, place: torch.device, kwargs: Any) -> Any:
        late = bool(kwargs.get("non_blocking"))
        rest = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory",
                                                              "non_blocking")}
        values = func(_held(source), **rest)
        if source.device == place:
            return OnDevice(values, place)
        if place.type == "cpu":
            into = torch.empty_like(values)
            return self._to_host(into, values, late)
        if not late:
            self.waits("to the device" if source.device.type == "cpu" else "between devices")
        return OnDevice(values.clone() if values is source else values, place)

    def _copy(self, into: torch.Tensor, source: torch.Tensor, late: bool) -> torch.Tensor:
        values = _held(source)
        if isinstance(source, OnDevice) and not isinstance(into, OnDevice):
            return self._to_host(into, values, late)
        if into.device != source.device and source.dim() + into.dim() > 0 and not late:
            self.waits("to the device")
        _held(into).copy_(values)
        return into

    def _to_host(self, into: torch.Tensor, values: torch.Tensor, late: bool) -> torch.Tensor:
        if not late:
            self.waits("to the host")
            return into.copy_(values)
        into.fill_(float("nan") if into.is_floating_point() else 85)
        values = values.clone()
        Stream.now().waiting.append(lambda: into.copy_(values))
        return into

    def refuse_mixed(self, func: Any, leaves: list[torch.Tensor], args: Any) -> None:
        """Raise as CUDA does where tensors of several devices meet."""
        if func is aten.record_stream.default:
            return
        places = {t.device for t in leaves if t.dim()}
        if func in _INDEXED and isinstance(args[0], OnDevice):
            indices = [t for t in args[1] if t is not None and t.device.type == "cpu"]
            if indices:
                self.waits("index from the host")
            places = {t.device for t in leaves if t.dim() and not any(t is i for i in indices)}
        if len(places) > 1:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least"
                               f" two devices, {' and '.join(sorted(map(str, places)))}! ({func})")

    def _count(self, func: Any, leaves: list[torch.Tensor]) -> None:
        if func in _READ:
            self.waits("read")
        elif func in _DATA_DEPENDENT:
            self.waits("shape from data")
        elif func in _INDEXED and any(t.dtype in (torch.bool, torch.uint8) for t in leaves[1:]):
            self.waits("mask as an index")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _number(device: Any) -> int:
    return device if isinstance(device, int) else torch.device(device).index or 0


def _indexed(device: torch.device) -> torch.device:
    return device if device.type != "cuda" else torch.device("cuda", device.index or 0)


def _place() -> str:
    """The nearest function of the package, or of a test."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        if "/gate_cache/" in name and "site-packages" not in name:
            return f"{name.rsplit('/gate_cache/', 1)[1]}:{function}"
        if "/tests/test_" in name:
            return f"{name.rsplit('/', 1)[1]}:{function}"
        frame = frame.f_back
    return "?"


class Stream:
    """Work of a device in order. What it computes is there at once, copies to the host are not."""

    _current = threading.local()

    def __init__(self, *_: Any, **__: Any) -> None:
        self.waiting: list[Callable[[], object]] = []

    @classmethod
    def now(cls, *_: Any) -> Stream:
        """That this thread gives work to."""
        return getattr(cls._current, "stream", None) or _DEFAULT

    @classmethod
    @contextmanager
    def within(cls, stream: Stream) -> Iterator[None]:
        """As `torch.cuda.stream`."""
        before, cls._current.stream = cls.now(), stream
        try:
            yield
        finally:
            cls._current.stream = before

    def finish(self, count: int | None = None) -> None:
        """Let the first copies arrive."""
        arrived = self.waiting[:count]
        self.waiting = self.waiting[len(arrived):]
        for copy in arrived:
            copy()

    def synchronize(self) -> None:
        _PRESENT[-1].waits("stream")
        self.finish()

    def wait_stream(self, other: Stream) -> None:
        pass  # what other streams compute is there

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


_DEFAULT = Stream()


class Event:
    """A point in a stream's work."""

    def __init__(self, **_: Any) -> None:
        self._copies: list[Callable[[], object]] = []
        self._stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or Stream.now()
        self._copies = list(self._stream.waiting)

    def synchronize(self) -> None:
        _PRESENT[-1].waits("event")
        if self._stream:
            self._stream.waiting = [c for c in self._stream.waiting if c not in self._copies]
        for copy in self._copies:
            copy()
        self._copies = []

    def query(self) -> bool:
        return not self._copies

    def wait(self, stream: Stream | None = None) -> None:
        pass


def _synchronize(*_: Any) -> None:
    Stream.now().synchronize()


def _enter(mode: Any) -> None:
    """`torch.inference_mode` as `torch.no_grad`: its tensors cannot become parameters."""
    mode.pretended = torch.no_grad()
    mode.pretended.__enter__()


def _attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """`F.scaled_dot_product_attention` by the CPU's kernel, as one operation."""
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in leaves if isinstance(t, OnDevice)]
    if not there or torch.is_grad_enabled():
        return _ATTENTION(*args, **kwargs)
    _PRESENT[-1].refuse_mixed(_ATTENTION, leaves, args)
    return OnDevice(_ATTENTION(*tree_map(_held, args), **tree_map(_held, kwargs)), there[0].device)


_ATTENTION = F.scaled_dot_product_attention


class _Threads:
    """Threads that begin meanwhile compute on the device as well."""

    def __init__(self, device: Device, run: Callable[[threading.Thread], None]) -> None:
        self._device = device
        self._run = run

    def __get__(self, thread: Any, _: Any) -> Callable[[], None]:
        def run() -> None:
            if not _PRESENT or _PRESENT[-1] is not self._device:
                return self._run(thread)
            with _Mode(self._device):
                torch.autograd.set_multithreading_enabled(False)
                return self._run(thread)
        return run


@contextmanager
def pretended(count: int = 1) -> Iterator[Device]:
    """So many devices while within; tensors on them must not be used afterwards."""
    device = Device(count)
    cuda: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: count, "is_initialized": lambda: True,
        "_lazy_init": lambda: None, "current_device": lambda: 0, "synchronize": _synchronize,
        "get_device_name": lambda *_: "Pretended", "is_bf16_supported": lambda *_, **__: True,
        "get_rng_state": device.state, "set_rng_state": device.set_state,
        "manual_seed_all": device.seed, "manual_seed": device.seed, "Stream": Stream,
        "Event": Event, "current_stream": Stream.now, "default_stream": lambda *_: _DEFAULT,
        "stream": Stream.within, "empty_cache": lambda: None,
        "memory_reserved": lambda *_: 1, "memory_allocated": lambda *_: 1,
        "max_memory_allocated": lambda *_: 1, "reset_peak_memory_stats": lambda *_: None,
        "mem_get_info": lambda *_: (1 << 34, 1 << 34)}
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(F, "scaled_dot_product_attention", _attention)
        inference = torch.autograd.grad_mode.inference_mode
        patch.setattr(inference, "__enter__", _enter)
        patch.setattr(inference, "__exit__", lambda mode, *error: mode.pretended.__exit__(*error))
        patch.setattr(torch.Tensor, "to", _to)
        patch.setattr(torch.Tensor, "cuda", lambda t, *a, **k: _to(t, torch.device("cuda"), **k))
        patch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)
        patch.setattr(torch.Tensor, "record_stream", lambda *_: None)
        patch.setattr(threading.Thread, "run", _Threads(device, threading.Thread.run))
        _PRESENT.append(device)
        try:
            with _Mode(device), torch.autograd.set_multithreading_enabled(False):
                yield device
        finally:
            _PRESENT.pop()
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
