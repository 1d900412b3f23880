"""What was used last, held within a bound in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


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
