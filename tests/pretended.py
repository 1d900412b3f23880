"""Pretended CUDA devices: tensors of the CPU whose memory is noted to be on ``cuda:0``.

Python alone. A device is a note about a tensor's *storage*: views, detached copies, and what
autograd keeps share it, so that nothing of a tensor has to be wrapped, and each operation is the
CPU's own. Values are real and must equal the CPU's. Operations that mix devices raise, as CUDA's
do; what makes the host wait for a device is counted with its place in the package. A copy to the
host that does not block arrives when it is waited for, and no sooner: until then its target holds
noise. Random numbers on a device come from a generator of that device.
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
from torch._C import _functorch as functorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
CPU, ANYWHERE = torch.device("cpu"), torch.device("cpu:1")
"""The latter: what autograd begins with zeros in C++, which believes that all is on the CPU."""
Kinds = Counter[tuple[str, str]]
"""What waited and where (``file:function``) to how often."""

_INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default,
            aten.index_put_.default, aten._index_put_impl_.default}
_READ = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
_DATA_DEPENDENT = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
                   aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
                   aten.repeat_interleave.Tensor}


class _Places:
    """Which storages are on which device; all others are on the CPU."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self._most = 1024
        self._lock = threading.RLock()

    def of(self, tensor: torch.Tensor) -> torch.device:
        """Of a tensor, of whatever vmap has made of it, too."""
        while functorch.is_functorch_wrapped_tensor(tensor):
            tensor = functorch.get_unwrapped(tensor)
        real: torch.device = torch._C.TensorBase.device.__get__(tensor)
        if real != CPU or tensor.layout != torch.strided:
            return real  # meta
        known = self._places.get(tensor.untyped_storage()._cdata)
        return known[1] if known else CPU

    def put(self, tensor: torch.Tensor, place: torch.device) -> torch.Tensor:
        """Note it; the tensor itself."""
        storage = tensor.untyped_storage()
        with self._lock:
            if self._places.get(storage._cdata, (None, ANYWHERE))[1] == ANYWHERE:
                # the weak reference keeps the address from being used again
                self._places[storage._cdata] = StorageWeakRef(storage), place
            if len(self._places) > self._most:
                self._places = {k: v for k, v in self._places.items() if not v[0].expired()}
                self._most = max(1024, 2 * len(self._places))
        return tensor


_PLACES = _Places()
_PRESENT: list[Device] = []
_TENSOR: dict[str, Any] = {name: getattr(torch.Tensor, name) for name in (
    "to", "numpy", "tolist", "__reduce_ex__")}


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.Tensor.to`: torch itself believes that all is on the CPU."""
    copy = kwargs.pop("copy", False)
    if args and isinstance(args[0], torch.Tensor):
        args = (_PLACES.of(args[0]), args[0].dtype, *args[1:])
    device, dtype, late, layout = torch._C._nn._parse_to(*args, **kwargs)
    here = _PLACES.of(tensor)
    there = here if device is None else _indexed(device)
    if there != here:
        moved: torch.Tensor = _Moving.apply(tensor, there, bool(late))  # type: ignore[no-untyped-call]
        return moved if dtype is None and not layout else _to(
            moved, dtype or moved.dtype, **({"memory_format": layout} if layout else {}))
    more = {"memory_format": layout} if layout else {}
    found: torch.Tensor = _TENSOR["to"](tensor, dtype=dtype, copy=copy, **more)
    return found


class _Moving(torch.autograd.Function):
    """A copy on another device, whose gradient comes back to this one."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, there: torch.device, late: bool) -> torch.Tensor:
        ctx.here = _PLACES.of(tensor)
        with _disable_current_modes():
            return _PRESENT[-1].move(tensor, there, late)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _to(grads[0], ctx.here), None, None


class _Mode(TorchDispatchMode):
    """Sees all operations of one thread."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
                func.name(), "CompositeImplicitAutograd"):
            with self:
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return self._device.run(func, args, kwargs or {})


class Device:
    """All devices of a kind, and what was counted.

    Attributes
    ----------
    waited : all that made the host wait
    ran : operations on a device
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.waited: Kinds = Counter()
        self.ran = 0
        self._lock = threading.RLock()
        self._states: dict[int, torch.Tensor] = {}
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Of the generators of all devices."""
        for number in range(self.count):
            self._states[number] = torch.Generator().manual_seed(seed).get_state()

    def state(self, device: Any = 0) -> torch.Tensor:
        """Of a device's generator."""
        return self._states[_number(device)].clone()

    def set_state(self, state: torch.Tensor, device: Any = 0) -> None:
        """As `torch.cuda.set_rng_state`."""
        assert _PLACES.of(state) == CPU
        self._states[_number(device)] = state.clone()

    def waits(self, kind: str) -> None:
        """The host waits for a device, here."""
        with self._lock:
            self.waited[kind, _caller()] += 1

    def taken(self) -> Kinds:
        """What was counted since the last call."""
        with self._lock:
            found, self.waited = self.waited, Counter()
        return found

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation, as a device does it."""
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        place = self._place(func, args, leaves, kwargs.get("device"))
        plain = {k: v for k, v in kwargs.items() if k != "pin_memory"}
        if plain.get("device") is not None and place.type != "meta":
            plain["device"] = CPU
        if func is aten.copy_.default:
            return self._copy(args[0], args[1], kwargs.get("non_blocking", len(args) > 2))
        if func is aten._to_copy.default and {place, _PLACES.of(leaves[0])} - {
                CPU, ANYWHERE} and place != _PLACES.of(leaves[0]) and place.type != "meta":
            return self.move(func(*args, **plain), place, bool(plain.pop("non_blocking", False)),
                             _PLACES.of(leaves[0]))
        if place != ANYWHERE and place.type != "cuda":
            return func(*args, **plain)
        self._count(func, leaves)
        with self._random(func, place, kwargs.get("generator")):
            found = func(*args, **plain)
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                _PLACES.put(tensor, place)
        return found

    def _place(self, func: Any, args: Any, leaves: list[torch.Tensor], asked: Any) -> torch.device:
        """Where an operation is done."""
        if asked is None:
            return self._meet(func, args, leaves)
        place = _indexed(torch.device(asked))
        if place == CPU and torch._C._current_graph_task_id() != -1:  # not asked by this process
            return self._meet(func, args, leaves) if leaves else ANYWHERE
        return place

    def move(self, tensor: torch.Tensor, there: torch.device, late: bool,
             here: torch.device | None = None) -> torch.Tensor:
        """A copy elsewhere."""
        here = here or _PLACES.of(tensor)
        copy = torch.empty_like(tensor, device=CPU)
        if there.type == "cpu":
            return self._to_host(copy, tensor, late)
        if not late:
            self.waits("to the device" if here.type == "cpu" else "between devices")
        aten.copy_.default(copy, tensor.detach())
        return _PLACES.put(copy, there)

    def _copy(self, into: torch.Tensor, source: torch.Tensor, late: bool) -> torch.Tensor:
        here, there = _PLACES.of(source), _PLACES.of(into)
        if here.type == "cuda" and there.type == "cpu":
            return self._to_host(into, source, late)
        if here != there and source.dim() + into.dim() > 0 and not late:
            self.waits("to the device")
        return aten.copy_.default(into, source)  # type: ignore[no-any-return]

    def _to_host(self, into: torch.Tensor, source: torch.Tensor, late: bool) -> torch.Tensor:
        copied = aten.copy_.default
        if not late:
            self.waits("to the host")
            return copied(into, source)  # type: ignore[no-any-return]
        into.fill_(float("nan") if into.is_floating_point() else 85)
        values = source.detach().clone()
        Stream.now().waiting.append(lambda: copied(into, values))
        return into

    def _meet(self, func: Any, args: Any, leaves: list[torch.Tensor]) -> torch.device:
        """The device of an operation; raise as CUDA does where tensors of several meet."""
        places = {_PLACES.of(t) for t in leaves if t.dim()} - {ANYWHERE}
        if func in (aten.copy_.default, aten.record_stream.default):
            return _PLACES.of(leaves[0])
        if func in _INDEXED and _PLACES.of(args[0]).type == "cuda":
            indices = [t for t in args[1] if t is not None and _PLACES.of(t) == CPU]
            if indices:
                self.waits("index from the host")
            places = {_PLACES.of(t) for t in leaves
                      if t.dim() and not any(t is i for i in indices)} - {ANYWHERE}
        if len(places) > 1:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least"
                               f" two devices, {' and '.join(sorted(map(str, places)))}! ({func})")
        scalars = {_PLACES.of(t) for t in leaves} - {CPU, ANYWHERE}
        return next(iter(places or scalars), CPU)

    @contextmanager
    def _random(self, func: Any, place: torch.device, given: Any) -> Iterator[None]:
        self.ran += 1
        if torch.Tag.nondeterministic_seeded not in func.tags:
            yield
            return
        if given is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        with self._lock:
            before = torch.get_rng_state()
            torch.set_rng_state(self.state(place))
            try:
                yield
            finally:
                self.set_state(torch.get_rng_state(), place)
                torch.set_rng_state(before)

    def _count(self, func: Any, leaves: list[torch.Tensor]) -> None:
        if func in _READ:
            self.waits("read")
        elif func in _DATA_DEPENDENT:
            self.waits("shape from data")
        elif func in _INDEXED and any(t.dtype in (torch.bool, torch.uint8) for t in leaves[1:]):
            self.waits("mask as an index")


def _number(device: Any) -> int:
    return device if isinstance(device, int) else torch.device(device).index or 0


def _indexed(device: torch.device) -> torch.device:
    return device if device.type != "cuda" else torch.device("cuda", device.index or 0)


def _caller() -> str:
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
    autocast = torch.amp.autocast_mode.autocast.__init__
    _device_constructors()  # which torch looks up once: before one of them is patched
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)
        for name, value in _of_tensors().items():
            patch.setattr(torch.Tensor, name, value)
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, _made(getattr(torch, name)))
        patch.setattr(torch.amp.autocast_mode.autocast, "__init__", lambda self, _, *a, **k:
                      autocast(self, "cpu", *a, **k))
        patch.setattr(threading.Thread, "run", _Threads(device, threading.Thread.run))
        _PRESENT.append(device)
        try:
            with _Mode(device):
                yield device
        finally:
            _PRESENT.pop()


def _made(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor`, which makes on the CPU what it then moves."""
    def made(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        if device is None:
            return make(data, **more)
        found = data if isinstance(data, torch.Tensor) else make(data, **more)
        return _to(found, torch.device(device), more.get("dtype", found.dtype))
    return made


def _of_tensors() -> dict[str, Any]:
    """What of a tensor does not come to torch's dispatcher."""
    def read(tensor: torch.Tensor) -> Any:
        if _PLACES.of(tensor).type == "cuda":
            _PRESENT[-1].waits("read")
        return _TENSOR["tolist"](tensor)

    def numpy(tensor: torch.Tensor, *, force: bool = False) -> Any:
        place = _PLACES.of(tensor)
        if place.type == "cuda" and not force:
            raise TypeError(f"can't convert {place} device type tensor to numpy")
        return _TENSOR["numpy"](_to(tensor.detach(), CPU) if force else tensor)

    def new(tensor: torch.Tensor, data: Any, *, dtype: Any = None, device: Any = None,
            **more: Any) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or tensor.dtype, device=device or tensor.device,
                            **more)

    def likewise(name: str) -> Callable[..., torch.Tensor]:
        make = getattr(torch.Tensor, name)  # torch itself would ask for the CPU
        return lambda t, *sizes, device=None, **more: make(
            t, *sizes, device=device or t.device, **more)

    def reduce(tensor: torch.Tensor, protocol: Any) -> Any:
        if _PLACES.of(tensor).type == "cuda":
            _PRESENT[-1].waits("to the host")
        return _TENSOR["__reduce_ex__"](tensor, protocol)

    return {
        "device": property(_PLACES.of), "is_cuda": property(lambda t: t.device.type == "cuda"),
        "is_cpu": property(lambda t: t.device.type == "cpu"), "to": _to,
        "get_device": lambda t: t.device.index if t.is_cuda else -1,
        "cpu": lambda t, **k: _to(t, CPU, **k),
        "cuda": lambda t, device="cuda", **k: _to(t, torch.device(device), **k),
        "tolist": read, "numpy": numpy, "new_tensor": new, "__reduce_ex__": reduce,
        "type_as": _to, "pin_memory": lambda t, *_: t, "record_stream": lambda *_: None,
        **{n: likewise(n) for n in ("new_zeros", "new_ones", "new_empty", "new_full")}}
