"""A cache bounded by what it holds, where some things are a thousand times as large as others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """What was asked for last, up to a weight in all. Threads may share it.

    Args:
        weight: of all values together; one that is heavier by itself is not kept.
    """

    def __init__(self, weight: int) -> None:
        self._most = weight
        self._held = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K, make: Callable[[], tuple[V, int]]) -> V:
        """The value of ``key``; ``make`` gives it and its weight where it is not held."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
                return found[0]
        value, weight = make()
        with self._lock:
            if key not in self._values and weight <= self._most:
                self._values[key] = (value, weight)
                self._held += weight
            while self._held > self._most:
                _, (_, gone) = self._values.popitem(last=False)
                self._held -= gone
        return value
