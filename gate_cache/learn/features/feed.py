"""What training makes of whole samples, on its device: read ahead in its order, held in bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, tee
from typing import Any, Generic, TypeVar

import torch

from gate_cache.learn.features.layout import Maps
from gate_cache.learn.features.samples import SampleReader

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Feed(Generic[Key, Value]):
    """Values of a store's samples by key.

    Parameters
    ----------
    reader : of the samples; several feeds may share it
    row : of a key
    make : key and maps on the device to a value that shares no memory with them
    size : of a value, in bytes
    device : where values are made
    bound : bytes of values held there
    """

    def __init__(self, reader: SampleReader, row: Callable[[Key], int],
                 make: Callable[[Key, Maps], Value], size: Callable[[Value], int],
                 device: torch.device, bound: int) -> None:
        self.device = device
        self._reader, self._row, self._make = reader, row, make
        self._recent: LRUCache[Value] = LRUCache(self._read, size, bound)

    def __call__(self, key: Key) -> Value:
        """The value of one key.

        Raises
        ------
        StoreError
            Its sample is damaged, or (RowNotDone) not extracted.
        """
        if (value := self._recent.held(key)) is not None:
            return value
        return self._recent.keep(key, self._read(key))

    def stream(self, keys: Iterable[Key]) -> Generator[Value]:
        """Values in this order, whose samples are read ahead unless they are held."""
        now, ahead = tee(keys)
        waiting, held = deque[Key](), deque[Value]()

        def rows() -> Iterator[int]:
            for key in ahead:
                waiting.append(key)
                yield self._row(key)

        def skip(_: int) -> bool:
            value = self._recent.held(waiting.popleft())
            if value is not None:
                held.append(value)
            return value is not None

        with closing(self._reader.stream(rows(), skip)) as samples:
            for key, sample in zip(now, samples, strict=False):
                if sample is None:
                    yield held.popleft()
                    continue
                try:  # twice among those that were read ahead: the first has made it
                    value = self._recent.held(key)
                    if value is None:
                        made = self._make(key, sample.maps(self.device))
                        value = self._recent.keep(key, made)
                finally:
                    self._reader.release(sample)
                yield value

    def _read(self, key: Key) -> Value:
        with self._reader.sample(self._row(key)) as sample:
            return self._make(key, sample.maps(self.device))


def batched(stream: Callable[[Iterable[Key]], Generator[Value]],
            batches: Iterable[Sequence[Key]]) -> Generator[list[Value]]:
    """Values of batches of keys, read ahead across them."""
    now, ahead = tee(batches)
    with closing(stream(chain.from_iterable(ahead))) as values:
        for keys in now:
            yield list(islice(values, len(keys)))


class LRUCache(Generic[Value]):
    """The most recently used values, up to a bound in bytes.

    Parameters
    ----------
    make : key to value, called where the value is not held
    size : value to bytes
    bound : bytes held at most (one value is always held)
    """

    def __init__(self, make: Callable[[Any], Value], size: Callable[[Value], int],
                 bound: int) -> None:
        self._make = make
        self._size = size
        self._bound = bound
        self._held: OrderedDict[Any, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def __call__(self, key: Any) -> Value:
        """The value of a key, held or made; by one thread at a time."""
        with self._lock:
            value = self.held(key)
            return self.keep(key, self._make(key)) if value is None else value

    def held(self, key: Any) -> Value | None:
        """The value of a key, if it is held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: Any, value: Value) -> Value:
        """Hold a value; those that were not used for longest go beyond the bound."""
        with self._lock:
            if key in self._held:
                self._bytes -= self._size(self._held.pop(key))
            self._held[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._bound and len(self._held) > 1:
                self._bytes -= self._size(self._held.popitem(last=False)[1])
            return value
