"""What is proven of hosts' measurement logs, so that their next evidence need only carry it on.

All of it can be done without: a host whose log is not here is asked for the whole of it. So it is
bounded by the bytes of all hosts together, and those that answered longest ago go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from svetovid.evidence.ima.state import LogState

__all__ = ["ProvenLogs"]


class ProvenLogs:
    """By host. Threads may share it.

    Args:
        size: bytes that may be kept in all, as hosts sent them; in memory they take a few times it.
    """

    def __init__(self, size: int) -> None:
        self._most = size
        self._held = 0
        self._lock = threading.Lock()
        self._logs: OrderedDict[str, LogState] = OrderedDict()

    def get(self, host: str) -> LogState | None:
        with self._lock:
            return self._logs.get(host)

    def keep(self, host: str, log: LogState) -> None:
        with self._lock:
            self._drop(host)
            if log.size > self._most:
                return
            self._logs[host] = log
            self._held += log.size
            while self._held > self._most:
                self._drop(next(iter(self._logs)))

    def forget(self, host: str) -> None:
        with self._lock:
            self._drop(host)

    def _drop(self, host: str) -> None:
        log = self._logs.pop(host, None)
        if log is not None:
            self._held -= log.size
