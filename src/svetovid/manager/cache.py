"""A cache bounded by what it holds, where some things are a thousand times as large as others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
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
        self._yielding: OrderedDict[K, None] = OrderedDict()

    def get(self, key: K) -> V | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            if key in self._yielding:
                self._yielding.move_to_end(key)
            return found[0]

    def keep(self, key: K, value: V, weight: int, *, yields: bool = False) -> None:
        """Hold ``value`` in the place of what was held under ``key``.

        Args:
            yields: it gives way before all that does not, and takes no room from that.
        """
        with self._lock:
            self._drop(key)
            if weight > self._most:
                return
            self._values[key] = (value, weight)
            self._held += weight
            if yields:
                self._yielding[key] = None
            while self._held > self._most:
                self._drop(next(iter(self._yielding or self._values)))

    def forget(self, key: K) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        _, weight = self._values.pop(key, (None, 0))
        self._yielding.pop(key, None)
        self._held -= weight
